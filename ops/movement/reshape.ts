// reshape: the same elements in another shape.

import { dim, dimProduct, type Dim } from "../../compiler/ir/dim.ts";
import { i32 } from "../../compiler/ir/kernel/build.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { reshape as emitReshape } from "../emit.ts";
import { linearIndex } from "../expr.ts";
import { countOf, tensor } from "../reference/tensor.ts";
import { dimsAttr, operandAt, shapeText } from "../rules.ts";
import { elementwiseShapes, exactElements, reals, rough, smooth, tensorOf, type Arb, type FC } from "../sampling.ts";
import { exact } from "../tolerances.ts";

const shape = dimsAttr("shape", "The sizes of the result; their product is the element count of x.");

/** Other shapes with as many elements: the sizes multiplied together in runs, ones put between. */
function sameCount(fc: FC, of: readonly number[]): Arb<number[]> {
  return fc.tuple(fc.array(fc.boolean(), { minLength: of.length, maxLength: of.length }), fc.boolean()).map(([join, one]) => {
    const sizes: number[] = [];
    for (const [i, n] of of.entries()) {
      const last = sizes.pop();
      if (last === undefined) sizes.push(n);
      else if (join[i] === true) sizes.push(last * n);
      else sizes.push(last, n);
    }
    return one ? [...sizes.slice(0, 1), 1, ...sizes.slice(1)] : sizes;
  });
}

function lead(a: readonly Dim[], b: readonly Dim[]): number {
  let i = 0;
  while (i < a.length && i < b.length && a[i]?.text === b[i]?.text) i++;
  return i;
}

export const reshape = defineOp({
  name: "reshape",
  doc: "The elements of x, in row-major order, in another shape.",
  kind: "movement",
  view: "order",
  operands: [{ name: "x", doc: "any element type[…]" }],
  attrs: [shape.spec],
  type: (operands, attrs) => {
    const x = operandAt(operands, 0);
    const to = shape.of(attrs);
    const from = dimProduct(x.shape);
    const into = dimProduct(to);
    if (from.text !== into.text) {
      throw new OpTypeError(
        0,
        `${shapeText(x.shape)} and ${shapeText(to)} are not known to have the same number of elements`,
        `${into.text} elements`,
        `${from.text} elements`,
      );
    }
    return { dtype: x.dtype, shape: to };
  },
  reference: (operands, _attrs, out) => tensor(out.dtype, out.shape, operandAt(operands, 0).data),
  lowering: {
    kind: "element",
    emit: (index, context) => {
      const from = operandAt(context.types, 0).shape;
      const to = context.out.shape;
      const same = lead(from, to);
      // Past the leading sizes that agree, a part of one dimension on both sides needs no division.
      if (from.length === to.length && same >= to.length - 1) return context.at(0, index);
      const kept = to.slice(same).filter((d) => d.text !== "1");
      const wanted = from.slice(same).filter((d) => d.text !== "1");
      if (kept.length === wanted.length && kept.every((d, i) => d.text === wanted[i]?.text)) {
        // Only ones come or go: every other part keeps its place.
        const parts = index.slice(same).filter((_, i) => to[same + i]?.text !== "1");
        let next = 0;
        return context.at(0, [
          ...index.slice(0, same),
          ...from.slice(same).map((d) => (d.text === "1" ? i32(0) : operandAt(parts, next++))),
        ]);
      }
      return context.atLinear(0, linearIndex(index, to));
    },
  },
  derivative: {
    kind: "vjp",
    build: (emit, { operands, cotangent }) => [emitReshape(emit, cotangent, emit.typeOf(operandAt(operands, 0)).shape)],
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc.tuple(elementwiseShapes(fc), fc.constantFrom("f32", "u8", "bool", "i32")).chain(([from, dtype]) =>
      fc
        .tuple(tensorOf(fc, dtype, from, dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype)), sameCount(fc, from))
        .map(([x, to]) => {
          if (countOf(to) !== countOf(from)) throw new Error("the generator of reshape changed the element count");
          return (dtype === "f32" ? smooth : rough)([x], { shape: to.map((n) => dim(n)) });
        }),
    ),
});
