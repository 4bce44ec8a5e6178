"""LLaVA-UHD's equations in PyTorch, apart from our compiler: pictures by Pillow, one picture at a time through the
encoder, MultiheadAttention as PyTorch has it, positions by F.interpolate.

  python3 spec/oracle/llava_uhd_torch.py fixture
      writes spec/fixtures/llava-uhd-tiny.json: tiny models in float64, on weights and images of generator.py.
  python3 spec/oracle/llava_uhd_torch.py full
      writes spec/fixtures/llava-uhd-full.json: full width and depth in float64 (3 GB, minutes), every 131st value and
      the sum of every row of the visual sequence.
  python3 spec/oracle/llava_uhd_torch.py live CONFIG.json DIRECTORY
      CONFIG: {"model": {…}, "policy": …, "sizes": [[W, H], …], "parameters": [[name, shape], …]}. Writes
      weights.safetensors and result-W-H.bin (float32) for each size to DIRECTORY.
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
import slicing
from pillow_resize import patches, pictures

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


class Model:
    """One model; weights are made when they are first asked for, in `dtype`."""

    def __init__(self, config, dtype):
        self.c = config
        self.dtype = dtype
        self.cache = {}

    def w(self, name, *shape):
        if name not in self.cache:
            self.cache[name] = torch.from_numpy(generator.weight(name, shape)).to(self.dtype)
        return self.cache[name]

    def norm(self, x, name, eps):
        d = x.shape[-1]
        return F.layer_norm(x, (d,), self.w(f"{name}.weight", d), self.w(f"{name}.bias", d), eps)

    def linear(self, x, name, outputs, bias=True):
        return F.linear(x, self.w(f"{name}.weight", outputs, x.shape[-1]), self.w(f"{name}.bias", outputs) if bias else None)

    def resized(self, table, side, h, w):
        """Rows of a side×side table, bicubic without antialias, to h×w."""
        grid = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        return F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False, antialias=False).permute(0, 2, 3, 1).reshape(h * w, -1)

    def encode(self, pixels, h, w):
        """[h·w, 3, 14, 14] normalised -> [h·w, d]."""
        c, p = self.c, "vision_model"
        d, heads = c["vit_width"], c["vit_heads"]
        kernel = self.w(f"{p}.embeddings.patch_embedding.weight", d, 3, 14, 14)
        picture = pixels.reshape(h, w, 3, 14, 14).permute(2, 0, 3, 1, 4).reshape(1, 3, 14 * h, 14 * w)
        x = F.conv2d(picture, kernel, stride=14).flatten(2)[0].T
        side = c["vit_side"]
        table = self.w(f"{p}.embeddings.position_embedding.weight", side * side + 1, d)
        x = torch.cat([self.w(f"{p}.embeddings.class_embedding", d)[None], x])
        x = x + torch.cat([table[:1], self.resized(table[1:], side, h, w)])
        x = self.norm(x, f"{p}.pre_layrnorm", 1e-5)
        for i in range(c["layers"]):
            l = f"{p}.encoder.layers.{i}"
            y = self.norm(x, f"{l}.layer_norm1", 1e-5)
            q, k, v = (self.linear(y, f"{l}.self_attn.{n}_proj", d).reshape(-1, heads, d // heads).transpose(0, 1) for n in "qkv")
            a = torch.softmax(q @ k.transpose(1, 2) * (d // heads) ** -0.5, -1) @ v
            x = x + self.linear(a.transpose(0, 1).reshape(-1, d), f"{l}.self_attn.out_proj", d)
            y = self.linear(self.norm(x, f"{l}.layer_norm2", 1e-5), f"{l}.mlp.fc1", c["vit_hidden"])
            x = x + self.linear(y * torch.sigmoid(1.702 * y), f"{l}.mlp.fc2", d)
        return x[1:]

    def sine_cosine(self, side, d):
        omega = 10000.0 ** (-np.arange(d // 4) / (d // 4))
        rows = []
        for row in range(side):
            for column in range(side):
                rows.append(np.concatenate([np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega)]))
        return torch.from_numpy(np.stack(rows)).to(self.dtype)

    def mha(self, query, key, value, mask=None):
        d = self.c["width"]
        p = "model.mm_projector.attn"
        out, _ = F.multi_head_attention_forward(
            query[:, None], key[:, None], value[:, None], d, d // self.c["head_width"],
            self.w(f"{p}.in_proj_weight", 3 * d, d), self.w(f"{p}.in_proj_bias", 3 * d), None, None, False, 0.0,
            self.w(f"{p}.out_proj.weight", d, d), self.w(f"{p}.out_proj.bias", d), need_weights=False, attn_mask=mask,
        )
        return out[:, 0]

    def resample(self, x, h, w, side, spatial):
        d, p = self.c["width"], "model.mm_projector"
        positions = self.sine_cosine(side, d)
        value = self.norm(self.linear(x, f"{p}.kv_proj", d, bias=False), f"{p}.ln_kv", 1e-6)
        key = value + self.resized(positions, side, h, w)
        query = self.norm(self.w(f"{p}.query", side * side, d), f"{p}.ln_q", 1e-6) + positions
        mask = None
        if spatial:
            a, b = samples(w, h)
            key, value = (roi_align(m, h, w, side, a, b) for m in (key, value))
            window = torch.arange(side * side).repeat_interleave(a * b)
            mask = torch.arange(side * side)[:, None] != window[None, :]
        y = self.norm(self.mha(query, key, value, mask), f"{p}.ln_post", 1e-6)
        return y @ self.w(f"{p}.proj", d, d)

    def visual(self, policy, width, height):
        """The visual sequence of generator.image(width, height)."""
        grid, cell, view = getattr(slicing, policy)(width, height)
        slices = 0 if grid is None else grid[0] * grid[1]
        side = self.c["side"]
        tokens = []
        for i, picture in enumerate(pictures(policy, width, height)):
            w, h = view if i == slices else cell
            pixels = (patches(picture) / 255.0 - MEAN[:, None, None]) / STD[:, None, None]
            x = self.encode(torch.from_numpy(pixels).to(self.dtype), h, w)
            tokens.append(self.resample(x, h, w, side, policy == "v1"))
            if i < slices:
                tokens.append(self.w("separators.weight", 2, self.c["width"])[1 if (i + 1) % grid[0] == 0 else 0][None])
        return torch.cat(tokens)


def samples(w, h):
    return slicing.first_minimum([(4, 2), (3, 2), (4, 3), (3, 3), (2, 4), (2, 3), (3, 4)], lambda a, b: abs(math.log(w / h) - math.log(a / b)))


def bilinear(m, y, x):
    """m: [h, w, d]; torchvision's sampling of RoIAlign at one point."""
    h, w, _ = m.shape
    if y < -1 or y > h or x < -1 or x > w:
        return torch.zeros_like(m[0, 0])
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = int(y), int(x)
    y1, x1 = y0 + 1, x0 + 1
    if y0 >= h - 1:
        y0 = y1 = h - 1
        y = float(y0)
    if x0 >= w - 1:
        x0 = x1 = w - 1
        x = float(x0)
    ly, lx = y - y0, x - x0
    return (1 - ly) * (1 - lx) * m[y0, x0] + (1 - ly) * lx * m[y0, x1] + ly * (1 - lx) * m[y1, x0] + ly * lx * m[y1, x1]


