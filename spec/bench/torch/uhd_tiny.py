"""UHD-tiny in PyTorch, as its authors would train it: patches and text rows packed for the linear layers, attention over
padded pictures and samples through scaled_dot_product_attention, AdamW fused. What lies where (tables of a batch) is given,
so that only the step is timed. f32.

  python3 spec/bench/torch/uhd_tiny.py BATCH.json THREADS

BATCH.json names the weights' file beside it. Reads one command a line and answers each with one line of JSON:
  version   PyTorch's
  step      one step: [loss, norm of the gradients]
  memory    most bytes that the process had resident
"""

import json
import pathlib
import resource
import sys

import torch
import torch.nn.functional as F


def tensor(given):
    return torch.tensor(given["values"], dtype=getattr(torch, given["dtype"])).reshape(given["shape"])


class Padded:
    """Packed rows to [segments, longest, ...] and back."""

    def __init__(self, lengths):
        self.longest = max(lengths)
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        at = torch.arange(self.longest)
        count = torch.tensor(lengths)
        self.inside = at[None, :] < count[:, None]
        self.rows = torch.where(self.inside, torch.tensor(starts)[:, None] + at[None, :], 0)
        self.back = self.inside.flatten().nonzero().flatten()

    def pad(self, x):
        return x[self.rows].transpose(1, 2)

    def pack(self, x):
        return x.transpose(1, 2).flatten(0, 1)[self.back]


