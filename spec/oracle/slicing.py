"""Slicing policies in plain Python, written from the formulas and apart from graphs/slicing.uhd."""

import math


def pairs(n):
    return [(c, n // c) for c in range(1, n + 1) if n % c == 0]


def first_minimum(candidates, cost):
    best, least = None, math.inf
    for candidate in candidates:
        value = cost(*candidate)
        if value < least:
            best, least = candidate, value
    return best


def paper_fit(w, h):
    s = math.sqrt(576 * (14 / h) * (14 / w))
    return tuple(max(1, min(576, math.floor(s * side / 14))) for side in (w, h))


def area_fit(w, h, base, up, even):
    if w * h > base * base or up:
        r = w / h
        h = math.trunc(base / math.sqrt(r))
        w = math.trunc(h * r)
    whole = round if even else math.floor
    return tuple(max(14 * whole(side / 14), 14) // 14 for side in (w, h))


def paper(W, H):
    """(grid or None, patches of a slice, patches of the overview)."""
    n = min(math.ceil(W * H / (336 * 336)), 6)
    if n <= 1:
        return None, None, paper_fit(W, H)
    candidates = [p for k in (n - 1, n, n + 1) if 2 <= k <= 6 for p in pairs(k)]
    c, r = first_minimum(candidates, lambda c, r: abs(math.log((W / c) / (H / r)) - math.log(336 / 336)))
    return (c, r), paper_fit(W / c, H / r), paper_fit(W, H)


def seed(W, H):
    n = min(math.ceil(W * H / (336 * 336)), 6)
    counts = (n, n + 1) if n <= 2 else (n - 1, n, n + 1)
    grid = first_minimum([p for k in counts for p in pairs(k)], lambda c, r: abs(math.log(c / r) - math.log(W / H)))
    fit = paper_fit(W, H)
    return grid, fit, fit


def by_area(W, H, base, most, even):
    n = min(math.ceil(W * H / (base * base)), most)
    if n <= 1:
        return None, None, area_fit(W, H, base, True, even)
    candidates = [p for k in (n - 1, n, n + 1) if k != 1 and k <= most for p in pairs(k)]
    c, r = first_minimum(candidates, lambda c, r: abs(math.log(c / r) - math.log(W / H)))
    whole = round if even else math.floor
    cell = [max(g * whole(side / g), g) / g for side, g in ((W, c), (H, r))]
    return (c, r), area_fit(cell[0], cell[1], base, True, even), area_fit(W, H, base, False, even)


def v1(W, H):
    return by_area(W, H, 336, 7, False)


def minicpm_v(W, H):
    return by_area(W, H, 448, 9, True)


if __name__ == "__main__":
    # Writes spec/fixtures/slicing.json: four policies on sizes of all kinds, one row [W, H, policy, grid, slice, overview].
    import json
    import pathlib
    import random

    random.seed(5)
    sizes = [(336, 336), (672, 1008), (1008, 672), (1024, 768), (1920, 1080), (300, 1200), (100, 100), (5000, 5000), (1000, 1000)]
    sizes += [(1, 1), (1, 1000), (1000, 1), (1, 10000), (20000, 20000), (448, 448), (475, 475), (476, 476), (337, 336)]
    sizes += [(random.randint(1, 20000), random.randint(1, 20000)) for _ in range(60)]
    sizes += [(random.randint(1, 1500), random.randint(1, 1500)) for _ in range(120)]
    sizes += [(n, n) for n in (random.randint(400, 4000) for _ in range(30))]
    rows = [[W, H, f.__name__, *f(W, H)] for W, H in sizes for f in (paper, seed, v1, minicpm_v)]
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "slicing.json"
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    print(len(rows), "rows")
