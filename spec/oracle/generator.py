"""Deterministic test data that this folder and spec/generator.ts make alike: weights by name, images by size.

mix(x) is a 32-bit integer hash. A tensor's element i is u = 2·(mix(fnv1a(name) + i) >> 8)/2^24 - 1, in [-1, 1), scaled:
norm weights 1 + 0.2u; biases and norm biases 0.1u; embeddings and queries 0.5u; other matrices u·sqrt(3/inputs), which
keeps variances near 1, so that errors are not hidden by small numbers.
"""

import json
import math
import struct

import numpy as np

M32 = 0xFFFFFFFF


def mix(x):
    """x: uint64 array of 32-bit numbers."""
    x = x & M32
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & M32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & M32
    return x ^ (x >> 16)


def fnv1a(text):
    h = 0x811C9DC5
    for byte in text.encode():
        h = ((h ^ byte) * 0x01000193) & M32
    return h


def weight(name, shape):
    """float32 array."""
    count = math.prod(shape)
    out = np.empty(count, np.float32)
    base = fnv1a(name)
    for start in range(0, count, 1 << 22):
        i = np.arange(start, min(count, start + (1 << 22)), dtype=np.uint64)
        u = 2.0 * (mix(i + base) >> np.uint64(8)).astype(np.float64) / 2.0**24 - 1.0
        out[start : start + len(i)] = scaled(name, shape, u)
    return out.reshape(shape)


def scaled(name, shape, u):
    if name.endswith("bias"):
        return 0.1 * u
    if "norm" in name or "layrnorm" in name or ".ln_" in name:
        return 1.0 + 0.2 * u
    if "embedding" in name and "patch" not in name or "separators" in name or name.endswith("query"):
        return 0.5 * u
    return u * math.sqrt(3.0 / math.prod(shape[1:]))


def image(width, height, seed=1):
    """uint8[height, width, 3]: blocks of 4×4 random colours, with a gradient."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    block = mix(((((y // 4) * 4099 + x // 4) * 3 + c) + seed * 7919).astype(np.uint64)) >> np.uint64(24)
    return ((block.astype(np.int64) * 3 + ((x * 255) // width if width else 0)) // 4).astype(np.uint8)


def write_safetensors(path, tensors):
    """tensors: list of (name, shape); elements come from weight()."""
    header, at = {}, 0
    for name, shape in tensors:
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, shape in tensors:
            file.write(weight(name, shape).tobytes())
