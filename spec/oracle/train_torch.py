"""Training of the whole model in PyTorch, apart from our compiler: one sample at a time through the encoder, resampler,
schema and language model of llava_uhd_torch.py and llama_torch.py, cross-entropy over all supervised tokens of the batch,
torch.optim.AdamW with LambdaLR and clip_grad_norm_. Everything in float64.

  python3 spec/oracle/train_torch.py fixture
      writes spec/fixtures/train-tiny.json
  python3 spec/oracle/train_torch.py live CONFIG.json RESULT.json
      CONFIG: what the fixture holds besides "result".
"""

import base64
import json
import math
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

import generator
import llama_torch
import llava_uhd_torch

MODEL = {
    "layers": 2, "vit_width": 16, "vit_heads": 2, "vit_hidden": 24, "vit_side": 6, "side": 2, "width": 16, "head_width": 8,
    "llama_layers": 2, "heads": 2, "kv_heads": 1, "ffn": 28, "vocabulary": 40, "theta": 10000.0, "eps": 1e-5, "tied": False,
}
# With an eps of 1e-8 a gradient that is nothing but rounding moves its parameter as far as any other, and f32 goes another
# way than float64 after a few steps; here such gradients stay small.
OPTIMISER = {"rate": 4e-4, "betas": [0.9, 0.99], "eps": 1e-5, "decay": 0.1, "clip": 1.0, "warmup": 5, "steps": 50}


class Vision(llava_uhd_torch.Model):
    def w(self, name, *shape):
        if name not in self.cache:
            self.cache[name] = torch.from_numpy(generator.weight(name, shape)).to(self.dtype).requires_grad_(True)
        return self.cache[name]


class Text(llama_torch.Llama):
    def __init__(self, config, weights):
        super().__init__(config)
        self.weights = weights

    def w(self, name, *shape):
        return self.weights.w(name, *shape)


def loss(vision, text, config, batch):
    logits, labels, token, image = [], [], 0, 0
    vocabulary = config["model"]["vocabulary"]
    for sample in batch["samples"]:
        ids = batch["ids"][token : token + sample["tokens"]]
        own = batch["labels"][token : token + sample["tokens"]]
        seen = [vision.visual(config["policy"], *batch["images"][image + i]) for i in range(len(sample["images"]))]
        given = torch.cat(seen) if seen else torch.zeros(0, config["model"]["width"], dtype=torch.float64)
        rows, targets, at = [], [], 0
        for i in range(sample["tokens"] + 1):
            for j, place in enumerate(sample["images"]):
                if place == i:
                    rows += [vocabulary + at + s for s in range(len(seen[j]))]
                    targets += [-100] * len(seen[j])
                    at += len(seen[j])
            if i < sample["tokens"]:
                rows.append(ids[i])
                targets.append(own[i])
        token += sample["tokens"]
        image += len(sample["images"])
        logits.append(text.logits(rows, given)[:-1])
        labels += targets[1:]
    return F.cross_entropy(torch.cat(logits), torch.tensor(labels), ignore_index=-100)


def encoded(x):
    return base64.b64encode(np.ascontiguousarray(x.detach().float().numpy())).decode()


def train(config):
    vision = Vision(config["model"], torch.float64)
    text = Text(config["model"], vision)
    o = config["optimiser"]
    # The parameters are made when they are first asked for.
    first = loss(vision, text, config, config["batches"][0])
    names = sorted(vision.cache)
    decays = lambda name: not (name.endswith("bias") or "norm" in name or "layrnorm" in name or ".ln_" in name)
    groups = [{"params": [vision.cache[n] for n in names if decays(n) == d], "weight_decay": o["decay"] if d else 0.0} for d in (True, False)]
    adamw = torch.optim.AdamW(groups, lr=o["rate"], betas=tuple(o["betas"]), eps=o["eps"])
    w, total = o["warmup"], o["steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adamw, lambda t: t / w if t < w else 0.5 * (1 + math.cos(math.pi * (t - w) / (total - w)))
    )
    losses, norms, gradients = [], [], {}
    for step in range(total):
        # A parameter that a batch does not use has a gradient of zeros, so that its moments shrink; not none.
        adamw.zero_grad(set_to_none=False)
        value = first if step == 0 else loss(vision, text, config, config["batches"][0 if step % config["every"] == 0 else 1])
        value.backward()
        if step == 0:
            gradients = {n: vision.cache[n].grad.clone() for n in names}
        norms.append(torch.nn.utils.clip_grad_norm_(list(vision.cache.values()), o["clip"]).item())
        losses.append(value.item())
        adamw.step()
        schedule.step()
    stride = config["stride"]
    part = lambda x: {"shape": list(x.shape), "norm": x.norm().item(), "values": encoded(x.flatten()[::stride])}
    return {
        "losses": losses,
        "norms": norms,
        "gradients": {n: part(g) for n, g in gradients.items()},
        "parameters": {n: part(vision.cache[n]) for n in names},
    }


def batch(images, samples, seed):
    count = sum(s["tokens"] for s in samples)
    draw = generator.mix(np.arange(2 * count, dtype=np.uint64) + np.uint64(1000 * seed))
    ids = [int(x % MODEL["vocabulary"]) for x in draw[:count]]
    # The first third of each sample is its question.
    labels, at = [], 0
    for s in samples:
        labels += [-100 if i < s["tokens"] // 3 else ids[at + i] for i in range(s["tokens"])]
        at += s["tokens"]
    return {"images": images, "samples": samples, "ids": ids, "labels": labels}


def fixture():
    config = {
        "model": MODEL,
        "policy": "paper",
        "optimiser": OPTIMISER,
        "stride": 13,
        # The first batch is large: it comes every so many steps, the second one in the others.
        "every": 25,
        "batches": [
            batch([[400, 380], [90, 110]], [{"tokens": 7, "images": [1]}, {"tokens": 9, "images": []}, {"tokens": 5, "images": [0]}], 1),
            batch([[10, 300]], [{"tokens": 6, "images": [1]}, {"tokens": 3, "images": []}, {"tokens": 8, "images": []}], 2),
        ],
    }
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "train-tiny.json"
    path.write_text(json.dumps({"torch": torch.__version__, **config, "result": train(config)}) + "\n")
    print(f"{path.stat().st_size} bytes")


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    if sys.argv[1] == "fixture":
        fixture()
    else:
        pathlib.Path(sys.argv[3]).write_text(json.dumps(train(json.loads(pathlib.Path(sys.argv[2]).read_text()))))
