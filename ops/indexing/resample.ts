// Pillow's two resampling passes for every picture of an image at once, driven by tables of shape code. The
// tables say which source row, taps and patch each output element uses, so the kernels search for nothing.
// Does not compute taps (see compiler/ir/plan/host-builtins.ts).

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { add, binary, fold, i32, mul, select, variable } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { clip8, lt, part } from "../expr.ts";
import { elementAt, item, tabulate, tensor } from "../reference/tensor.ts";
import { dimAttr, intAttr, needDType, needRank, needSameSize, operandAt, sizeAt } from "../rules.ts";
import { rough, tensorOf, type Arb, type FC } from "../sampling.ts";
import { exact } from "../tolerances.ts";
import type { RefTensor } from "../define.ts";

const width = dimAttr("width", "Wm, the width of the widest picture.");
const channels = intAttr("channels", "How many channels are kept; the image may have one more, which is ignored.", 3);
const patch = intAttr("patch", "The side of a patch in pixels.");

/** (2^21 + sum) >> 22, clipped to 0 … 255: weights have 22 bits of fraction. */
const settle = (sum: number): number => Math.max(0, Math.min(255, (sum + 2 ** 21) >> 22));
const settleExpr = (sum: Expr): Expr => clip8(binary("shr", add(i32(2 ** 21), sum), i32(22)));

const reason = "pixels are integers and the taps are fixed by the picture's size";
const why = { ...exact, why: "Integer arithmetic, as Pillow does it." };

/** Tables of `n` rows of `k` weights whose sums cannot overflow 32 bits, roughly 1 in total. */
function weights(fc: FC, n: number, k: number): Arb<RefTensor> {
  const each = Math.floor((1.5 * 2 ** 22) / k);
  return tensorOf(fc, "i32", [n, k], fc.integer({ min: -Math.floor(each / 3), max: each }));
}

export const resample_rows = defineOp({
  name: "resample_rows",
  doc: "The horizontal pass: result[c, l, x] = clip8((2²¹ + Σₖ image[line_row[l], start[j] + k, c] · weight[j, k]) >> 22) with j = line_table[l] + x and k below taps[j], for x below line_width[l]; 0 beyond. One line per source row that a picture needs.",
  kind: "indexing",
  operands: [
    { name: "image", doc: "u8[H, W, C], C = channels or one more" },
    { name: "line_row", doc: "i32[L], the source row of each line" },
    { name: "line_table", doc: "i32[L], the first row of start and weight of the line's picture" },
    { name: "line_width", doc: "i32[L], the width of the line's picture; at most Wm" },
    { name: "start", doc: "i32[X], the first source column of each output column" },
    { name: "taps", doc: "i32[X], how many columns it is made of; at most K, and start + taps is at most W" },
    { name: "weight", doc: "i32[X, K], with 22 bits of fraction" },
  ],
  attrs: [width.spec, channels.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, (d) => d === "u8", "u8");
    needRank(operands, 0, 3);
    for (const i of [1, 2, 3, 4, 5, 6]) {
      needDType(operands, i, (d) => d === "i32", "i32");
      needRank(operands, i, i === 6 ? 2 : 1);
    }
    needSameSize(operands, 2, 0, 1, 0);
    needSameSize(operands, 3, 0, 1, 0);
    needSameSize(operands, 5, 0, 4, 0);
    needSameSize(operands, 6, 0, 4, 0);
    return { dtype: "u8", shape: [dim(channels.of(attrs)), sizeAt(operandAt(operands, 1).shape, 0), width.of(attrs)] };
  },
  reference: (operands, _attrs, out) => {
    const [image, row, table, wide, start, taps, weight] = [0, 1, 2, 3, 4, 5, 6].map((i) => operandAt(operands, i)) as [
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
    ];
    return tabulate("u8", out.shape, ([c = 0, l = 0, x = 0]) => {
      if (x >= item(wide.data, l)) return 0;
      const j = item(table.data, l) + x;
      let sum = 0;
      for (let k = 0; k < item(taps.data, j); k++)
        sum += elementAt(image, [item(row.data, l), item(start.data, j) + k, c]) * elementAt(weight, [j, k]);
      return settle(sum);
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, fresh }) => {
      const [c, l, x] = [part(index, 0), part(index, 1), part(index, 2)];
      const j = add(at(2, [l]), x);
      const name = fresh("tap");
      const k = variable(name);
      const sum = fold("sum", name, i32(0), at(5, [j]), mul(at(0, [at(1, [l]), add(at(4, [j]), k), c]), at(6, [j, k])));
      return select(lt(x, at(3, [l])), settleExpr(sum), i32(0));
    },
  },
  derivative: { kind: "nonDifferentiable", reason },
  flops: (operands, _attrs, out) => dimMul(dimMul(dim(2), dimProduct(out.shape)), sizeAt(operandAt(operands, 6).shape, 1)),
  recompute: false,
  tolerance: why,
  samples: (fc) =>
    fc
      .tuple(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 9 }),
        fc.constantFrom(3, 4),
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 3 }),
        fc.nat(6),
        fc.nat(3),
      )
      .chain(([h, w, c, taps, pictures, lines, extra]) => {
        const k = Math.min(taps, w);
        const firsts = pictures.map((_, i) => pictures.slice(0, i).reduce((a, b) => a + b, 0));
        const x = pictures.reduce((a, b) => a + b, 0);
        return fc
          .tuple(
            tensorOf(fc, "u8", [h, w, c], fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0, 255))),
            tensorOf(fc, "i32", [lines], fc.nat(h - 1)),
            fc.array(fc.nat(pictures.length - 1), { minLength: lines, maxLength: lines }),
            tensorOf(fc, "i32", [x], fc.nat(w - k)),
            tensorOf(fc, "i32", [x], fc.nat(k)),
            weights(fc, x, k),
          )
          .map(([image, row, of, start, used, weight]) => {
            const table = tensor(
              "i32",
              [lines],
              of.map((p) => item(firsts, p)),
            );
            const wide = tensor(
              "i32",
              [lines],
              of.map((p) => item(pictures, p)),
            );
            return rough([image, row, table, wide, start, used, weight], { width: dim(Math.max(...pictures) + extra), channels: 3 });
          });
      }),
});

