"""LLaMA's equations in PyTorch, apart from our compiler and without a cache: the whole sequence at once, positions as
complex rotations, key and value heads repeated, scaled_dot_product_attention with a causal mask.

  python3 spec/oracle/llama_torch.py
      writes spec/fixtures/llama-tiny.json: the logits of every row of small models in float64, on weights of
      generator.py.
"""

import base64
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

import generator

COMMON = {"llama_layers": 3, "vocabulary": 97, "context": 32}
MODELS = {
    "a head for each key head, untied": {"width": 48, "heads": 4, "kv_heads": 4, "head_width": 12, "ffn": 80, "theta": 10000.0, "eps": 1e-5, "tied": False},
    "three heads a key head, tied": {"width": 36, "heads": 6, "kv_heads": 2, "head_width": 8, "ffn": 52, "theta": 100000.0, "eps": 1e-5, "tied": True},
    "one key head, heads wider than the model": {"width": 24, "heads": 3, "kv_heads": 1, "head_width": 16, "ffn": 40, "theta": 500.0, "eps": 1e-6, "tied": False},
}
# Rows of the sequence: tokens below the vocabulary, rows of given embeddings from there on.
ROWS = [1, 33, 97 + 2, 97 + 0, 97 + 1, 97 + 2, 13, 96, 0, 5, 5, 5, 41, 62, 97 + 4, 7, 80]
GIVEN = 5


class Llama:
    def __init__(self, config):
        self.c = config

    def w(self, name, *shape):
        return torch.from_numpy(generator.weight(name, shape)).double()

    def norm(self, x, name):
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + self.c["eps"])
        return self.w(f"{name}.weight", x.shape[-1]) * (x * scale)

    def linear(self, x, name, outputs):
        return x @ self.w(f"{name}.weight", outputs, x.shape[-1]).T

    def turned(self, x):
        """x: [heads, T, d], pairs (i, i + d/2) by position · theta^(-2i/d)."""
        d = x.shape[-1]
        frequency = self.c["theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angle = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), frequency)
        z = torch.complex(x[..., : d // 2], x[..., d // 2 :]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([z.real, z.imag], -1)

    def logits(self, rows, given):
        c = self.c
        table = self.w("model.embed_tokens.weight", c["vocabulary"], c["width"])
        x = torch.cat([table, given])[torch.tensor(rows)]
        heads = {"q": c["heads"], "k": c["kv_heads"], "v": c["kv_heads"]}
        for i in range(c["llama_layers"]):
            l = f"model.layers.{i}"
            y = self.norm(x, f"{l}.input_layernorm")
            q, k, v = (
                self.linear(y, f"{l}.self_attn.{n}_proj", h * c["head_width"]).reshape(len(rows), h, -1).transpose(0, 1) for n, h in heads.items()
            )
            share = c["heads"] // c["kv_heads"]
            k, v = self.turned(k).repeat_interleave(share, 0), v.repeat_interleave(share, 0)
            a = F.scaled_dot_product_attention(self.turned(q)[None], k[None], v[None], is_causal=True)[0]
            x = x + self.linear(a.transpose(0, 1).flatten(1), f"{l}.self_attn.o_proj", c["width"])
            y = self.norm(x, f"{l}.post_attention_layernorm")
            gate, up = (self.linear(y, f"{l}.mlp.{n}_proj", c["ffn"]) for n in ("gate", "up"))
            x = x + self.linear(F.silu(gate) * up, f"{l}.mlp.down_proj", c["width"])
        head = "model.embed_tokens" if c["tied"] else "lm_head"
        return self.linear(self.norm(x, "model.norm"), head, c["vocabulary"])


def main():
    cases = []
    for says, config in MODELS.items():
        config = {**COMMON, **config}
        given = torch.from_numpy(generator.weight("given", (GIVEN, config["width"]))).double()
        with torch.inference_mode():
            logits = Llama(config).logits(ROWS, given)
        encoded = base64.b64encode(logits.numpy().astype(np.float32).tobytes()).decode()
        cases.append({"says": says, "model": config, "logits": encoded})
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "llama-tiny.json"
    path.write_text(json.dumps({"torch": torch.__version__, "rows": ROWS, "given": GIVEN, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
