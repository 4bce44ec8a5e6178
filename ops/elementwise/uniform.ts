// uniform: random numbers that depend on a seed and a counter alone, by Threefry-2x32 with 20 rounds (Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3"). Integer operations only, so every device gives the same bits.

import { dim, dimMul, dimProduct } from "../../compiler/ir/dim.ts";
import { add, binary, cast, f32, i32, mul } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { defineOp } from "../define.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { needDType, needSameShape, operandAt } from "../rules.ts";
import { elementwiseShapes, integers, rough, tensorOf } from "../sampling.ts";
import { exact } from "../tolerances.ts";

/** How a word is made of others: on numbers for the reference, on expressions for kernels. */
interface Words<T> {
  readonly constant: (value: number) => T;
  readonly add: (a: T, b: T) => T;
  readonly xor: (a: T, b: T) => T;
  readonly rotate: (a: T, by: number) => T;
}

const rotations = [
  [13, 15, 26, 6],
  [17, 29, 16, 24],
] as const;
/** What the third word of the key is made from. */
const parity = 0x1bd11bda;

/** The first of the two words. A round adds and mixes; after every four of them the key comes in again. */
function threefry<T>({ constant, add: plus, xor, rotate }: Words<T>, key: readonly [T, T], counter: readonly [T, T]): T {
  const keys = [key[0], key[1], xor(xor(constant(parity), key[0]), key[1])] as const;
  let [x, y] = [plus(counter[0], keys[0]), plus(counter[1], keys[1])];
  for (let group = 0; group < 5; group++) {
    for (const by of rotations[group % 2 === 0 ? 0 : 1]) {
      x = plus(x, y);
      y = xor(rotate(y, by), x);
    }
    x = plus(x, keys[((group + 1) % 3) as 0 | 1 | 2]);
    y = plus(plus(y, keys[((group + 2) % 3) as 0 | 1 | 2]), constant(group + 1));
  }
  return x;
}

const numbers: Words<number> = {
  constant: (value) => value,
  add: (a, b) => (a + b) | 0,
  xor: (a, b) => a ^ b,
  rotate: (a, by) => (a << by) | (a >>> (32 - by)),
};

const bitAnd = (a: Expr, b: number): Expr => binary("bitand", a, i32(b));
/** The shift of expressions keeps the sign. */
const shiftRight = (a: Expr, by: number): Expr => bitAnd(binary("shr", a, i32(by)), 2 ** (32 - by) - 1);
const expressions: Words<Expr> = {
  constant: i32,
  add,
  xor: (a, b) => binary("bitxor", a, b),
  rotate: (a, by) => binary("bitor", binary("shl", a, i32(by)), shiftRight(a, 32 - by)),
};

/** The first word of Threefry-2x32-20, for tests with published values. */
export function threefryWord(key: readonly [number, number], counter: readonly [number, number]): number {
  return threefry(numbers, key, counter);
}

const steps = 2 ** -24;

export const uniform = defineOp({
  name: "uniform",
  doc: "A random number from 0 up to below 1, in steps of 2^-24: the upper 24 bits of the first word of Threefry-2x32 with 20 rounds, with the key (key_a, key_b) at the counter (counter_a, counter_b). The same on every device.",
  kind: "elementwise",
  operands: [
    { name: "key_a", doc: "i32[…]" },
    { name: "key_b", doc: "i32, the shape of key_a" },
    { name: "counter_a", doc: "i32, the shape of key_a" },
    { name: "counter_b", doc: "i32, the shape of key_a" },
  ],
  attrs: [],
  type: (operands) => {
    for (const i of [0, 1, 2, 3]) {
      needDType(operands, i, (d) => d === "i32", "i32");
      if (i > 0) needSameShape(operands, i, 0);
    }
    return { dtype: "f32", shape: operandAt(operands, 0).shape };
  },
  reference: (operands, _attrs, out) =>
    tabulate("f32", out.shape, (_, i) => {
      const [a, b, c, d] = [0, 1, 2, 3].map((o) => item(operandAt(operands, o).data, i));
      return (threefryWord([a ?? 0, b ?? 0], [c ?? 0, d ?? 0]) >>> 8) * steps;
    }),
  lowering: {
    kind: "scalar",
    emit: (args) => {
      const at = (i: number): Expr => operandAt(args, i);
      return mul(cast(shiftRight(threefry(expressions, [at(0), at(1)], [at(2), at(3)]), 8), "f32"), f32(steps));
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "the operands are integers" },
  flops: (_operands, _attrs, out) => dimMul(dim(140), dimProduct(out.shape)),
  recompute: true,
  tolerance: exact,
  samples: (fc) =>
    elementwiseShapes(fc).chain((shape) => {
      const words = tensorOf(fc, "i32", shape, fc.oneof(integers(fc), fc.integer({ min: -2147483648, max: 2147483647 })));
      return fc.tuple(words, words, words, words).map((all) => rough(all));
    }),
});
