"""Writes spec/fixtures/pillow.json: images resized by Pillow (BICUBIC), and hashes of all pictures of two policies.

Run with a python3 that has Pillow and numpy: `python3 spec/oracle/pillow_resize.py`. Inputs come from generator.image.

The passes are called one by one, the horizontal one first, as Pillow has them inside up to version 12 (the one LLaVA-UHD
was made with). From version 13 on, Pillow turns them round where 2·(w - w') < h - h' and h' < h, which changes up to 5%
of the pixels of tall images; single passes are the same in all versions.
"""

import base64
import hashlib
import json
import pathlib

import numpy as np
import PIL
from PIL import Image

import generator
import slicing

# input width, height, output width, height (multiples of 14): up, down, both, thin, equal, one pixel.
CASES = [
    (37, 23, 28, 42), (100, 3, 14, 14), (5, 200, 28, 28), (3, 3, 42, 28), (64, 64, 14, 28), (1, 50, 14, 70),
    (28, 28, 28, 28), (28, 17, 28, 56), (1, 1, 14, 14), (333, 251, 42, 28), (30, 700, 14, 42), (13, 15, 14, 14),
]


def bicubic(image, size):
    """`image` resized by Pillow's two passes, the horizontal one first."""
    return image.resize((size[0], image.size[1]), Image.BICUBIC).resize(size, Image.BICUBIC)


def pictures(policy, width, height):
    """uint8 arrays [h, w, 3] of every picture in order, and their patches a side."""
    photo = Image.fromarray(generator.image(width, height))
    grid, cell, view = getattr(slicing, policy)(width, height)
    out = []
    if grid is not None:
        c, r = grid
        w, h = 14 * cell[0], 14 * cell[1]
        if policy == "paper":
            for row in range(r):
                for column in range(c):
                    box = (column * width // c, row * height // r, (column + 1) * width // c, (row + 1) * height // r)
                    out.append(np.asarray(bicubic(photo.crop(box), (w, h))))
        else:
            large = np.asarray(bicubic(photo, (c * w, r * h)))
            out += [large[j * h : (j + 1) * h, i * w : (i + 1) * w] for j in range(r) for i in range(c)]
    out.append(np.asarray(bicubic(photo, (14 * view[0], 14 * view[1]))))
    return out


def patches(picture):
    """uint8[T, 3, 14, 14] in raster order."""
    h, w = picture.shape[0] // 14, picture.shape[1] // 14
    return np.ascontiguousarray(picture.reshape(h, 14, w, 14, 3).transpose(0, 2, 4, 1, 3).reshape(h * w, 3, 14, 14))


if __name__ == "__main__":
    resized = []
    for w, h, tw, th in CASES:
        result = np.asarray(bicubic(Image.fromarray(generator.image(w, h)), (tw, th)))
        resized.append({"from": [w, h], "to": [tw, th], "pixels": base64.b64encode(result.tobytes()).decode()})
    hashed = []
    for policy, w, h in [("paper", 672, 1008), ("paper", 640, 427), ("paper", 200, 90), ("paper", 1920, 1080), ("paper", 300, 1200), ("v1", 640, 427), ("v1", 1000, 872), ("v1", 77, 91)]:
        data = np.concatenate([patches(p) for p in pictures(policy, w, h)])
        hashed.append({"policy": policy, "size": [w, h], "patches": len(data), "sha256": hashlib.sha256(data.tobytes()).hexdigest()})
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "pillow.json"
    path.write_text(json.dumps({"pillow": PIL.__version__, "resized": resized, "pictures": hashed}, indent=1) + "\n")
