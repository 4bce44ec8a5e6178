// Reductions that the lanes of a workgroup share: each lane reduces its part, then the parts are combined, within a
// subgroup by exchanges and beyond through workgroup memory. Every lane ends up with the same bits.

import { dim } from "../../ir/dim.ts";
import { add, at, binary, int, load, mul, store, typeOfImp } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpScratch } from "../../ir/imp/types.ts";
import { foldIdentity, typeOfExpr } from "../../ir/kernel/build.ts";
import type { Expr, FoldOp, KernelBuffer } from "../../ir/kernel/types.ts";
import { nameOf, type Block, type Emitter } from "../emit.ts";
import { laneName } from "../finish.ts";
import { unusedName, variable } from "./parts.ts";

type Fold = Extract<Expr, { k: "fold" }>;

export interface Workgroup {
  readonly lanes: number;
  readonly subgroups: number;
}

export class Sharing {
  private readonly emitter: Emitter;
  private readonly root: Block;
  private readonly group: Workgroup;
  private readonly buffers: readonly KernelBuffer[];
  /** A block of its own for every reduction: nobody waits until another one's is read. */
  readonly scratch: ImpScratch[];
  /** What the function says about subgroups. */
  readonly subgroup: Pick<ImpFunction, "subgroup">;

  constructor(emitter: Emitter, root: Block, group: Workgroup, buffers: readonly KernelBuffer[], scratch: ImpScratch[] = []) {
    this.scratch = scratch;
    this.emitter = emitter;
    this.root = root;
    this.group = group;
    this.buffers = buffers;
    this.subgroup = group.subgroups > 1 ? { subgroup: group.subgroups } : {};
  }

  /** Computes in the root block the reductions in `e` that are evaluated whenever it is and read none of `inner`. */
  folds(e: Expr, inner: readonly string[] = []): void {
    const seen = new Set<Expr>();
    const visit = (x: Expr): void => {
      if (seen.has(x) || this.root.known(x, false) !== undefined) return;
      seen.add(x);
      if (x.k === "fold") {
        if (!inner.some((n) => this.emitter.reads.of(x).has(n))) this.root.remember(x, false, this.fold(x, undefined));
      } else if (x.k === "iterate") {
        visit(x.init);
        if (!inner.some((n) => this.emitter.reads.of(x).has(n))) this.root.remember(x, false, this.iterate(x));
      } else if (x.k === "select") {
        visit(x.cond);
        this.sides(x, inner);
      } else if (x.k === "binary") [x.a, x.b].forEach(visit);
      else if (x.k === "unary" || x.k === "cast" || x.k === "bitcast") visit(x.a);
    };
    visit(e);
  }

  /** A reduction that is a side of a select goes over nothing where the other side is chosen. */
  private sides(x: Extract<Expr, { k: "select" }>, inner: readonly string[]): void {
    for (const side of [x.a, x.b]) {
      if (side.k !== "fold" || this.root.known(side, false) !== undefined) continue;
      if ([x.cond, side].some((p) => inner.some((n) => this.emitter.reads.of(p).has(n)))) continue;
      if (side.from.k !== "const" || (side.to.k !== "const" && side.to.k !== "dim")) continue;
      const cond = this.emitter.emit(x.cond, this.root, undefined);
      const chosen: ImpExpr = side === x.a ? cond : { k: "unary", op: "not", a: cond, type: "bool" };
      this.root.remember(side, false, this.fold(side, chosen));
    }
  }

  /** The lanes share the reductions of every step, and meet before the next one writes where this one was read. */
  private iterate(e: Extract<Expr, { k: "iterate" }>): ImpExpr {
    const { emitter, root } = this;
    this.invariant(e.body, [e.name, e.axis]);
    return emitter.iterate(e, root, (inside) => {
      const steps = new Sharing(emitter, inside, this.group, this.buffers, this.scratch);
      steps.folds(e.body);
      const next = emitter.name(inside, e.name, emitter.emit(e.body, inside, undefined));
      if (this.group.lanes > this.group.subgroups) inside.statements.push({ k: "barrier" });
      return next;
    });
  }

  /** Reductions in the body that are the same in every step. */
  private invariant(e: Expr, names: readonly string[]): void {
    const seen = new Set<Expr>();
    const visit = (x: Expr): void => {
      if (seen.has(x)) return;
      seen.add(x);
      if (!names.some((n) => this.emitter.reads.of(x).has(n))) this.folds(x);
      else if (x.k === "select") visit(x.cond);
      else if (x.k === "fold") [x.from, x.to].forEach(visit);
      else if (x.k === "binary") [x.a, x.b].forEach(visit);
      else if (x.k === "unary" || x.k === "cast" || x.k === "bitcast") visit(x.a);
    };
    visit(e);
  }

