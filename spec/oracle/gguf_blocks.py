"""Writes spec/fixtures/gguf-blocks.json: blocks of every format that runtime/weights/quants.ts expands, with the values
that the package `gguf` (quants.dequantize, NumPy) gives for them, as the bits of float32.

    python3 -m venv .venv && .venv/bin/pip install gguf numpy
    .venv/bin/python spec/oracle/gguf_blocks.py [MODEL.gguf]

Blocks are random bytes, whose scales are then made finite; so every bit pattern of scales and quants occurs. With a
GGUF file of the architecture "llama", spec/fixtures/gguf-smollm2.json is written too: for each tensor, under its Hugging
Face name, its shape, a checksum of all its float32 values in Hugging Face's order of rows, and its first values.
"""

import base64
import json
import pathlib
import sys
import zlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFReader, quants

fixtures = pathlib.Path(__file__).parent.parent / "fixtures"

# Where the float16 scales of a block are, in bytes.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}  # fmt: skip


def text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def blocks_fixture():
    rng = np.random.default_rng(20240314)
    formats = {}
    for kind, places in HALVES.items():
        block, size = GGML_QUANT_SIZES[kind]
        count = 6 if block == 32 else 3
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for row in range(count):
            for at in places:
                # The last block has a subnormal scale; in the others they are any finite half.
                value = np.float16(3e-7) if row == count - 1 else np.float16(rng.normal() * 10.0 ** rng.integers(-3, 3))
                blocks[row, at : at + 2] = np.frombuffer(value.tobytes(), np.uint8)
        values = quants.dequantize(blocks, kind).astype(np.float32)
        formats[kind.name] = {"type": int(kind), "block": block, "bytes": text(blocks), "values": text(values)}
    (fixtures / "gguf-blocks.json").write_text(json.dumps(formats, indent=1) + "\n")


NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def public_name(name):
    if name.startswith("blk."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{NAMES[part]}.{kind}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name]


def model_fixture(path):
    reader = GGUFReader(path)
    heads = {
        "attn_q": int(reader.get_field("llama.attention.head_count").contents()),
        "attn_k": int(reader.get_field("llama.attention.head_count_kv").contents()),
    }
    tensors = {}
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(tuple(reversed(tensor.shape.tolist())))
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if part in heads:
            # The converter's reshape(heads, 2, D/2, …).swapaxes(1, 2), undone.
            n = heads[part]
            values = values.reshape(n, values.shape[0] // n // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        tensors[public_name(tensor.name)] = {
            "shape": list(values.shape),
            "crc32": zlib.crc32(np.ascontiguousarray(values).tobytes()),
            "first": [float(x) for x in values.flat[:3]],
        }
    (fixtures / "gguf-smollm2.json").write_text(json.dumps({"file": pathlib.Path(path).name, "tensors": tensors}) + "\n")


blocks_fixture()
if len(sys.argv) > 1:
    model_fixture(sys.argv[1])
