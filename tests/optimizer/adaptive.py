# Makes adaptive.inc: parameters after steps of torch 2.15's optimizers (Lion: of its authors' formula) from values of a pattern. Run: python adaptive.py > adaptive.inc
import torch


def pattern(shape, seed):
    n = int(torch.Size(shape).numel())
    i = torch.arange(n)
    v = (i * 37 + seed * 101 + (i * i % 17) * 13) % 97
    return (v.double() / 97 - 0.5).reshape(shape)


class Lion(torch.optim.Optimizer):  # google/automl, lion_pytorch.py: the rule in its comments
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                b1, b2 = group["betas"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.sign(m * b1 + p.grad * (1 - b1)), alpha=-group["lr"])
                m.mul_(b2).add_(p.grad, alpha=1 - b2)


def wide_muon():  # torch's in float64 in place of bfloat16
    import torch.optim._muon as muon

    def iterate(grad, coefficients, steps, eps):
        a, b, c = coefficients
        x = grad.T if grad.size(0) > grad.size(1) else grad
        x = x / x.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if grad.size(0) > grad.size(1) else x

    muon._zeropower_via_newtonschulz = iterate


def case(name, kind, options, json, shape):
    p = torch.nn.Parameter(pattern(shape, 1))
    opt = kind([p], **options)
    for step in range(4):
        p.grad = pattern(shape, 10 + step)
        opt.step()
    values = ", ".join(f"{v:.12g}" for v in p.detach().flatten().tolist())
    print(f'    {{"{name}", R"({json})", {{{", ".join(map(str, shape))}}}, {{{values}}}}},')


wide_muon()
print("// Made by adaptive.py with torch 2.15.")
print("const OptimizerCase kOptimizerCases[] = {")
o = torch.optim
case("RMSprop", o.RMSprop, {}, "{}", (5,))
case("RMSprop", o.RMSprop, dict(lr=0.1, alpha=0.9, eps=1e-3, weight_decay=0.2, momentum=0.5, centered=True, maximize=True),
     '{"lr": 0.1, "alpha": 0.9, "eps": 0.001, "weight_decay": 0.2, "momentum": 0.5, "centered": true, "maximize": true}', (2, 3))
case("Adagrad", o.Adagrad, {}, "{}", (5,))
case("Adagrad", o.Adagrad, dict(lr=0.1, lr_decay=0.3, weight_decay=0.2, initial_accumulator_value=0.1, eps=1e-3, maximize=True),
     '{"lr": 0.1, "lr_decay": 0.3, "weight_decay": 0.2, "initial_accumulator_value": 0.1, "eps": 0.001, "maximize": true}', (2, 3))
case("Lion", Lion, {}, "{}", (5,))
case("Lion", Lion, dict(lr=0.1, betas=(0.5, 0.8), weight_decay=0.2), '{"lr": 0.1, "betas": [0.5, 0.8], "weight_decay": 0.2}', (2, 3))
case("Muon", o.Muon, {}, "{}", (3, 2))
case("Muon", o.Muon, dict(lr=0.1, weight_decay=0.0, momentum=0.5, nesterov=False, ns_steps=3, adjust_lr_fn="match_rms_adamw"),
     '{"lr": 0.1, "weight_decay": 0, "momentum": 0.5, "nesterov": false, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}', (2, 4))
case("Muon", o.Muon, dict(lr=0.1, ns_coefficients=(2.0, -1.5, 0.5), adjust_lr_fn="spectral_unclamped"),
     '{"lr": 0.1, "ns_coefficients": [2, -1.5, 0.5], "adjust_lr_fn": "spectral_unclamped"}', (2, 3))
case("Adafactor", o.Adafactor, {}, "{}", (5,))
case("Adafactor", o.Adafactor, {}, "{}", (3, 2))
case("Adafactor", o.Adafactor, dict(lr=0.1, beta2_decay=-0.5, eps=(0.3, 0.9), d=1.5, weight_decay=0.2, maximize=True),
     '{"lr": 0.1, "beta2_decay": -0.5, "eps": [0.3, 0.9], "d": 1.5, "weight_decay": 0.2, "maximize": true}', (2, 2, 3))
print("};")