def roi_align(x, h, w, side, a, b):
    """[h·w, d] -> [side²·a·b, d]: windows, then samples, in raster order; aligned = False, adaptive sampling."""
    m = x.reshape(h, w, -1)
    out = []
    for i in range(side):
        for j in range(side):
            top, left = i * h / side, j * w / side
            bin_h, bin_w = max((i + 1) * h / side - top, 1.0) / b, max((j + 1) * w / side - left, 1.0) / a
            ny, nx = math.ceil(max((i + 1) * h / side - top, 1.0) / b), math.ceil(max((j + 1) * w / side - left, 1.0) / a)
            for v in range(b):
                for u in range(a):
                    points = [
                        bilinear(m, top + v * bin_h + (s + 0.5) * bin_h / ny, left + u * bin_w + (t + 0.5) * bin_w / nx)
                        for s in range(ny) for t in range(nx)
                    ]
                    out.append(sum(points) / len(points))
    return torch.stack(out)


def encoded(x):
    return base64.b64encode(x.detach().float().numpy().tobytes()).decode()


TINY = {"layers": 2, "vit_width": 32, "vit_heads": 2, "vit_hidden": 48, "vit_side": 6, "width": 32, "head_width": 16}


def fixture():
    cases = []
    for policy, side, sizes in [("paper", 3, [(100, 60), (400, 380), (672, 1008)]), ("v1", 4, [(90, 100), (500, 300), (1000, 872)])]:
        model = Model({**TINY, "side": side}, torch.float64)
        for w, h in sizes:
            visual = model.visual(policy, w, h)
            cases.append({"policy": policy, "side": side, "size": [w, h], "shape": list(visual.shape), "visual": encoded(visual)})
    model = Model({**TINY, "side": 3}, torch.float64)
    table = torch.arange(16, dtype=torch.float64).reshape(16, 1) ** 1.5
    resized = [{"to": [h, w], "values": model.resized(table, 4, h, w).flatten().tolist()} for h, w in [(6, 3), (4, 4), (1, 9), (2, 7)]]
    positions = [{"side": s, "width": d, "values": model.sine_cosine(s, d).flatten().tolist()} for s, d in [(2, 8), (3, 12)]]
    rois = []
    for w, h in [(24, 24), (19, 29), (32, 18), (1, 576), (40, 11)]:
        m = torch.arange(w * h, dtype=torch.float64).reshape(-1, 1)
        a, b = samples(w, h)
        rois.append({"size": [w, h], "samples": [a, b], "values": [round(v, 9) for v in roi_align(m, h, w, 12, a, b).flatten().tolist()]})
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "llava-uhd-tiny.json"
    path.write_text(json.dumps({"torch": torch.__version__, "model": TINY, "cases": cases, "resized": resized, "positions": positions, "roi": rois}) + "\n")


