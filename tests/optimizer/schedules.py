"""Writes schedules.inc: the rates of torch's schedules over epochs 0 to 15, two groups of lr 0.1 and 0.02.

    python tests/optimizer/schedules.py > tests/optimizer/schedules.inc
"""
import torch
import torch.optim.lr_scheduler as s


def sequential(o):
    return s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 6)], [4])


schedules = {
    "LambdaLR": lambda o: s.LambdaLR(o, lambda e: 0.95**e),
    "StepLR": lambda o: s.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: s.MultiStepLR(o, [2, 5, 5, 11], 0.1),
    "ExponentialLR": lambda o: s.ExponentialLR(o, 0.9),
    "LinearLR": lambda o: s.LinearLR(o),
    "LinearLR to 0": lambda o: s.LinearLR(o, 1.0, 0.0, 7),
    "ConstantLR": lambda o: s.ConstantLR(o, 0.25, 3),
    "PolynomialLR": lambda o: s.PolynomialLR(o, 9, 2.0),
    "CosineAnnealingLR": lambda o: s.CosineAnnealingLR(o, 6, 0.001),
    "CosineAnnealingWarmRestarts": lambda o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.002),
    "CosineAnnealingWarmRestarts, 1": lambda o: s.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: s.OneCycleLR(o, 0.5, total_steps=16),
    "OneCycleLR, three phases": lambda o: s.OneCycleLR(
        o, [0.5, 0.1], total_steps=16, pct_start=0.4, anneal_strategy="linear", three_phase=True, div_factor=10),
    "SequentialLR": sequential,
}
print(f"// Schedule, then for two groups: lr and momentum at epochs 0 to 15. torch {torch.__version__.split('+')[0]},")
print("// written by schedules.py.\n// clang-format off")
for name, make in schedules.items():
    w = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    o = torch.optim.SGD([{"params": w[:1], "lr": 0.1}, {"params": w[1:], "lr": 0.02}], momentum=0.9)
    schedule = make(o)
    rows = [[], []]
    for _ in range(16):
        for g, row in zip(o.param_groups, rows):
            row += [g["lr"], g["momentum"]]
        o.step()
        schedule.step()
    print(f'{{"{name}", {{{", ".join("{" + ", ".join(f"{v:.15g}" for v in row) + "}" for row in rows)}}}}},')
