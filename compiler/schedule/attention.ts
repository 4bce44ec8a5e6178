// The attention builder: softmax(scale · q·kᵀ) · v over ragged segments as one kernel that never holds the scores of
// all keys. A unit is a head and a block of queries. It walks over runs of queries whose keys begin at the same place;
// runs of a few queries go row by row (attention-direct.ts), others in tiles (attention-tiled.ts). Declines, so that
// the kernel becomes plain loops, where features are not neighbours in memory or their number is not constant.
//
// Note [Blocks of attention]. Measured on Zen 4 with 16 heads of 64 features, 577 tokens, one thread: 36 ms, of which
// the two products take 30 (45 GFLOPS, what the tile gives on long products too), softmax 4.5 and packing 1.
// - Blocks of 128 to 640 keys and 12 to 48 rows of scores differ by 3 %; so a block is what stays in the second-level
//   cache, and the rows of scores what stays in the first with a panel of values.
// - 48 queries a unit cost 8 % more than 192 (packing is paid once a unit), 288 gain nothing. 192 is also three of the
//   resampler's segments of 64 queries, which then are packed once and not twice: 7 %.
// - Heads vary fastest from unit to unit. With blocks fastest a head's keys stay in the cache, but thousands of short
//   segments went over all pages of K and V once a head: 40 against 28 ms for 4096 segments of one query and 6-12 keys.
// - Runs of 4 to 6 queries cost the same in both paths, shorter ones up to 40 % less row by row.
// - Queries are copied to scratch and scaled there. Rows of a [T, 3·H·D] buffer lie a multiple of 4 KiB apart, where
//   they would compete for a few sets of the first-level cache (a reason, not a measurement).

import { dim, dimAdd, dimConstant, dimDiv, dimMul, type Dim } from "../ir/dim.ts";
import { add, advance, at, binary, int, load, local, lt, mul, sub } from "../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch } from "../ir/imp/types.ts";
import { substitute } from "../ir/kernel/intern.ts";
import type { Expr, Kernel, Pattern } from "../ir/kernel/types.ts";
import { directGroup, directRow } from "./attention-direct.ts";
import {
  branch,
  directBelow,
  each,
  emitAt,
  emptyRow,
  keyBlock,
  put,
  queryBlock,
  scoreRows,
  scoreStride,
  scratch,
  set,
  stepping,
  zeroed,
  type Attention,
} from "./attention-parts.ts";
import { tiledRun } from "./attention-tiled.ts";
import type { Capabilities } from "./capabilities.ts";
import { Block, Emitter } from "./emit.ts";
import { finish, unitName } from "./finish.ts";
import { apart, coefficient } from "./merge.ts";

type Pat = Extract<Pattern, { k: "attention" }>;

/** Sizes beyond which the packed blocks would leave the caches. */
const mostFeatures = 512;

/** What the kernel's expressions say about memory; undefined where the builder does not fit. */
export interface AttentionFacts {
  readonly pattern: Pat;
  readonly queries: Dim;
  readonly heads: Dim;
  readonly inner: number;
  readonly features: number;
  /** How far apart neighbouring keys and values are; undefined where each is looked up in a table of places. */
  readonly keyStride: Dim | undefined;
  readonly valueStride: Dim | undefined;
  /** So many heads that follow each other read the same keys and values. Divides the number of heads. */
  readonly group: number;
  readonly out: { readonly buffer: string; readonly index: Expr };
  /** Units have a part of the keys each: see attention-split.ts. */
  readonly part: Pat["part"];
}