FULL = {"layers": 23, "vit_width": 1024, "vit_heads": 16, "vit_hidden": 4096, "vit_side": 24, "width": 4096, "head_width": 128}
STRIDE = 131


def full():
    cases = []
    shared = None
    for policy, side, (w, h) in [("paper", 8, (350, 340)), ("v1", 12, (90, 110))]:
        model = Model({**FULL, "side": side}, torch.float64)
        # The encoder's weights are the same ones.
        model.cache.update(shared or {})
        with torch.inference_mode():
            visual = model.visual(policy, w, h)
        shared = {name: value for name, value in model.cache.items() if name.startswith("vision_model.")}
        cases.append({
            "policy": policy, "side": side, "size": [w, h], "shape": list(visual.shape),
            "samples": encoded(visual.flatten()[::STRIDE]), "rows": encoded(visual.sum(1)),
        })
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "llava-uhd-full.json"
    path.write_text(json.dumps({"torch": torch.__version__, "model": FULL, "stride": STRIDE, "cases": cases}) + "\n")


def live(config_path, directory):
    config = json.loads(pathlib.Path(config_path).read_text())
    out = pathlib.Path(directory)
    generator.write_safetensors(out / "weights.safetensors", config["parameters"])
    model = Model(config["model"], torch.float32)
    with torch.inference_mode():
        for w, h in config["sizes"]:
            (out / f"result-{w}-{h}.bin").write_bytes(model.visual(config["policy"], w, h).float().numpy().tobytes())


if __name__ == "__main__":
    if sys.argv[1] == "fixture":
        fixture()
    elif sys.argv[1] == "full":
        full()
    else:
        live(sys.argv[2], sys.argv[3])
