"""Writes spec/fixtures/torch-archives.json: archives as torch.save makes them (base64), with the names, dtypes, shapes and
values that they hold, and archives that must be refused, with a word that the refusal must contain.

    python3 spec/oracle/torch_archives.py       (a python3 with torch and numpy)
"""

import base64
import collections
import io
import json
import os
import pathlib

import numpy as np
import torch

torch.manual_seed(20240314)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def described(tensors):
    names = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
        torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip
    return {
        name: {
            "dtype": names[t.dtype],
            "shape": list(t.shape),
            "bytes": base64.b64encode(t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).decode()
            if t.numel() > 0
            else "",
        }
        for name, t in tensors.items()
    }


archives = {}


def archive(name, value, tensors):
    archives[name] = {"bytes": saved(value), "tensors": described(tensors)}


types = {
    str(dtype).split(".")[1]: (torch.randn(3, 2) * 50).to(dtype)
    for dtype in [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
}
types["uint8"] = torch.arange(250, 256, dtype=torch.uint8)
types["bool"] = torch.tensor([True, False, True])
types["scalar"] = torch.tensor(1.5)
types["empty"] = torch.zeros(0, 7)
archive("every dtype", types, types)

base = torch.arange(60.0).reshape(3, 4, 5)
views = {
    "whole": base,
    "offset": base[1],
    "transposed": base[0].t(),
    "permuted": base.permute(2, 0, 1),
    "every other": base[:, ::2, 1::2],
    "column": base[:, 0, 0],
}
archive("views of one storage", views, views)

linear = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
state = linear.state_dict()
archive("a state dict with metadata", state, state)
parameters = collections.OrderedDict(w=torch.nn.Parameter(torch.randn(2, 2)))
archive("parameters", parameters, parameters)
archive("a state dict with an epoch", {"epoch": 3, "lr": 0.1, "name": "run", "state_dict": state}, state)
archive("a state dict in two dicts", {"model": {"state_dict": state}}, state)
optimiser = torch.optim.Adam(linear.parameters())
linear(torch.randn(4, 3)).sum().backward()
optimiser.step()
moments = {
    f"optimizer.state.{i}.{key}": value
    for i, entry in optimiser.state_dict()["state"].items()
    for key, value in entry.items()
}
state = linear.state_dict()
archive(
    "a model beside its optimiser",
    {"model": state, "optimizer": optimiser.state_dict()},
    {**{f"model.{k}": v for k, v in state.items()}, **moments},
)
archive("one tensor", base[1], {"tensor": base[1]})
archive("a list", [base[0], {"x": base[2]}], {"0": base[0], "1.x": base[2]})


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


refused = {
    "a call of os.system": (saved({"w": torch.ones(1), "x": Evil()}), "system"),
    "a module": (saved(linear), "torch.nn.modules.container.Sequential"),
    "an array of NumPy": (saved({"w": np.ones(2)}), "numpy"),
    "a set": (saved({"w": {1, 2}}), "set"),
    "a complex tensor": (saved({"w": torch.ones(1, dtype=torch.complex64)}), "ComplexFloatStorage"),
    "a sparse tensor": (saved({"w": torch.eye(2).to_sparse()}), "_rebuild_sparse_tensor"),
    "a dtype": (saved({"w": torch.ones(1), "dtype": torch.float32}), "torch.float32"),
}
legacy = io.BytesIO()
torch.save(state, legacy, _use_new_zipfile_serialization=False)
refused["an archive of an old PyTorch"] = (base64.b64encode(legacy.getvalue()).decode(), "before 1.6")

path = pathlib.Path(__file__).parent.parent / "fixtures/torch-archives.json"
path.write_text(json.dumps({"archives": archives, "refused": {k: {"bytes": b, "says": s} for k, (b, s) in refused.items()}}) + "\n")
