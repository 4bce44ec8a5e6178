"""Writes spec/fixtures/ops-torch.json: results and gradients of ops as PyTorch computes them in float64.

Run with a python3 that has torch: `python3 spec/oracle/ops.py`. The numbers are an oracle that shares no code
with ops/: references and derivatives of the table are compared with them.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(20240314)
torch.set_default_dtype(torch.float64)
calls = []


def tensor(value):
    dtype = {torch.float64: "f32", torch.int64: "i32", torch.bool: "bool"}[value.dtype]
    return {"dtype": dtype, "shape": list(value.shape), "data": value.detach().double().flatten().tolist()}


def f32(*shape):
    return torch.randn(shape).float().double()


def call(op, operands, function, **attrs):
    """One call; `function` gets the operands as tensors that need gradients where they are floats."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in operands]
    result = function(*inputs)
    entry = {"op": op, "operands": [tensor(x) for x in operands], "attrs": attrs, "result": tensor(result)}
    if result.is_floating_point() and result.requires_grad:
        cotangent = f32(*result.shape)
        result.backward(cotangent)
        entry["cotangent"] = tensor(cotangent)
        entry["gradients"] = [None if x.grad is None else tensor(x.grad) for x in inputs]
    calls.append(entry)


x = f32(3, 5)
for name, function in {
    "exp": torch.exp, "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos, "erf": torch.erf, "sigmoid": torch.sigmoid,
    "silu": F.silu, "gelu": F.gelu, "relu": F.relu, "abs": torch.abs, "neg": torch.neg, "floor": torch.floor,
    "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    "quick_gelu": lambda v: v * torch.sigmoid(1.702 * v),
}.items():
    call(name, [x], function)
positive = x.abs() + 0.25
for name, function in {"log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt}.items():
    call(name, [positive], function)
call("round", [torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4999])], torch.round)

y = f32(3, 5)
for name, function in {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
                       "minimum": torch.minimum, "mod": torch.remainder}.items():
    call(name, [x, y], function)
call("pow", [positive, y], torch.pow)
ties = torch.tensor([1.0, 2.0, 3.0])
call("maximum", [ties, torch.tensor([1.0, 3.0, 2.0])], torch.maximum)
call("mod", [torch.tensor([-7, 7, -7, 7]), torch.tensor([3, -3, -3, 3])], torch.remainder)

call("reduce_sum", [f32(2, 3, 4)], lambda v: v.sum((0, 2)), axes=[0, 2], keep=False)
call("mean", [f32(2, 3, 4)], lambda v: v.mean((1,), keepdim=True), axes=[1], keep=True)
call("reduce_max", [f32(2, 3, 4)], lambda v: v.amax((0, 2)), axes=[0, 2], keep=False)
call("reduce_max", [torch.tensor([[2.0, 2.0, 1.0], [0.0, 3.0, 3.0]])], lambda v: v.amax(1), axes=[1], keep=False)
call("reduce_min", [f32(2, 3, 4)], lambda v: v.amin((2,)), axes=[2], keep=False)
call("argmax", [torch.tensor([[2.0, 5.0, 5.0], [7.0, 3.0, 3.0]])], lambda v: v.argmax(1), axis=1)

call("softmax", [f32(3, 4, 2)], lambda v: F.softmax(v, 1), axis=1)
call("log_softmax", [f32(3, 7)], lambda v: F.log_softmax(v, -1), axis=-1)
call("layer_norm", [f32(3, 6), f32(6), f32(6)], lambda v, g, b: F.layer_norm(v, (6,), g, b, 2.0**-16), eps=2.0**-16)
call("rms_norm", [f32(3, 6), f32(6)], lambda v, g: v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 2.0**-16) * g, eps=2.0**-16)
call("linear", [f32(2, 3, 4), f32(5, 4), f32(5)], F.linear)
call("matmul", [f32(2, 3, 4), f32(2, 5, 4)], lambda a, b: a @ b.mT, transpose_a=False, transpose_b=True)
call("matmul", [f32(4, 3), f32(4, 5)], lambda a, b: a.mT @ b, transpose_a=True, transpose_b=False)
call("transpose", [f32(2, 3, 4)], lambda v: v.permute(2, 0, 1), permutation=[2, 0, 1])
call("gather", [f32(5, 3), torch.tensor([[0, 4], [4, 1]])], lambda v, i: v[i])
call("scatter_add", [torch.tensor([2, 0, 2]), f32(3, 2)], lambda i, u: torch.zeros(4, 2).index_add(0, i, u), rows=4)
call("gather_sum", [f32(5, 3), torch.tensor([[0, 4], [4, 1]]), f32(2, 2)], lambda v, i, w: (v[i] * w[..., None]).sum(1))


def rope(v, position, theta=10000.0):
    d = v.shape[-1]
    frequency = (theta ** (-torch.arange(0, d, 2) / d)).float().double()
    angle = position[:, None].double() * frequency
    cos, sin = [torch.cat([f, f], -1)[:, None, :] for f in (angle.cos(), angle.sin())]
    a, b = v.chunk(2, -1)
    return v * cos + torch.cat([-b, a], -1) * sin


call("rope", [f32(4, 2, 6), torch.tensor([0, 1, 7, 100])], rope, theta=10000)


def attention(q, k, v, segment, q_offsets, k_offsets, causal):
    heads = q.shape[1] // k.shape[1]
    parts = []
    for p in range(len(q_offsets) - 1):
        qs, ks, vs = q[q_offsets[p]:q_offsets[p + 1]], k[k_offsets[p]:k_offsets[p + 1]], v[k_offsets[p]:k_offsets[p + 1]]
        ks, vs = ks.repeat_interleave(heads, 1), vs.repeat_interleave(heads, 1)
        m, n = len(qs), len(ks)
        mask = torch.ones(m, n, dtype=torch.bool).tril(n - m) if causal else None
        out = F.scaled_dot_product_attention(qs.transpose(0, 1), ks.transpose(0, 1), vs.transpose(0, 1), attn_mask=mask, scale=0.5)
        parts.append(out.transpose(0, 1))
    return torch.cat(parts)


q_offsets, k_offsets = torch.tensor([0, 3, 4]), torch.tensor([0, 3, 6])
segment = torch.tensor([0, 0, 0, 1])
for causal in (False, True):
    operands = [f32(4, 4, 4), f32(6, 2, 4), f32(6, 2, 3), segment, q_offsets, k_offsets]
    call("attention", operands, lambda *xs, c=causal: attention(*xs, c), scale=0.5, causal=causal)

labels = torch.tensor([2, -100, 0, 6])
call("cross_entropy", [f32(4, 7), labels], lambda v, l: F.cross_entropy(v, l, ignore_index=-100), ignore=-100)

path = pathlib.Path(__file__).parent.parent / "fixtures" / "ops-torch.json"
path.write_text(json.dumps({"torch": torch.__version__, "calls": calls}) + "\n")
print(f"{len(calls)} calls, {path.stat().st_size} bytes")
