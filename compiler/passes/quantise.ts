// Weights that are read along rows (by matrix products, as rows of a table) become packed parameters and `unpack`, so that
// the device keeps them packed. A checkpoint's numbers are packed while they are loaded. Keeps everything else as it is,
// and says why where the policy asked for more.
//   param w: f32[N, K]  ->  unpack(param w.values, param w.scales, …)

import { dim, dimConstant } from "../ir/dim.ts";
import { typeText } from "../ir/graph/build.ts";
import type { GraphNode, OpNode, ParamNode, ValueId } from "../ir/graph/types.ts";
import { blockElements, hasMinima, packedBits, packedName, type PackedFormat, type PackedPart } from "../ir/plan/packed.ts";
import { typeRule } from "../../ops/index.ts";
import { usersOf, type Example, type Pass } from "./rewrite.ts";

/** The format a parameter is to have; undefined: as it is declared. */
export type QuantisePolicy = (param: { readonly name: string; readonly shape: readonly number[] }) => PackedFormat | undefined;

/** int8 is q8_0 and int4 is q4_0, for every weight that can be packed. */
export type Quantise = "int8" | "int4" | PackedFormat | QuantisePolicy;

/** A matrix that the policy wanted packed and that stays as it is. */
export interface Unquantised {
  readonly name: string;
  readonly reason: string;
}

function policyOf(quantise: Quantise): QuantisePolicy {
  if (typeof quantise === "function") return quantise;
  const format = quantise === "int8" ? "q8_0" : quantise === "int4" ? "q4_0" : quantise;
  return () => format;
}

/** The pass for a policy; `onKept` hears of each matrix that it would have packed and does not, and why. */
export function quantiseParams(quantise: Quantise, onKept: (kept: Unquantised) => void = () => undefined): Pass {
  const policy = policyOf(quantise);
  return {
    name: "quantise-params",
    description: "weights that are read along rows become packed parameters, unpacked where they are read",
    run: (graph) => {
      const users = usersOf(graph);
      const ends = new Set([...graph.outputs, ...graph.updates].map((e) => e.value));
      let next = graph.nodes.reduce((most, n) => Math.max(most, n.id + 1), 0);
      const nodes = graph.nodes.flatMap((node): readonly GraphNode[] => {
        if (node.kind !== "param" || node.packed !== undefined) return [node];
        const shape = node.type.shape.map((d) => dimConstant(d) ?? -1);
        const format = policy({ name: node.name, shape });
        if (format === undefined) return [node];
        const reason = refusal(node, shape, users, ends);
        if (reason === undefined) return packedNodes(node, shape, format, () => next++);
        if (shape.length > 1) onKept({ name: node.name, reason });
        return [node];
      });
      return { ...graph, nodes };
    },
  };
}

/** Why a parameter stays as it is. */
function refusal(
  node: ParamNode,
  shape: readonly number[],
  users: ReadonlyMap<ValueId, readonly OpNode[]>,
  ends: ReadonlySet<ValueId>,
): string | undefined {
  if (shape.length !== 2) return `${typeText(node.type)} is no matrix`;
  if (node.type.dtype !== "f32") return `it is ${node.type.dtype}, and packed weights stand for f32`;
  const row = shape[1] ?? 0;
  if (row === 0 || row % blockElements !== 0) return `its rows of ${row} are not blocks of ${blockElements}`;
  if (ends.has(node.id)) return "it is a result of the graph";
  for (const user of users.get(node.id) ?? [])
    if (!readsRows(user, node.id, users, ends)) return `${user.op} reads it otherwise than along its rows`;
  return undefined;
}

/** Does `user` read `value` as the transposed right operand of a product or as rows of a table? */
function readsRows(user: OpNode, value: ValueId, users: ReadonlyMap<ValueId, readonly OpNode[]>, ends: ReadonlySet<ValueId>): boolean {
  const [first, second] = user.operands;
  if (user.op === "matmul") {
    const { transpose_a: a, transpose_b: b } = user.attrs;
    return first !== value && second === value && a !== true && b === true;
  }
  if (user.op === "gather") return first === value && second !== value;
  // Tokens and embeddings from elsewhere in one table.
  if (user.op !== "concat" || user.attrs["axis"] !== 0 || ends.has(user.id)) return false;
  const readers = users.get(user.id) ?? [];
  return readers.every((r) => r.op === "gather" && r.operands[0] === user.id && r.operands[1] !== user.id);
}