export const resample_patches = defineOp({
  name: "resample_patches",
  doc: "The vertical pass, cut into patches: result[t, c, y, x] = clip8((2²¹ + Σₖ mid[c, patch_line[t] + start[j] + k, patch_column[t] + x] · weight[j, k]) >> 22) with j = patch_row[t] + y and k below taps[j]. A patch is (channel, row, column), as convolution weights are.",
  kind: "indexing",
  operands: [
    { name: "mid", doc: "u8[C, L, Wm], the result of resample_rows" },
    { name: "patch_line", doc: "i32[T], the first line of the patch's picture" },
    { name: "patch_row", doc: "i32[T], the row of start and weight of the patch's first pixel row" },
    { name: "patch_column", doc: "i32[T], the patch's first pixel column in its picture" },
    { name: "start", doc: "i32[Y], the first line of each output row, from the picture's first line" },
    { name: "taps", doc: "i32[Y], how many lines it is made of; at most K" },
    { name: "weight", doc: "i32[Y, K], with 22 bits of fraction" },
  ],
  attrs: [patch.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, (d) => d === "u8", "u8");
    needRank(operands, 0, 3);
    for (const i of [1, 2, 3, 4, 5, 6]) {
      needDType(operands, i, (d) => d === "i32", "i32");
      needRank(operands, i, i === 6 ? 2 : 1);
    }
    needSameSize(operands, 2, 0, 1, 0);
    needSameSize(operands, 3, 0, 1, 0);
    needSameSize(operands, 5, 0, 4, 0);
    needSameSize(operands, 6, 0, 4, 0);
    const side = dim(patch.of(attrs));
    return { dtype: "u8", shape: [sizeAt(operandAt(operands, 1).shape, 0), sizeAt(operandAt(operands, 0).shape, 0), side, side] };
  },
  reference: (operands, _attrs, out) => {
    const [mid, line, row, column, start, taps, weight] = [0, 1, 2, 3, 4, 5, 6].map((i) => operandAt(operands, i)) as [
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
      RefTensor,
    ];
    return tabulate("u8", out.shape, ([t = 0, c = 0, y = 0, x = 0]) => {
      const j = item(row.data, t) + y;
      let sum = 0;
      for (let k = 0; k < item(taps.data, j); k++)
        sum += elementAt(mid, [c, item(line.data, t) + item(start.data, j) + k, item(column.data, t) + x]) * elementAt(weight, [j, k]);
      return settle(sum);
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, fresh }) => {
      const [t, c, y, x] = [part(index, 0), part(index, 1), part(index, 2), part(index, 3)];
      const j = add(at(2, [t]), y);
      const name = fresh("tap");
      const k = variable(name);
      const from = add(add(at(1, [t]), at(4, [j])), k);
      return settleExpr(fold("sum", name, i32(0), at(5, [j]), mul(at(0, [c, from, add(at(3, [t]), x)]), at(6, [j, k]))));
    },
  },
  derivative: { kind: "nonDifferentiable", reason },
  flops: (operands, _attrs, out) => dimMul(dimMul(dim(2), dimProduct(out.shape)), sizeAt(operandAt(operands, 6).shape, 1)),
  recompute: false,
  tolerance: why,
  samples: (fc) =>
    fc
      .tuple(
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 6 }),
        fc.nat(4),
      )
      .chain(([side, high, wide, k, spare, patches]) => {
        const [rows, lines, across] = [high * side, k + spare, wide * side];
        return fc
          .tuple(
            tensorOf(fc, "u8", [3, lines + 2, across], fc.integer({ min: 0, max: 255 })),
            tensorOf(fc, "i32", [patches], fc.nat(2)),
            tensorOf(
              fc,
              "i32",
              [patches],
              fc.nat(high - 1).map((r) => r * side),
            ),
            tensorOf(
              fc,
              "i32",
              [patches],
              fc.nat(wide - 1).map((r) => r * side),
            ),
            tensorOf(fc, "i32", [rows], fc.nat(spare)),
            tensorOf(fc, "i32", [rows], fc.nat(k)),
            weights(fc, rows, k),
          )
          .map((all) => rough(all, { patch: side }));
      }),
});