/** The function of an attention kernel, or undefined when plain loops have to do. */
export function lowerAttention(kernel: Kernel, capabilities: Capabilities): ImpFunction | undefined {
  if (capabilities.vector !== 4) return undefined;
  const emitter = new Emitter(kernel.buffers, true);
  const facts = recognise(kernel, emitter);
  if (facts === undefined) return undefined;
  const { pattern, part } = facts;
  const blocks = dimDiv(dimAdd(facts.queries, dim(queryBlock - 1)), dim(queryBlock));
  const root = new Block();
  const unit = local(unitName, "i32");
  // Heads of one block follow each other: they lie side by side in memory, on the same pages (see the Note).
  const heads = emitter.name(root, "heads", emitter.size(facts.heads));
  const turn = emitter.name(root, "block", binary("div", unit, heads));
  const head = emitter.name(root, pattern.head, sub(unit, mul(turn, heads)));
  root.remember(emitter.interner.intern({ k: "var", name: pattern.head, type: "i32" }), false, head);
  let block = turn;
  if (part !== undefined) {
    const count = emitter.name(root, "parts", emitter.size(part.count));
    block = emitter.name(root, "block", binary("div", turn, count));
    const number = emitter.name(root, part.axis, sub(turn, mul(block, count)));
    root.remember(emitter.interner.intern({ k: "var", name: part.axis, type: "i32" }), false, number);
  }
  const first = emitter.name(root, "first", mul(block, int(queryBlock)));
  const all = emitter.name(root, "queries", emitter.size(facts.queries));
  const end = emitter.name(root, "end", binary("min", add(first, int(queryBlock)), all));
  const c = context(facts, emitter, root, capabilities);
  stepping(c, root, "t", first, end, (inside, t) => {
    const from = c.from(inside, t);
    const { rows, to } = findRun(c, inside, t, end, from);
    branch(
      inside,
      lt(from, to),
      (some) =>
        branch(
          some,
          lt(rows, int(directBelow)),
          (few) => directRun(c, few, head, t, rows, from),
          (many) => tiledRun(c, many, t, rows, from, to),
        ),
      (none) => each(c, none, "r", int(0), rows, 1, (row, r) => emptyRow(c, row, c.result(row, emitter.name(row, "t", add(t, r))))),
    );
    return rows;
  });
  const units = dimMul(dimMul(blocks, part?.count ?? dim(1)), facts.heads);
  return finish(kernel, emitter, units, root.statements, scratchOf(c));
}

/** A few queries, row by row. Heads that share keys are done by the unit of the first of them: see attention-direct.ts. */
function directRun(c: Attention, block: Block, head: ImpExpr, t: ImpExpr, rows: ImpExpr, from: ImpExpr): void {
  const { emitter, group } = c;
  const all = (inside: Block): void =>
    each(c, inside, "r", int(0), rows, 1, (row, r) => {
      const [query, to] = [emitter.name(row, "t", add(t, r)), emitter.name(row, "to", load(at(scratch.ends, r), "i32"))];
      if (group.length === 1) directRow(c, row, query, from, to);
      else directGroup(c, row, query, from, to);
    });
  if (group.length === 1) all(block);
  else branch(block, binary("eq", binary("mod", head, int(group.length)), int(0)), all);
}

/**
 * How many queries from `t` on begin at key `from`, and the largest of the ends of their keys; the ends are left in
 * scratch. Ends may differ: causal queries of one segment each see one key more.
 */
function findRun(c: Attention, block: Block, t: ImpExpr, end: ImpExpr, from: ImpExpr): { readonly rows: ImpExpr; readonly to: ImpExpr } {
  const { emitter } = c;
  const most = emitter.name(block, "to", c.to(block, t), true);
  put(block, at(scratch.ends, int(0)), most);
  const rows = emitter.name(block, "rows", int(1), true);
  each(c, block, "r", int(1), sub(end, t), 1, (inside, r) => {
    // Still in the run: every query before was.
    branch(inside, binary("eq", rows, r), (near) => {
      const next = emitter.name(near, "t", add(t, r));
      branch(near, binary("eq", c.from(near, next), from), (mine) => {
        const to = c.to(mine, next);
        put(mine, at(scratch.ends, r), to);
        set(mine, most, binary("max", most, to));
        set(mine, rows, add(r, int(1)));
      });
    });
  });
  return { rows, to: most };
}