  private fold(e: Fold, when: ImpExpr | undefined): ImpExpr {
    const { emitter, root } = this;
    const { lanes } = this.group;
    const lane = variable(laneName);
    const from = emitter.emit(e.from, root, undefined);
    const whole = emitter.emit(e.to, root, undefined);
    const to = when === undefined ? whole : emitter.name(root, "to", { k: "select", cond: when, a: whole, b: from, type: "i32" });
    const type = typeOfExpr(e);
    const identity = foldIdentity(e.op, type);
    let start = emitter.name(root, "start", add(from, lane));
    let own: ImpExpr;
    if (emitter.reads.of(e.body).has(e.axis) && type !== "bool" && emitter.canVector(e.body, e.axis)) {
      const wide = type === "f32" ? "f32x4" : "i32x4";
      const count = emitter.name(root, "n", binary("max", int(0), binary("sub", to, from)));
      const many = emitter.name(root, "many", add(from, binary("bitand", count, int(-4))));
      const first = emitter.name(root, "first", add(from, mul(lane, int(4))));
      const four = emitter.name(root, "acc", { k: "const", type: wide, value: identity }, true);
      emitter.loop(root, e.axis, first, many, 4 * lanes, [e.body], (inside) => emitter.accumulate(e, inside, four, e.body, e.axis));
      const all = across(e.op);
      own = emitter.name(root, "acc", { k: "across", op: all, a: four, type: type === "f32" ? "f32" : "i32" }, true);
      start = emitter.name(root, "rest", add(many, lane));
    } else own = emitter.name(root, "acc", { k: "const", type, value: identity }, true);
    emitter.loop(root, e.axis, start, to, lanes, [e.body], (inside) => emitter.accumulate(e, inside, own, e.body, undefined));
    return this.combined(e.op, own);
  }

  /** `op` over what all lanes have. */
  combined(op: FoldOp, own: ImpExpr): ImpExpr {
    const { emitter, root } = this;
    const { lanes, subgroups } = this.group;
    const type = typeOfImp(own) === "f32" ? "f32" : "i32";
    let part = emitter.name(root, "part", own);
    for (let bit = 1; bit < subgroups; bit *= 2) {
      const name = emitter.fresh("other");
      root.statements.push({ k: "exchange", name, type, op: "xor", value: part, lane: int(bit) });
      part = emitter.name(root, "part", emitter.combine(op, part, { k: "var", name, type }));
    }
    const parts = subgroups > 1 ? lanes / subgroups : lanes;
    if (parts === 1) return part;
    const shared = unusedName(this.buffers, `parts_${this.scratch.length}`);
    this.scratch.push({ name: shared, dtype: type, size: dim(parts), space: "workgroup" });
    const lane = variable(laneName);
    if (parts === lanes) root.statements.push(store(at(shared, lane), part));
    else {
      const mine = store(at(shared, binary("div", lane, int(subgroups))), part);
      root.statements.push({ k: "if", cond: binary("eq", binary("mod", lane, int(subgroups)), int(0)), then: [mine], else: [] });
    }
    root.statements.push({ k: "barrier" });
    if (parts % 4 !== 0) {
      const all = Array.from({ length: parts }, (_, i) => load(at(shared, int(i)), type));
      return emitter.name(
        root,
        "all",
        all.reduce((a, b) => emitter.combine(op, a, b)),
      );
    }
    const wide = type === "f32" ? "f32x4" : "i32x4";
    const acc = emitter.name(root, "acc", load(at(shared, int(0)), wide), true);
    const i = emitter.fresh("i");
    const next = emitter.combine(op, acc, load(at(shared, variable(i)), wide));
    if (parts > 4)
      root.statements.push({
        k: "for",
        name: i,
        from: int(4),
        to: int(parts),
        step: 4,
        body: [{ k: "assign", name: nameOf(acc), value: next }],
      });
    return emitter.name(root, "all", { k: "across", op: across(op), a: acc, type });
  }
}

function across(op: FoldOp): "add" | "mul" | "min" | "max" {
  return op === "sum" ? "add" : op === "product" ? "mul" : op;
}