/** The parts of the weight, and the op that stands for it from here on, under its id. */
function packedNodes(node: ParamNode, shape: readonly number[], format: PackedFormat, id: () => ValueId): readonly GraphNode[] {
  const { name, loc, init } = node;
  const [rows = 0, row = 0] = shape;
  const blocks = row / blockElements;
  const bits = packedBits(format);
  const parts: readonly PackedPart[] = hasMinima(format) ? ["values", "scales", "minima"] : ["values", "scales"];
  const params = parts.map((part): ParamNode => {
    const type =
      part === "values"
        ? ({ dtype: "i32", shape: [dim(rows), dim(blocks * bits)] } as const)
        : ({ dtype: "f16", shape: [dim(rows), dim(blocks)] } as const);
    const packed = { of: name, shape, format, part };
    return { kind: "param", id: id(), type, loc, name: packedName(name, part), packed, ...(init === undefined ? {} : { init }) };
  });
  const attrs = { bits };
  const type = typeRule(
    "unpack",
    params.map((p) => p.type),
    attrs,
  );
  return [...params, { kind: "op", id: node.id, type, loc, op: "unpack", operands: params.map((p) => p.id), attrs }];
}

export const quantiseParamsExamples: readonly (Example & { readonly quantise: Quantise; readonly kept: readonly Unquantised[] })[] = [
  {
    says: "a weight of products becomes values and scales; vectors and matrices that are read otherwise stay",
    quantise: "int8",
    kept: [
      { name: "narrow", reason: "its rows of 33 are not blocks of 32" },
      { name: "added", reason: "add reads it otherwise than along its rows" },
    ],
    before: `graph "layer" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 64]
  %1 = input "y" : f32[T, 33]
  %2 = param "w" ~ normal(0.02) : f32[3, 64]
  %3 = param "narrow" : f32[3, 33]
  %4 = param "added" : f32[3, 64]
  %5 = param "bias" : f32[3]
  %6 = matmul(%0, %2) {transpose_a: false, transpose_b: true} : f32[T, 3]
  %7 = matmul(%1, %3) {transpose_a: false, transpose_b: true} : f32[T, 3]
  %8 = add(%4, %4) : f32[3, 64]
  %9 = broadcast(%5) {shape: dims[T, 3]} : f32[T, 3]
  %10 = add(%6, %9) : f32[T, 3]
  output "p" = %10
  output "q" = %7
  output "r" = %8
}`,
    after: `graph "layer" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 64]
  %1 = input "y" : f32[T, 33]
  %2 = param "w.values" ~ normal(0.02) of q8_0 values "w" [3, 64] : i32[3, 16]
  %3 = param "w.scales" ~ normal(0.02) of q8_0 scales "w" [3, 64] : f16[3, 2]
  %4 = unpack(%2, %3) {bits: 8} : f32[3, 64]
  %5 = param "narrow" : f32[3, 33]
  %6 = param "added" : f32[3, 64]
  %7 = param "bias" : f32[3]
  %8 = matmul(%0, %4) {transpose_a: false, transpose_b: true} : f32[T, 3]
  %9 = matmul(%1, %5) {transpose_a: false, transpose_b: true} : f32[T, 3]
  %10 = add(%6, %6) : f32[3, 64]
  %11 = broadcast(%7) {shape: dims[T, 3]} : f32[T, 3]
  %12 = add(%8, %11) : f32[T, 3]
  output "p" = %12
  output "q" = %9
  output "r" = %10
}`,
  },
  {
    says: "an embedding that is the head too is packed once; what is gathered may lie beside it",
    quantise: ({ name }) => (name === "table" ? "q4_1" : undefined),
    kept: [],
    before: `graph "tied" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 32]
  %1 = input "rows" : i32[T]
  %2 = param "table" : f32[5, 32]
  %3 = concat(%2, %0) {axis: 0} : f32[T + 5, 32]
  %4 = gather(%3, %1) : f32[T, 32]
  %5 = matmul(%4, %2) {transpose_a: false, transpose_b: true} : f32[T, 5]
  output "logits" = %5
}`,
    after: `graph "tied" {
  symbol T: 0..8
  %0 = input "x" : f32[T, 32]
  %1 = input "rows" : i32[T]
  %2 = param "table.values" of q4_1 values "table" [5, 32] : i32[5, 4]
  %3 = param "table.scales" of q4_1 scales "table" [5, 32] : f16[5, 1]
  %4 = param "table.minima" of q4_1 minima "table" [5, 32] : f16[5, 1]
  %5 = unpack(%2, %3, %4) {bits: 4} : f32[5, 32]
  %6 = concat(%5, %0) {axis: 0} : f32[T + 5, 32]
  %7 = gather(%6, %1) : f32[T, 32]
  %8 = matmul(%7, %5) {transpose_a: false, transpose_b: true} : f32[T, 5]
  output "logits" = %8
}`,
  },
];