export function recognise(kernel: Kernel, emitter: Emitter): AttentionFacts | undefined {
  const { pattern, axes, stages, buffers } = kernel;
  if (pattern?.k !== "attention" || axes.length !== 3) return undefined;
  const { query, head, key, inner, feature, part } = pattern;
  // Of a part, what is stored by features follows the largest score and the sum.
  const [stage] = part === undefined ? stages : stages.slice(2);
  if (stage?.k !== "store" || stages.length !== (part === undefined ? 1 : 5) || stage.axes.length !== (part === undefined ? 0 : 1))
    return undefined;
  const extent = (name: string): Dim | undefined => [...axes, ...stage.axes].find((a) => a.name === name)?.extent;
  const [queries, heads, wide] = [extent(query), extent(head), extent(feature)];
  const [d, features] = [dimConstant(pattern.innerExtent), wide === undefined ? undefined : dimConstant(wide)];
  if (queries === undefined || heads === undefined || d === undefined || features === undefined) return undefined;
  if (d < 1 || features < 1 || d > mostFeatures || features > mostFeatures) return undefined;
  const floats = new Set(buffers.filter((b) => b.dtype === "f32").map((b) => b.name));
  if (![pattern.q.buffer, pattern.key_.buffer, pattern.value.buffer, stage.buffer].every((b) => floats.has(b))) return undefined;

  const { interner, reads } = emitter;
  /** The factor of `axis` in an index that reads nothing but `allowed`. */
  const factor = (index: Expr, axis: string, allowed: readonly string[]): Dim | undefined => {
    const whole = interner.intern(index);
    return [...reads.of(whole)].every((n) => allowed.includes(n)) ? coefficient(whole, axis, emitter) : undefined;
  };
  const adjacent = [
    factor(pattern.q.index, inner, [query, head, inner]),
    factor(pattern.key_.index, inner, [key, head, inner]),
    factor(pattern.value.index, feature, [key, head, feature]),
    factor(stage.index, feature, [query, head, feature, ...(part === undefined ? [] : [part.axis])]),
  ];
  if (!adjacent.every((f) => f !== undefined && dimConstant(f) === 1)) return undefined;
  const keyStride = factor(pattern.key_.index, key, [key, head, inner]);
  const valueStride = factor(pattern.value.index, key, [key, head, feature]);
  for (const [stride, { index }] of [
    [keyStride, pattern.key_],
    [valueStride, pattern.value],
  ] as const)
    if (stride === undefined && apart(interner.intern(index), key, reads) === undefined) return undefined;
  if ([pattern.from, pattern.to].some((e) => factor(e, feature, [query, head]) === undefined)) return undefined;
  const alike = [pattern.key_.index, pattern.value.index].map((e) => alikeHeads(interner.intern(e), head, heads, emitter));
  // Where segments differ by head, so do the keys that are seen.
  const ragged = [pattern.from, pattern.to].some((e) => reads.of(interner.intern(e)).has(head));
  const common = ragged ? 1 : alike.reduce(gcd);
  // Each has a row of scores.
  const group = Array.from({ length: scoreRows }, (_, i) => scoreRows - i).find((n) => common % n === 0) ?? 1;
  return { pattern, queries, heads, inner: d, features, keyStride, valueStride, group, out: stage, part };
}

