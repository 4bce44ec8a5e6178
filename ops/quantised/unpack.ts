// unpack: the numbers that blocks of packed weights stand for, as GGUF's Q8_0, Q4_0 and Q4_1 hold them. Does not quantise
// (runtime/weights/packed.ts does).
//
// Note [Words of packed weights]
//   32 neighbours along the last dimension are a block and share a scale, and maybe a minimum. A block's bytes are those of
//   its GGUF block behind the scales, four to an i32, the first in the lowest bits. 8 bits: byte i is element i. 4 bits:
//   byte i has element i in its low bits and element i + 16 in its high ones.

import { dim, dimMul } from "../../compiler/ir/dim.ts";
import { add, binary, cast, div, f32, i32, mod, mul, sub } from "../../compiler/ir/kernel/build.ts";
import type { Expr } from "../../compiler/ir/kernel/types.ts";
import { blockElements } from "../../compiler/ir/plan/packed.ts";
import type { Attrs } from "../../compiler/ir/graph/types.ts";
import { defineOp, OpTypeError, type RefTensor } from "../define.ts";
import { part } from "../expr.ts";
import { toF16 } from "../reference/numbers.ts";
import { item, tabulate } from "../reference/tensor.ts";
import { intAttr, needDType, needRankAtLeast, needSameShape, needSameSize, operandAt, shapeText, sizeAt } from "../rules.ts";
import { edgy, integers, rough, shapes, tensorOf } from "../sampling.ts";
import { rounded } from "../tolerances.ts";

const bits = intAttr("bits", "8, signed; or 4, unsigned with minima, else less 8.");

function width(attrs: Attrs): 4 | 8 {
  const n = bits.of(attrs);
  if (n !== 4 && n !== 8) throw new OpTypeError(-1, "packed weights have 4 or 8 bits", "4 or 8", String(n));
  return n;
}

/** Words of a block. */
const words = (attrs: Attrs): number => width(attrs);

/** Where element k of a row is: its word, and the lowest of its bits there. */
function place(k: Expr, attrs: Attrs): { readonly word: Expr; readonly shift: Expr } {
  const [block, at] = [div(k, i32(blockElements)), mod(k, i32(blockElements))];
  const byte = width(attrs) === 8 ? at : mod(at, i32(16));
  const low = mul(mod(byte, i32(4)), i32(8));
  return {
    word: add(mul(block, i32(words(attrs))), div(byte, i32(4))),
    shift: width(attrs) === 8 ? low : add(low, mul(div(at, i32(16)), i32(4))),
  };
}

function elementOf(values: RefTensor, linear: number, n: 4 | 8): number {
  const [block, at] = [Math.floor(linear / blockElements), linear % blockElements];
  const byte = n === 8 ? at : at % 16;
  const word = item(values.data, block * n + Math.floor(byte / 4));
  const all = (word >> (8 * (byte % 4))) & 255;
  if (n === 8) return (all << 24) >> 24;
  return at < 16 ? all & 15 : all >> 4;
}

export const unpack = defineOp({
  name: "unpack",
  doc: "result[.., k] = scales[.., ⌊k/32⌋] · q[.., k] + minima[.., ⌊k/32⌋], where q are the numbers of `bits` bits in `values`; without minima, 4 bits stand for -8 … 7. Weights stay packed in memory: what reads the result unpacks it.",
  kind: "indexing",
  unpacks: true,
  operands: [
    { name: "values", doc: "i32[.., K·bits/32], elements in the order of GGUF's blocks" },
    { name: "scales", doc: "f16[.., K/32]" },
    { name: "minima", doc: "f16[.., K/32]", optional: true },
  ],
  attrs: [bits.spec],
  type: (operands, attrs) => {
    needDType(operands, 0, (d) => d === "i32", "i32");
    needRankAtLeast(operands, 0, 1);
    needDType(operands, 1, (d) => d === "f16", "f16");
    const [values, scales] = [operandAt(operands, 0).shape, operandAt(operands, 1).shape];
    if (scales.length !== values.length)
      throw new OpTypeError(1, "values and scales have the same dimensions", `${values.length} dimensions`, shapeText(scales), 0);
    for (let i = 0; i < values.length - 1; i++) needSameSize(operands, 1, i, 0, i);
    const blocks = sizeAt(scales, -1);
    if (dimMul(blocks, dim(words(attrs))).text !== sizeAt(values, -1).text)
      throw new OpTypeError(
        0,
        `a block of 32 is ${words(attrs)} words`,
        `${words(attrs)} times ${blocks.text}`,
        sizeAt(values, -1).text,
        1,
      );
    if (operands.length > 2) {
      needDType(operands, 2, (d) => d === "f16", "f16");
      needSameShape(operands, 2, 1);
    }
    return { dtype: "f32", shape: [...values.slice(0, -1), dimMul(blocks, dim(blockElements))] };
  },
  reference: (operands, attrs, out) => {
    const [values, scales, minima] = [operandAt(operands, 0), operandAt(operands, 1), operands[2]];
    const n = width(attrs);
    const offset = n === 4 && minima === undefined ? 8 : 0;
    return tabulate(out.dtype, out.shape, (_, linear) => {
      const block = Math.floor(linear / blockElements);
      const product = item(scales.data, block) * (elementOf(values, linear, n) - offset);
      return minima === undefined ? product : product + item(minima.data, block);
    });
  },
  lowering: {
    kind: "element",
    emit: (index, { at, attrs, types }) => {
      const lead = index.slice(0, -1);
      const k = part(index, index.length - 1);
      const { word, shift } = place(k, attrs);
      const value = at(0, [...lead, word]);
      const block = [...lead, div(k, i32(blockElements))];
      const minima = types.length > 2;
      const q =
        width(attrs) === 8
          ? binary("shr", binary("shl", value, sub(i32(24), shift)), i32(24))
          : binary("bitand", binary("shr", value, shift), i32(15));
      const whole = cast(q, "f32");
      const product = mul(at(1, block), width(attrs) === 4 && !minima ? sub(whole, f32(8)) : whole);
      return minima ? add(product, at(2, block)) : product;
    },
  },
  derivative: { kind: "nonDifferentiable", reason: "packed weights are rounded: train the weights they were made of" },
  // A way of reading: what counts are the operations on the numbers.
  flops: () => dim(0),
  recompute: true,
  tolerance: rounded,
  samples: (fc) =>
    fc
      .tuple(shapes(fc, 0, 2, 3), fc.integer({ min: 0, max: 3 }), fc.constantFrom(4, 8), fc.boolean())
      .chain(([lead, blocks, n, withMinima]) => {
        const half = edgy(fc, -3, 3, [NaN, Infinity, -Infinity, 0, -0, 6e-8, -5.9e-6, 65504]).map(toF16);
        const values = tensorOf(fc, "i32", [...lead, blocks * n], fc.oneof(integers(fc), fc.integer()));
        const scales = tensorOf(fc, "f16", [...lead, blocks], half);
        return (withMinima ? fc.tuple(values, scales, scales) : fc.tuple(values, scales)).map((all) => rough(all, { bits: n }));
      }),
});