class Model:
    def __init__(self, batch, folder):
        c = self.config = batch["config"]
        data = torch.frombuffer(bytearray((folder / batch["weights"]).read_bytes()), dtype=torch.float32)
        self.w = {}
        for p in batch["parameters"]:
            count = 1
            for d in p["shape"]:
                count *= d
            self.w[p["name"]] = data[p["at"] : p["at"] + count].reshape(p["shape"]).clone().requires_grad_(True)
        t = {name: tensor(given) for name, given in batch["tables"].items()}
        self.t = t
        sizes = batch["sizes"]
        self.pictures = len(sizes)
        counts = [w * h for w, h in sizes]
        self.tokens = Padded([n + 1 for n in counts])
        # The keys of each query's window of each picture.
        self.queries = self.w["model.mm_projector.query"].shape[0]
        self.keys = Padded([n for n in batch["windows"] for _ in range(self.queries)])
        self.samples = Padded(batch["lengths"])
        self.token_mask = self.tokens.inside[:, None, None, :]
        self.key_mask = self.keys.inside[:, None, None, :]
        mean, deviation = (torch.tensor(batch[k])[None, :, None, None] for k in ("mean", "deviation"))
        raw = (folder / batch["patches"]).read_bytes()
        patches = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, 3, 14, 14)
        # As in the graph, pixels become numbers in every step.
        self.pixels = lambda: ((patches.float() / 255 - mean) / deviation).flatten(1)
        head = c["head"]
        angle = t["position"][:, None].float() * c["theta"] ** (-torch.arange(0, head // 2).float() * 2 / head)
        self.cos, self.sin = angle.cos()[:, None], angle.sin()[:, None]
        o = batch["optimiser"]
        groups = [
            {"params": [self.w[p["name"]] for p in batch["parameters"] if (p["decay"] > 0) == d], "weight_decay": o["decay"] if d else 0.0}
            for d in (True, False)
        ]
        self.adamw = torch.optim.AdamW(groups, lr=o["rate"], betas=tuple(o["betas"]), eps=o["eps"], fused=True)
        self.clip = o["clip"]

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def norm(self, x, name, eps):
        return F.layer_norm(x, (x.shape[-1],), self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def rms(self, x, name):
        return F.rms_norm(x, (x.shape[-1],), self.w[name + ".weight"], self.config["eps"])

    def vision(self):
        w, t, c = self.w, self.t, self.config
        e = "vision_model.embeddings."
        pixels = F.linear(self.pixels(), w[e + "patch_embedding.weight"].flatten(1))
        rows = torch.cat([w[e + "class_embedding"][None], pixels])[t["tokens"]]
        x = rows + F.embedding_bag(t["vit_index"], w[e + "position_embedding.weight"], per_sample_weights=t["vit_weight"], mode="sum")
        x = self.norm(x, "vision_model.pre_layrnorm", 1e-5)
        heads = c["vit_heads"]
        for i in range(c["layers"]):
            n = f"vision_model.encoder.layers.{i}."
            y = self.norm(x, n + "layer_norm1", 1e-5)
            q, k, v = (self.tokens.pad(self.linear(y, n + f"self_attn.{p}_proj").unflatten(1, (heads, -1))) for p in "qkv")
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=self.token_mask)
            x = x + self.linear(self.tokens.pack(a).flatten(1), n + "self_attn.out_proj")
            y = self.linear(self.norm(x, n + "layer_norm2", 1e-5), n + "mlp.fc1")
            x = x + self.linear(y * torch.sigmoid(1.702 * y), n + "mlp.fc2")
        return x[t["back"]]

    def resampler(self, features):
        w, t, c = self.w, self.t, self.config
        n = "model.mm_projector."
        value = self.norm(F.linear(features, w[n + "kv_proj.weight"]), n + "ln_kv", 1e-6)
        key = value + F.embedding_bag(t["key_index"], t["fixed"], per_sample_weights=t["key_weight"], mode="sum")
        asked = self.norm(w[n + "query"], n + "ln_q", 1e-6) + t["fixed"]
        weights, biases = w[n + "attn.in_proj_weight"].chunk(3), w[n + "attn.in_proj_bias"].chunk(3)
        sampled = lambda rows: F.embedding_bag(t["sample_index"], rows, per_sample_weights=t["sample_weight"], mode="sum")
        apart = lambda x: x.unflatten(1, (-1, c["resampler_head"]))
        # As in the graph: projected once a patch, sampled afterwards; what lies beyond the border counts for less.
        q = apart(F.linear(asked, weights[0], biases[0]))
        k, v = (apart(sampled(F.linear(x, m)) + b) for x, m, b in zip((key, value), weights[1:], biases[1:]))
        q = q[None].expand(self.pictures, -1, -1, -1).flatten(0, 1)[:, :, None]
        a = F.scaled_dot_product_attention(q, self.keys.pad(k), self.keys.pad(v), attn_mask=self.key_mask)
        y = self.linear(a.flatten(1), n + "attn.out_proj")
        return self.norm(y, n + "ln_post", 1e-6) @ w[n + "proj"]

    def rope(self, x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)

    def loss(self):
        w, t, c = self.w, self.t, self.config
        seen = torch.cat([self.resampler(self.vision()), w["separators.weight"]])[t["part"]]
        x = torch.cat([F.embedding(t["ids"], w["model.embed_tokens.weight"]), seen])[t["row"]]
        for i in range(c["llama_layers"]):
            n = f"model.layers.{i}."
            y = self.rms(x, n + "input_layernorm")
            q, k, v = (self.linear(y, n + f"self_attn.{p}_proj").unflatten(1, (c["heads"], -1)) for p in "qkv")
            q, k, v = (self.samples.pad(z) for z in (self.rope(q), self.rope(k), v))
            # What is padded stands behind a sample, where no row of it looks.
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.linear(self.samples.pack(a).flatten(1), n + "self_attn.o_proj")
            y = self.rms(x, n + "post_attention_layernorm")
            x = x + self.linear(F.silu(self.linear(y, n + "mlp.gate_proj")) * self.linear(y, n + "mlp.up_proj"), n + "mlp.down_proj")
        logits = F.linear(self.rms(x, "model.norm")[t["asking"]], w["lm_head.weight"])
        return F.cross_entropy(logits, t["labels"], ignore_index=-100)

    def step(self):
        self.adamw.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for p in self.w.values() if p.grad is not None], self.clip)
        self.adamw.step()
        return [loss.item(), norm.item()]


def main():
    path = pathlib.Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    model = Model(json.loads(path.read_text()), path.parent)
    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    for line in sys.stdin:
        command = line.strip()
        if command == "step":
            answer = model.step()
        elif command == "memory":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        elif command == "version":
            answer = torch.__version__
        else:
            raise SystemExit(f"no such command: {command}")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
