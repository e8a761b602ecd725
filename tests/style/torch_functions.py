# Makes torch_functions.txt: the public functions of torch and torch.nn.functional. Run: python torch_functions.py > torch_functions.txt
import types

import torch
import torch.nn.functional

print("# Made by torch_functions.py with torch " + ".".join(torch.__version__.split(".")[:2]) + ".")
for name, module in (("torch", torch), ("torch.nn.functional", torch.nn.functional)):
    for function in dir(module):
        value = getattr(module, function)
        plain = callable(value) and not isinstance(value, (type, types.ModuleType))
        if plain and not function.startswith("_") and not function.endswith("_"):
            print(name, function)
