// slice: a range of one axis.

import { dim, dimAdd, dimConstant, dimDiv, dimMul, dimSub, type Dim } from "../../compiler/ir/dim.ts";
import { add, dimExpr, i32, mul } from "../../compiler/ir/kernel/build.ts";
import { defineOp, OpTypeError, type Emit } from "../define.ts";
import { reshape } from "../emit.ts";
import { elementAt, item, tabulate } from "../reference/tensor.ts";
import { axisIn, dimAttr, intAttr, operandAt, sizeAt, typeText } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";
import { part } from "../expr.ts";
import type { ValueId } from "../../compiler/ir/graph/types.ts";

const axis = intAttr("axis", "The dimension that is cut; negative counts from the end.");
const start = dimAttr("start", "The first position kept.");
const stop = dimAttr("stop", "The position after the last one that may be kept; at most the size.");
const step = intAttr("step", "Every step-th position is kept, from start.", 1);

/** How many positions from … to-1 in steps are. */
function length(from: Dim, to: Dim, by: number): Dim {
  const span = dimSub(to, from);
  return by === 1 ? span : dimDiv(dimAdd(span, dim(by - 1)), dim(by));
}

/** g with step-1 zeros after every position of `at`, so that a strided slice becomes a dense one. */
function dilate(emit: Emit, g: ValueId, at: number, by: number): ValueId {
  const shape = emit.typeOf(g).shape;
  const apart = reshape(emit, g, [...shape.slice(0, at + 1), dim(1), ...shape.slice(at + 1)]);
  const padded = emit.op("pad", [apart], { axis: at + 1, before: dim(0), after: dim(by - 1), value: 0 });
  return reshape(
    emit,
    padded,
    shape.map((d, i) => (i === at ? dimMul(d, dim(by)) : d)),
  );
}

export const slice = defineOp({
  name: "slice",
  doc: "Positions start, start+step, … below stop of one dimension of x.",
  kind: "movement",
  view: "affine",
  operands: [{ name: "x", doc: "any element type[…]" }],
  attrs: [axis.spec, start.spec, stop.spec, step.spec],
  type: (operands, attrs) => {
    const x = operandAt(operands, 0);
    const at = axisIn(axis.of(attrs), x.shape.length);
    const from = start.of(attrs);
    const to = stop.of(attrs);
    const by = step.of(attrs);
    const size = sizeAt(x.shape, at);
    if (by < 1) throw new OpTypeError(-1, "a slice's step must be at least 1", "1 or more", String(by));
    const [a, b, n] = [dimConstant(from), dimConstant(to), dimConstant(size)];
    const wrong =
      (a !== undefined && a < 0) ||
      (dimConstant(dimSub(to, from)) ?? 0) < 0 ||
      (dimConstant(dimSub(size, to)) ?? 0) < 0 ||
      (a !== undefined && n !== undefined && a > n) ||
      (b !== undefined && b < 0);
    if (wrong)
      throw new OpTypeError(
        0,
        `positions ${from.text} to ${to.text} are outside dimension ${at}`,
        `0 ≤ start ≤ stop ≤ ${size.text}`,
        `${from.text}:${to.text} of ${typeText(x)}`,
      );
    return { dtype: x.dtype, shape: x.shape.map((d, i) => (i === at ? length(from, to, by) : d)) };
  },
  reference: (operands, attrs, out) => {
    const x = operandAt(operands, 0);
    const at = axisIn(axis.of(attrs), x.shape.length);
    const from = dimConstant(start.of(attrs)) ?? NaN;
    return tabulate(out.dtype, out.shape, (index) =>
      elementAt(
        x,
        index.map((p, i) => (i === at ? from + step.of(attrs) * item(index, at) : p)),
      ),
    );
  },
  lowering: {
    kind: "element",
    emit: (index, { at, attrs, types }) => {
      const cut = axisIn(axis.of(attrs), operandAt(types, 0).shape.length);
      const from = start.of(attrs);
      const by = step.of(attrs);
      const position = part(index, cut);
      const scaled = by === 1 ? position : mul(position, i32(by));
      const moved = dimConstant(from) === 0 ? scaled : add(scaled, dimExpr(from));
      return at(
        0,
        index.map((p, i) => (i === cut ? moved : p)),
      );
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent, attrs }) => {
      const x = emit.typeOf(operandAt(operands, 0));
      const at = axisIn(axis.of(attrs), x.shape.length);
      const [from, to, by] = [start.of(attrs), stop.of(attrs), step.of(attrs)];
      let g = cotangent;
      if (by > 1) g = emit.op("slice", [dilate(emit, g, at, by)], { axis: at, start: dim(0), stop: dimSub(to, from), step: 1 });
      return [emit.op("pad", [g], { axis: at, before: from, after: dimSub(sizeAt(x.shape, at), to), value: 0 })];
    },
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc
      .tuple(
        shapes(fc, 1, 3, 7),
        fc.nat(2),
        fc.integer({ min: 0, max: 4 }),
        fc.integer({ min: 0, max: 4 }),
        fc.integer({ min: 1, max: 3 }),
        fc.boolean(),
        fc.constantFrom("f32", "u8", "i32"),
      )
      .chain(([shape, a, p, q, by, negative, dtype]) => {
        const at = a % shape.length;
        const n = item(shape, at);
        // p positions are cut off in front and q behind, as far as there are so many.
        const from = Math.min(p, n);
        const to = Math.max(from, n - q);
        const attrs = { axis: negative ? at - shape.length : at, start: dim(from), stop: dim(to), step: by };
        return tensorOf(fc, dtype, shape, dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype)).map((x) =>
          (dtype === "f32" ? smooth : rough)([x], attrs),
        );
      }),
});
