// What both ways of attention's derivative on GPUs read: where rows and columns of its operands lie. Decides nothing.

import { dimConstant } from "../../ir/dim.ts";
import { add, advance, at, binary, int, mul } from "../../ir/imp/build.ts";
import type { ImpExpr } from "../../ir/imp/types.ts";
import type { Expr } from "../../ir/kernel/types.ts";
import type { Dot, GradientFacts } from "../attention-gradient-parts.ts";
import { emitAt, zeroed } from "../attention-parts.ts";
import type { Block, Emitter } from "../emit.ts";
import { unitName } from "../finish.ts";
import { coefficient } from "../merge.ts";
import { variable } from "./parts.ts";

type Load = Extract<Expr, { k: "load" }>;

/** The position of the first feature of a row or column, of the unit's head. */
export type Place = (block: Block, index: ImpExpr) => ImpExpr;

/** Rows and columns that are multiplied. */
export interface Operand {
  readonly depth: number;
  readonly row: Place;
  readonly column: Place;
  /** What rows are multiplied by first. */
  readonly scale: number;
}

/** A number of each row, or of each column. */
export interface OfOne {
  readonly ofRow: boolean;
  readonly place: Place;
}

export interface Summed {
  readonly log: OfOne;
  readonly delta?: OfOne;
  /** By column. */
  readonly value: Place;
  readonly features: number;
  /** Of the sums. */
  readonly scale: number;
}

export interface Gradient {
  readonly emitter: Emitter;
  /** How many rows there are. */
  readonly rows: ImpExpr;
  readonly from: Place;
  readonly to: Place;
  readonly score: Operand;
  readonly slope?: Operand;
  /** Undefined for logarithms. */
  readonly sum?: Summed;
  /** By row. */
  readonly result: Place;
  /** A number that drivers do not know: they would write out loops with it, which takes them long. */
  readonly unknown: (value: number) => ImpExpr;
}

/** The head is known in `root`, where what all rows and columns share is computed. */
export function gradientOf(f: GradientFacts, emitter: Emitter, root: Block): Gradient {
  const rowPlace = (l: { readonly buffer: string; readonly index: Expr }, neighbours?: string): Place => {
    const start = neighbours === undefined ? l.index : zeroed(l.index, neighbours);
    return (block, t) => emitter.name(block, "p", at(l.buffer, emitAt(emitter, block, start, f.row, t)));
  };
  /** Columns lie a stride apart, or anywhere where an index looks them up. */
  const columnPlace = (l: Load, neighbours?: string): Place => {
    const start = emitter.interner.intern(neighbours === undefined ? l.index : zeroed(l.index, neighbours));
    const step = coefficient(start, f.column, emitter);
    if (step === undefined) return (block, s) => emitter.name(block, "p", at(l.buffer, emitAt(emitter, block, start, f.column, s)));
    const base = emitter.emit(emitter.interner.intern(zeroed(start, f.column)), root, undefined);
    const from = emitter.name(root, "base", at(l.buffer, base));
    const constant = dimConstant(step);
    const by = constant === undefined ? emitter.name(root, "stride", emitter.size(step)) : int(constant);
    return (block, s) => emitter.name(block, "p", advance(from, mul(s, by)));
  };
  const operand = (dot: Dot, scale: number): Operand => ({
    depth: dot.depth,
    row: rowPlace(dot.row, dot.axis),
    column: columnPlace(dot.column, dot.axis),
    scale,
  });
  const ofOne = (l: Load): OfOne => {
    const ofRow = !emitter.reads.of(emitter.interner.intern(l.index)).has(f.column);
    return { ofRow, place: ofRow ? rowPlace(l) : columnPlace(l) };
  };
  const { sum } = f;
  const zero = emitter.name(root, "zero", binary("shr", variable(unitName), int(31)));
  return {
    emitter,
    rows: emitter.name(root, "all", emitter.size(f.rows)),
    from: (block, t) => emitter.name(block, "from", emitAt(emitter, block, f.from, f.row, t)),
    to: (block, t) => emitter.name(block, "to", emitAt(emitter, block, f.to, f.row, t)),
    score: operand(f.score, Math.fround(f.scale)),
    ...(sum?.slope === undefined ? {} : { slope: operand(sum.slope.dot, 1) }),
    ...(sum === undefined
      ? {}
      : {
          sum: {
            log: ofOne(sum.log),
            ...(sum.slope === undefined ? {} : { delta: ofOne(sum.slope.delta) }),
            value: columnPlace(sum.value, sum.feature),
            features: sum.features,
            scale: Math.fround(sum.scale),
          },
        }),
    result: rowPlace(f.out, sum?.feature),
    unknown: (value) => add(zero, int(value)),
  };
}