/** How many heads that follow each other an index cannot tell apart: of `head / 3`, three; all where it does not read them. */
function alikeHeads(index: Expr, head: string, heads: Dim, { reads }: Emitter): number {
  const all = dimConstant(heads) ?? 1;
  const of = (e: Expr): number => {
    if (!reads.of(e).has(head)) return all;
    if (e.k === "binary" && e.op === "div" && e.a.k === "var" && e.b.k === "const" && all % e.b.value === 0) return e.b.value;
    return e.k === "binary" ? gcd(of(e.a), of(e.b)) : 1;
  };
  return of(index);
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

export function context(facts: AttentionFacts, emitter: Emitter, root: Block, capabilities: Capabilities): Attention {
  const { pattern } = facts;
  const { query, head, key, inner, feature } = pattern;
  const place = (buffer: string, index: Expr, neighbours: string) => {
    const start = zeroed(index, neighbours);
    return (block: Block, t: ImpExpr): ImpExpr => emitter.name(block, "p", at(buffer, emitAt(emitter, block, start, query, t)));
  };
  // Keys and values: a base for the head, and a stride or a place that is looked up.
  const placed = (load: Pat["key_"], neighbours: string, stride: ImpExpr | undefined) => {
    const whole = emitter.interner.intern(zeroed(load.index, neighbours));
    const parts = stride === undefined ? apart(whole, key, emitter.reads) : undefined;
    const base = emitter.interner.intern(parts?.rest ?? zeroed(whole, key));
    const start = emitter.name(root, "base", at(load.buffer, emitter.emit(base, root, undefined)));
    return (block: Block, s: ImpExpr): ImpExpr => {
      if (parts !== undefined) return advance(start, emitAt(emitter, block, parts.along, key, emitter.name(block, "s", s)));
      return advance(start, stride === undefined ? s : mul(s, stride));
    };
  };
  const stride = (d: Dim | undefined): ImpExpr | undefined => {
    const constant = d === undefined ? undefined : dimConstant(d);
    return d === undefined ? undefined : constant === undefined ? emitter.name(root, "stride", emitter.size(d)) : int(constant);
  };
  const valueStride = stride(facts.valueStride);
  const { part } = facts;
  const number = part === undefined ? undefined : root.known(emitter.interner.intern({ k: "var", name: part.axis, type: "i32" }), false);
  return {
    emitter,
    root,
    inner: facts.inner,
    features: facts.features,
    width: 8 * Math.ceil(facts.features / 8),
    scale: Math.fround(pattern.scale * Math.LOG2E),
    rows: scoreRows % capabilities.matmulRows === 0 ? capabilities.matmulRows : 4,
    query: place(pattern.q.buffer, pattern.q.index, inner),
    result: place(facts.out.buffer, facts.out.index, feature),
    group: Array.from({ length: facts.group }, (_, n) => ({
      query: place(pattern.q.buffer, headAfter(pattern.q.index, head, n), inner),
      result: place(facts.out.buffer, headAfter(facts.out.index, head, n), feature),
    })),
    from: (block, t) => emitAt(emitter, block, pattern.from, query, t),
    to: (block, t) => emitAt(emitter, block, pattern.to, query, t),
    key: placed(pattern.key_, inner, stride(facts.keyStride)),
    value: placed(pattern.value, feature, valueStride),
    valueStride,
    ...(part === undefined || number === undefined ? {} : { part: { number, count: emitter.size(part.count), keys: part.keys } }),
  };
}

/** `e` of the head that stands `n` behind. */
function headAfter(e: Expr, head: string, n: number): Expr {
  const here: Expr = { k: "var", name: head, type: "i32" };
  return n === 0 ? e : substitute(e, head, { k: "binary", op: "add", a: here, b: { k: "const", type: "i32", value: n }, type: "i32" });
}

function scratchOf(c: Attention): readonly ImpScratch[] {
  const f32 = (name: string, size: number): ImpScratch => ({ name, dtype: "f32", size: dim(size), space: "private" });
  const i32 = (name: string, size: number): ImpScratch => ({ ...f32(name, size), dtype: "i32" });
  return [
    f32(scratch.queries, queryBlock * c.inner),
    f32(scratch.keys, keyBlock * c.inner),
    f32(scratch.values, keyBlock * c.width),
    f32(scratch.scores, scoreRows * scoreStride),
    f32(scratch.sums, queryBlock * c.width),
    f32(scratch.top, queryBlock),
    f32(scratch.total, queryBlock),
    f32(scratch.shrink, queryBlock),
    i32(scratch.ends, queryBlock),
    i32(scratch.seen, scoreRows),
  ];
}
