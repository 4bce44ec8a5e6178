// transpose: dimensions in another order.

import { dim } from "../../compiler/ir/dim.ts";
import { defineOp, OpTypeError } from "../define.ts";
import { item, elementAt, tabulate } from "../reference/tensor.ts";
import { axesIn, intsAttr, operandAt, sizeAt } from "../rules.ts";
import { exactElements, reals, rough, shapes, smooth, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";
import { part } from "../expr.ts";

const permutation = intsAttr("permutation", "For each dimension of the result, the dimension of x it is.");

/** For each dimension of x, the dimension of the result it became. */
function inverse(order: readonly number[]): number[] {
  const back = new Array<number>(order.length).fill(0);
  for (const [to, from] of order.entries()) back[from] = to;
  return back;
}

export const transpose = defineOp({
  name: "transpose",
  doc: "Dimensions in another order: result[i₀, …] has size and position of dimension permutation[j] of x in dimension j.",
  kind: "movement",
  view: "affine",
  operands: [{ name: "x", doc: "any element type[…]" }],
  attrs: [permutation.spec],
  type: (operands, attrs) => {
    const x = operandAt(operands, 0);
    const order = permutation.of(attrs);
    if (order.length !== x.shape.length || axesIn(order, x.shape.length).length !== x.shape.length || order.some((a) => a < 0)) {
      throw new OpTypeError(
        -1,
        `permutation [${order.join(", ")}] does not name each dimension of x once`,
        `${x.shape.length} distinct dimensions`,
        `[${order.join(", ")}]`,
      );
    }
    return { dtype: x.dtype, shape: order.map((a) => sizeAt(x.shape, a)) };
  },
  reference: (operands, attrs, out) => {
    const back = inverse(permutation.of(attrs));
    return tabulate(out.dtype, out.shape, (index) =>
      elementAt(
        operandAt(operands, 0),
        back.map((to) => item(index, to)),
      ),
    );
  },
  lowering: {
    kind: "element",
    emit: (index, context) =>
      context.at(
        0,
        inverse(permutation.of(context.attrs)).map((to) => part(index, to)),
      ),
  },
  derivative: {
    kind: "vjp",
    build: (emit, { cotangent, attrs }) => [emit.op("transpose", [cotangent], { permutation: inverse(permutation.of(attrs)) })],
  },
  flops: () => dim(0),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    fc.tuple(shapes(fc, 0, 4), fc.constantFrom("f32", "u8", "i32")).chain(([shape, dtype]) =>
      fc
        .tuple(
          tensorOf(fc, dtype, shape, dtype === "f32" ? reals(fc, -5, 5) : exactElements(fc, dtype)),
          fc.shuffledSubarray(
            shape.map((_, i) => i),
            { minLength: shape.length },
          ),
        )
        .map(([x, order]) => (dtype === "f32" ? smooth : rough)([x], { permutation: order })),
    ),
});
