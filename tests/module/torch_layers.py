# Makes torch_layers.inc: results and gradients of torch 2.15's layers, from values of a pattern. Run: python torch_layers.py > torch_layers.inc
import torch
from torch import nn


def pattern(shape, seed):
    n = int(torch.Size(shape).numel())
    i = torch.arange(n)
    v = (i * 37 + seed * 101 + (i * i % 17) * 13) % 97
    return (v.double() / 97 - 0.5).reshape(shape)


def text(t):
    return "{" + ", ".join(f"{v:.10g}" for v in t.detach().flatten().tolist()) + "}"


def sizes(shape):
    return "{" + ", ".join(str(int(n)) for n in shape) + "}"


def case(name, options, layer, shapes, call=None, steps=1, eval_after=False):
    layer = layer.double()
    state, parameters = [], dict(layer.named_parameters())
    for i, (n, p) in enumerate(parameters.items()):
        with torch.no_grad():
            p.copy_(pattern(p.shape, i + 1))
        state.append(f'{{"{n}", {sizes(p.shape)}}}')
    inputs = [pattern(s, 100 + k).requires_grad_() for k, s in enumerate(shapes)]
    call = call or (lambda m, *x: m(*x))
    for _ in range(steps):
        y = call(layer, *inputs)
    if eval_after:
        layer.eval()
        y = call(layer, *inputs)
    (y * pattern(y.shape, 200)).sum().backward()
    slopes = [(p.grad * pattern(p.shape, 300 + i)).sum() for i, p in enumerate(parameters.values())]
    print(f'    {{"{name}", R"({options})", {steps}, {str(eval_after).lower()},')
    print(f'     {{{", ".join(state)}}},')
    print(f'     {{{", ".join(sizes(s) for s in shapes)}}},')
    print(f"     {sizes(y.shape)}, {text(y)},")
    print(f"     {text(inputs[0].grad)},")
    print(f"     {text(torch.stack(slopes)) if slopes else '{}'},")
    print(f"     {{{', '.join(text(b) for b in layer.buffers())}}}}},")


print("// Made by torch_layers.py with torch 2.15.")
print("const LayerCase kLayerCases[] = {")
case("BatchNorm1d", '{"num_features": 3}', nn.BatchNorm1d(3), [(4, 3)], steps=2)
case("BatchNorm1d", '{"num_features": 2, "momentum": null}', nn.BatchNorm1d(2, momentum=None), [(3, 2, 4)], steps=2, eval_after=True)
case("InstanceNorm1d", '{"num_features": 2}', nn.InstanceNorm1d(2), [(2, 2, 5)])
case("InstanceNorm2d", '{"num_features": 2, "affine": true, "track_running_stats": true, "momentum": 0.3}',
     nn.InstanceNorm2d(2, affine=True, track_running_stats=True, momentum=0.3), [(2, 2, 2, 3)], steps=2)
case("InstanceNorm2d", '{"num_features": 2, "affine": true, "track_running_stats": true}',
     nn.InstanceNorm2d(2, affine=True, track_running_stats=True), [(2, 2, 2, 3)], steps=1, eval_after=True)
case("ConvTranspose2d", '{"in_channels": 2, "out_channels": 3, "kernel_size": 2}', nn.ConvTranspose2d(2, 3, 2), [(1, 2, 2, 3)])
case("ConvTranspose2d", '{"in_channels": 4, "out_channels": 2, "kernel_size": [3, 2], "stride": [2, 3], "padding": [1, 0], "output_padding": [1, 2], "groups": 2, "dilation": [2, 1]}',
     nn.ConvTranspose2d(4, 2, (3, 2), (2, 3), (1, 0), (1, 2), 2, True, (2, 1)), [(1, 4, 2, 2)])
case("ConvTranspose2d", '{"in_channels": 2, "out_channels": 2, "kernel_size": 2, "padding": 1, "output_padding": 2, "groups": 2, "bias": false, "dilation": 3}',
     nn.ConvTranspose2d(2, 2, 2, 1, 1, 2, 2, False, 3), [(2, 2, 3, 2)])
case("ConvTranspose1d", '{"in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}',
     nn.ConvTranspose1d(2, 3, 3, 2, 1, 1), [(2, 2, 4)])
case("PReLU", '{}', nn.PReLU(), [(2, 3)])
case("PReLU", '{"num_parameters": 3}', nn.PReLU(3), [(2, 3, 2)])
for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
    case("Upsample", f'{{"scale_factor": [2, 1.5], "mode": "{mode}"}}', nn.Upsample(scale_factor=(2, 1.5), mode=mode), [(1, 1, 2, 3)])
    case("Upsample", f'{{"size": [3, 2], "mode": "{mode}"}}', nn.Upsample(size=(3, 2), mode=mode), [(1, 1, 4, 5)])
for mode in ("bilinear", "bicubic"):
    case("Upsample", f'{{"size": [5, 1], "mode": "{mode}", "align_corners": true}}', nn.Upsample(size=(5, 1), mode=mode, align_corners=True), [(1, 2, 3, 2)])
case("Upsample", '{"scale_factor": [0.6], "mode": "linear"}', nn.Upsample(scale_factor=0.6, mode="linear"), [(1, 2, 7)])
case("Upsample", '{"scale_factor": [2.3], "mode": "nearest"}', nn.Upsample(scale_factor=2.3, mode="nearest"), [(1, 1, 5)])
for kind in (nn.LSTM, nn.GRU):
    case(kind.__name__, '{"input_size": 3, "hidden_size": 2, "num_layers": 2, "bidirectional": true}',
         kind(3, 2, 2, batch_first=True, bidirectional=True), [(2, 4, 3)], call=lambda m, x: m(x)[0])
case("TransformerDecoderLayer", '{"embed_dim": 4, "num_heads": 2, "hidden_dim": 3, "dropout": 0}',
     nn.TransformerDecoderLayer(4, 2, 3, 0.0, batch_first=True), [(2, 3, 4), (2, 2, 4)])
case("TransformerDecoderLayer", '{"embed_dim": 4, "num_heads": 2, "hidden_dim": 3, "dropout": 0, "norm_first": true, "activation": "gelu"}',
     nn.TransformerDecoderLayer(4, 2, 3, 0.0, "gelu", batch_first=True, norm_first=True), [(1, 3, 4), (1, 2, 4)])
print("};")


def recurrent(kind, with_state):
    layer = kind(3, 2, 2, batch_first=True, bidirectional=True).double()
    for i, p in enumerate(layer.parameters()):
        with torch.no_grad():
            p.copy_(pattern(p.shape, i + 1))
    x = pattern((3, 4, 3), 100).requires_grad_()
    h, c = pattern((4, 3, 2), 101), pattern((4, 3, 2), 102)
    lengths = torch.tensor([2, 4, 1])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    given = () if not with_state else ((h, c),) if kind is nn.LSTM else (h,)
    y, last = layer(packed, *given)
    y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    h_n, c_n = last if kind is nn.LSTM else (last, torch.zeros(0))
    (y * pattern(y.shape, 200)).sum().backward()
    print(f'    {{"{kind.__name__}", {str(with_state).lower()}, {text(y)},\n     {text(h_n)},\n     {text(c_n)},\n     {text(x.grad)}}},')


print("const PackedCase kPackedCases[] = {")
for kind in (nn.LSTM, nn.GRU):
    recurrent(kind, False)
    recurrent(kind, True)
print("};")
