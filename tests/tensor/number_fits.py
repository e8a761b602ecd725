# Writes number_fits.inc: what torch makes of a number that a tensor's type may not hold.
import math, torch
types = ['uint8', 'int8', 'int32', 'int64', 'bool', 'float16', 'bfloat16', 'float32', 'float64']
ints = [0, 1, -1, 127, 128, -128, -129, 255, 256, -255, -256, 300, 65504, 65520, 2**31 - 1, 2**31, -2**31, -2**31 - 1, 2**40, 2**53 + 1]
reals = [0.5, -0.5, -1.5, 127.5, 255.5, 256.0, -129.0, 65504.0, 65519.0, 1e6, 2147483648.0, 1e20, 3.3895e38, 3.4e38, 3.5e38, 1e300, math.inf, -math.inf, math.nan]
def number(v):
    if isinstance(v, int): return f'{v}LL' if v > -2**63 else '0'
    return 'NAN' if v != v else ('-' if v < 0 else '') + 'INFINITY' if math.isinf(v) else repr(v)
def outcome(f):
    try: y = f()
    except RuntimeError: return 'false, 0'
    if y.dtype.is_floating_point: return 'true, ' + number(float(y.double().item()))
    return 'true, ' + number(int(y.long().item()))
print(f'// PyTorch {torch.__version__.split("+")[0]}: dtype, number, whether full, fill_ and masked_fill take it, what the element becomes.\n// Written by number_fits.py.\n// clang-format off')
names = {'uint8': 'kUInt8', 'int8': 'kInt8', 'int32': 'kInt32', 'int64': 'kInt64', 'bool': 'kBool', 'float16': 'kFloat16', 'bfloat16': 'kBFloat16', 'float32': 'kFloat32', 'float64': 'kFloat64'}
for t in types:
    d = getattr(torch, t)
    for v in ints + reals:
        x = torch.zeros(2, dtype=d)
        m = torch.tensor([True, True])
        said = {outcome(lambda: torch.full((2,), v, dtype=d)[:1]), outcome(lambda: x.clone().fill_(v)[:1]), outcome(lambda: x.masked_fill(m, v)[:1])}
        assert len(said) == 1, (t, v, said)
        print(f'{{{names[t]}, {number(v)}, {said.pop()}}},')
