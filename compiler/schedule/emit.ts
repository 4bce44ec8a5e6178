// Kernel expressions to Imp statements: one emitter for scalar code and for code that handles four neighbours
// along one axis at once. Values that occur twice are computed once; what a loop does not change is computed
// before it; pointers are formed outside loops. Folds become loops with accumulators.

import { dimSymbols, type Atom, type Dim } from "../ir/dim.ts";
import { typeOfImp } from "../ir/imp/build.ts";
import type { ImpExpr, ImpStmt, ImpType } from "../ir/imp/types.ts";
import { scalarTypeOf, type Expr, type FoldOp, type KernelBuffer, type ScalarType } from "../ir/kernel/types.ts";
import { foldIdentity, operandsOf, typeOfExpr } from "../ir/kernel/build.ts";
import { constantPart, Interner, Reads, strideOf, substitute } from "../ir/kernel/intern.ts";
import { Vectors } from "./vectors.ts";

/** The axis along which four neighbours are computed together; undefined in scalar code. */
type Vector = string | undefined;

/** Statements of one block, with what has been computed there. */
export class Block {
  readonly parent: Block | undefined;
  readonly statements: ImpStmt[] = [];
  private readonly scalar = new Map<Expr, ImpExpr>();
  private readonly vector = new Map<Expr, ImpExpr>();
  readonly pointers = new Map<string, ImpExpr>();
  constructor(parent?: Block) {
    this.parent = parent;
  }
  known(e: Expr, vector: boolean): ImpExpr | undefined {
    return (vector ? this.vector : this.scalar).get(e) ?? this.parent?.known(e, vector);
  }
  remember(e: Expr, vector: boolean, value: ImpExpr): void {
    (vector ? this.vector : this.scalar).set(e, value);
  }
  pointer(key: string): ImpExpr | undefined {
    return this.pointers.get(key) ?? this.parent?.pointer(key);
  }
}

export const int = (value: number): ImpExpr => ({ k: "const", type: "i32", value });
export const binary = (op: Extract<ImpExpr, { k: "binary" }>["op"], a: ImpExpr, b: ImpExpr, type: ImpType): ImpExpr => ({
  k: "binary",
  op,
  a,
  b,
  type,
});

const vectorType = (t: ScalarType): "f32x4" | "i32x4" => (t === "f32" ? "f32x4" : "i32x4");

/** Neighbours a fold over its own axis handles at once: four vectors hide the latency of an addition. */
const foldVectors = 4;

/** Steps of a fold in one round of its loop, where neighbours along another axis are computed together. */
const foldSteps = 4;

export class Emitter {
  readonly interner = new Interner();
  readonly reads = new Reads();
  private readonly vectors = new Vectors(this.reads);
  readonly dims = new Set<string>();
  private readonly buffers: ReadonlyMap<string, KernelBuffer>;
  private readonly vectorise: boolean;
  private counter = 0;

  constructor(buffers: readonly KernelBuffer[], vectorise: boolean) {
    this.buffers = new Map(buffers.map((b) => [b.name, b]));
    this.vectorise = vectorise;
  }

  fresh(hint: string): string {
    return `${hint.replace(/[^A-Za-z0-9_]/g, "_")}_${++this.counter}`;
  }

  name(block: Block, hint: string, value: ImpExpr, mutable = false): ImpExpr {
    const name = this.fresh(hint);
    const type = typeOfImp(value);
    block.statements.push({ k: "let", name, type, value, mutable });
    return { k: "var", name, type };
  }

  // ---- Sizes ----

  size(d: Dim): ImpExpr {
    for (const s of dimSymbols(d)) this.dims.add(s);
    const terms = d.monomials.map((m) => {
      const factors = m.atoms.map((a) => this.atom(a));
      const first = factors.reduce<ImpExpr | undefined>((p, f) => (p === undefined ? f : binary("mul", p, f, "i32")), undefined);
      if (first === undefined) return int(m.coefficient);
      return m.coefficient === 1 ? first : binary("mul", first, int(m.coefficient), "i32");
    });
    return terms.reduce<ImpExpr | undefined>((p, t) => (p === undefined ? t : binary("add", p, t, "i32")), undefined) ?? int(0);
  }

  private atom(a: Atom): ImpExpr {
    if (a.kind === "symbol") return { k: "dim", name: a.name };
    return binary(a.kind, this.size(a.a), this.size(a.b), "i32");
  }

  // ---- Expressions ----

  /** Can four neighbours along `axis` be computed together? */
  canVector(e: Expr, axis: string): boolean {
    return this.vectorise && this.vectors.allow(e, axis);
  }

  /** The value of an interned expression; in vector code, of four neighbours along `axis`. */
  emit(e: Expr, block: Block, axis: Vector): ImpExpr {
    if (axis !== undefined && !this.reads.of(e).has(axis)) return this.splatted(e, block);
    const known = block.known(e, axis !== undefined);
    if (known !== undefined) return known;
    const value = this.compute(e, block, axis);
    if (e.k === "const" || e.k === "var" || e.k === "dim") return value;
    // Everything that costs an instruction gets a name; engines drop the copies.
    const named = value.k === "var" ? value : this.name(block, e.k === "load" ? e.buffer : "t", value);
    block.remember(e, axis !== undefined, named);
    return named;
  }

  /** A value that is the same for all neighbours, in all lanes; made before the loop where the value is known there. */
  private splatted(e: Expr, block: Block): ImpExpr {
    const type = typeOfExpr(e);
    if (e.k === "const") return this.splat(this.emit(e, block, undefined), type);
    let into = block;
    for (let loop = this.loopOf(into); loop !== undefined && into.known(e, true) === undefined; loop = this.loopOf(into)) {
      if (loop.before.known(e, false) === undefined) break;
      into = loop.before;
    }
    const known = into.known(e, true);
    if (known !== undefined) return known;
    const dtype = e.k === "load" && into.known(e, false) === undefined ? this.buffers.get(e.buffer)?.dtype : undefined;
    const value: ImpExpr =
      e.k === "load" && (dtype === "f32" || dtype === "i32")
        ? { k: "loadSplat", ptr: this.place(e.buffer, e.index, into), offset: 0, type: dtype === "f32" ? "f32x4" : "i32x4" }
        : this.splat(this.emit(e, into, undefined), type);
    if (value.k === "const") return value;
    const named = this.name(into, "v", value);
    into.remember(e, true, named);
    return named;
  }

  private splat(value: ImpExpr, type: ScalarType): ImpExpr {
    if (value.k === "const" && typeof value.value === "number")
      return { k: "const", type: vectorType(type), value: type === "bool" ? -value.value : value.value };
    if (type === "bool") return { k: "splat", a: binary("sub", int(0), { k: "convert", a: value, type: "i32" }, "i32"), type: "i32x4" };
    return { k: "splat", a: value, type: vectorType(type) };
  }

  private compute(e: Expr, block: Block, axis: Vector): ImpExpr {
    const vector = axis !== undefined;
    switch (e.k) {
      case "const":
        return { k: "const", type: e.type, value: e.value };
      case "dim":
        return this.size(e.dim);
      case "var": {
        const found = block.known(e, false);
        if (found === undefined) throw new Error(`kernel expression reads ${e.name}, which is not in scope`);
        if (e.name === axis)
          return binary("add", { k: "splat", a: found, type: "i32x4" }, { k: "const", type: "i32x4", value: [0, 1, 2, 3] }, "i32x4");
        return found;
      }
      case "load":
        return this.load(e, block, axis);
      case "unary":
        return { k: "unary", op: e.op, a: this.emit(e.a, block, axis), type: vector ? vectorType(e.type) : e.type };
      case "cast":
        return this.cast(this.emit(e.a, block, axis), typeOfExpr(e.a), e.type, vector);
      case "bitcast":
        return { k: "bitcast", a: this.emit(e.a, block, axis), type: vector ? vectorType(e.type) : e.type };
      case "binary": {
        const [a, b] = [this.emit(e.a, block, axis), this.emit(e.b, block, axis)];
        return binary(e.op, a, b, vector ? vectorType(e.type) : e.type);
      }
      case "select": {
        const cond = this.emit(e.cond, block, this.reads.of(e.cond).has(axis ?? "") ? axis : undefined);
        const lazy = !(typeOfImp(cond) === "i32x4") && (this.vectors.loads(e.a) || this.vectors.loads(e.b));
        const type = vector ? vectorType(e.type) : e.type;
        if (!lazy) return { k: "select", cond, a: this.emit(e.a, block, axis), b: this.emit(e.b, block, axis), type };
        const result = this.name(block, "s", zero(type), true);
        const [then, otherwise] = [new Block(block), new Block(block)];
        for (const [side, into] of [
          [e.a, then],
          [e.b, otherwise],
        ] as const)
          into.statements.push({ k: "assign", name: nameOf(result), value: this.emit(side, into, axis) });
        block.statements.push({ k: "if", cond, then: then.statements, else: otherwise.statements });
        return result;
      }
      case "fold":
        return this.fold(e, block, axis);
      case "iterate":
        return this.iterate(e, block, (inside) => this.emit(e.body, inside, undefined));
      default:
        return e satisfies never;
    }
  }

  private cast(a: ImpExpr, from: ScalarType, to: ScalarType, vector: boolean): ImpExpr {
    if (from === to) return a;
    if (!vector) return { k: "convert", a, type: to };
    if (to === "bool") return binary("ne", a, { k: "const", type: vectorType(from), value: 0 }, "i32x4");
    if (from === "bool")
      return {
        k: "select",
        cond: a,
        a: { k: "const", type: vectorType(to), value: 1 },
        b: { k: "const", type: vectorType(to), value: 0 },
        type: vectorType(to),
      };
    return { k: "convert", a, type: vectorType(to) };
  }

  private load(e: Extract<Expr, { k: "load" }>, block: Block, axis: Vector): ImpExpr {
    const buffer = this.buffers.get(e.buffer);
    if (buffer === undefined) throw new Error(`kernel loads from ${e.buffer}, which it does not have`);
    const type = scalarTypeOf(buffer.dtype);
    const raw = axis === undefined ? (type === "bool" ? "i32" : type) : vectorType(type);
    const value: ImpExpr = { k: "load", ptr: this.place(e.buffer, e.index, block), offset: 0, type: raw };
    if (type !== "bool") return value;
    return axis === undefined
      ? { k: "convert", a: value, type: "bool" }
      : binary("ne", value, { k: "const", type: "i32x4", value: 0 }, "i32x4");
  }

  /** A pointer to buffer[index]: formed before the innermost loop when the index is linear in that loop's variable. */
  place(buffer: string, index: Expr, block: Block): ImpExpr {
    const loop = this.loopOf(block);
    if (loop !== undefined && this.reads.of(index).has(loop.axis)) {
      const stride = strideOf(index, loop.axis, this.reads);
      const at = block.known(loop.variable, false);
      if (stride !== undefined && at !== undefined) {
        const whole = substitute(index, loop.axis, { k: "const", type: "i32", value: 0 });
        const { rest, constant } = constantPart(whole);
        const start = this.interner.intern(rest);
        if (this.definedIn(start, loop.before)) {
          const key = `${buffer} ${this.pointerKey(start)}`;
          let base = loop.before.pointer(key);
          if (base === undefined) {
            base = this.name(loop.before, "p", {
              k: "at",
              buffer,
              index: this.emit(start, loop.before, undefined),
              type: `ptr:${buffer}`,
            });
            loop.before.pointers.set(key, base);
          }
          const step = stride === 1 ? at : binary("mul", at, int(stride), "i32");
          const moved: ImpExpr = { k: "advance", ptr: base, elements: step, type: `ptr:${buffer}` };
          // Targets put a constant distance into the instruction.
          if (constant !== 0) return { k: "advance", ptr: moved, elements: int(constant), type: `ptr:${buffer}` };
          return moved;
        }
      }
    }
    return { k: "at", buffer, index: this.emit(index, block, undefined), type: `ptr:${buffer}` };
  }

  private readonly pointerIds = new Map<Expr, number>();
  private pointerKey(e: Expr): number {
    const id = this.pointerIds.get(e) ?? this.pointerIds.size;
    this.pointerIds.set(e, id);
    return id;
  }

  private readonly loopBlocks = new Map<Block, { readonly axis: string; readonly variable: Expr; readonly before: Block }>();
  private loopOf(block: Block): { readonly axis: string; readonly variable: Expr; readonly before: Block } | undefined {
    return this.loopBlocks.get(block);
  }

  /** A block that is entered or not; pointers are formed before the loop around it, as for the block itself. */
  branch(block: Block): Block {
    const inside = new Block(block);
    const loop = this.loopOf(block);
    if (loop !== undefined) this.loopBlocks.set(inside, loop);
    return inside;
  }

  /** Is everything that `e` reads in sight of `block`? */
  private definedIn(e: Expr, block: Block): boolean {
    for (const name of this.reads.of(e)) {
      if (
        block.known(this.interner.intern({ k: "var", name, type: "i32" }), false) === undefined &&
        block.known(this.interner.intern({ k: "var", name, type: "f32" }), false) === undefined &&
        block.known(this.interner.intern({ k: "var", name, type: "bool" }), false) === undefined
      )
        return false;
    }
    // Indices that are loaded move too: they are in range for every point of the axes around them.
    return true;
  }

  /**
   * A `for` over an axis; `body` fills the block with the axis in sight. Steps of 4 are vector code's. `deeper` names
   * the axes of the loops inside it, which are not in sight where `hoist` is computed.
   */
  loop(
    block: Block,
    axis: string,
    from: ImpExpr,
    to: ImpExpr,
    step: number,
    hoist: readonly Expr[],
    body: (inner: Block) => void,
    deeper: readonly string[] = [],
  ): void {
    const seen = new Set<Expr>();
    for (const e of hoist) this.hoistInvariant(e, block, new Set([axis, ...deeper]), seen);
    const variable = this.interner.intern({ k: "var", name: axis, type: "i32" });
    const name = this.fresh(axis);
    const inside = new Block(block);
    inside.remember(variable, false, { k: "var", name, type: "i32" });
    this.loopBlocks.set(inside, { axis, variable, before: block });
    body(inside);
    block.statements.push({ k: "for", name, from, to, step, body: inside.statements });
  }

  /** Computes the largest parts of `e` that do not read `inner` (and are certain to be evaluated) in `block`. */
  private hoistInvariant(e: Expr, block: Block, inner: ReadonlySet<string>, seen: Set<Expr>): void {
    if (seen.has(e)) return;
    seen.add(e);
    const reads = this.reads.of(e);
    if (![...reads].some((n) => inner.has(n))) {
      if (e.k !== "const" && e.k !== "var" && e.k !== "dim") this.emit(e, block, undefined);
      return;
    }
    if (e.k === "select") {
      this.hoistInvariant(e.cond, block, inner, seen);
      return;
    }
    if (e.k === "iterate") {
      this.hoistInvariant(e.init, block, inner, seen);
      return;
    }
    if (e.k === "fold") {
      this.hoistInvariant(e.from, block, inner, seen);
      this.hoistInvariant(e.to, block, inner, seen);
      // The body may run zero times: its loads stay inside.
      return;
    }
    if (e.k === "load") {
      // The pointer does this better when the index is linear.
      if ([...inner].every((axis) => strideOf(e.index, axis, this.reads) !== undefined)) return;
    }
    for (const c of operandsOf(e)) this.hoistInvariant(c, block, inner, seen);
  }

  /** The loop of an iteration; `next` gives the value of a step, in the loop's block. */
  iterate(e: Extract<Expr, { k: "iterate" }>, block: Block, next: (inside: Block) => ImpExpr): ImpExpr {
    const state = this.name(block, e.name, this.emit(e.init, block, undefined), true);
    if (e.steps === 0) return state;
    // The body is evaluated once at least.
    this.hoistInvariant(e.body, block, new Set([e.axis, e.name]), new Set());
    const [counter, inside] = [this.fresh(e.axis), new Block(block)];
    inside.remember(this.interner.intern({ k: "var", name: e.axis, type: "i32" }), false, { k: "var", name: counter, type: "i32" });
    inside.remember(this.interner.intern({ k: "var", name: e.name, type: e.type }), false, state);
    inside.statements.push({ k: "assign", name: nameOf(state), value: next(inside) });
    block.statements.push({ k: "for", name: counter, from: int(0), to: int(e.steps), step: 1, body: inside.statements });
    return state;
  }

  private fold(e: Extract<Expr, { k: "fold" }>, block: Block, axis: Vector): ImpExpr {
    const [from, to] = [this.emit(e.from, block, undefined), this.emit(e.to, block, undefined)];
    const type = axis !== undefined ? vectorType(e.type) : e.type;
    const combine = (acc: ImpExpr, value: ImpExpr): ImpExpr => this.combine(e.op, acc, value);
    const accumulate = (into: Block, acc: ImpExpr, value: Expr, along: Vector): void => this.accumulate(e, into, acc, value, along);
    const identity = foldIdentity(e.op, e.type);
    // Along its own axis, unless the neighbours are already those of another one.
    if (axis === undefined && e.type !== "bool" && this.reads.of(e.body).has(e.axis) && this.canVector(e.body, e.axis)) {
      const wide = vectorType(e.type);
      // Nothing where `to` is before `from`, and not the tail of a negative count.
      const count = this.name(block, "n", binary("max", int(0), binary("sub", to, from, "i32"), "i32"));
      const many = this.name(block, "end", binary("add", from, binary("bitand", count, int(-4 * foldVectors), "i32"), "i32"));
      const accs = Array.from({ length: foldVectors }, () => this.name(block, "acc", { k: "const", type: wide, value: identity }, true));
      this.loop(block, e.axis, from, many, 4 * foldVectors, [e.body], (inside) => {
        accs.forEach((acc, i) => {
          // Each vector is the same code a few places further.
          accumulate(inside, acc, this.shifted(e.body, e.axis, 4 * i), e.axis);
        });
      });
      const four = this.name(block, "end", binary("add", from, binary("bitand", count, int(-4), "i32"), "i32"));
      const [first] = accs;
      if (first === undefined) throw new Error("a fold needs an accumulator");
      this.loop(block, e.axis, many, four, 4, [], (inside) => accumulate(inside, first, e.body, e.axis));
      const all = accs.reduce((a, b) => combine(a, b));
      const scalar = this.name(
        block,
        "acc",
        { k: "across", op: e.op === "sum" ? "add" : e.op === "product" ? "mul" : e.op, a: all, type: e.type === "f32" ? "f32" : "i32" },
        true,
      );
      this.loop(block, e.axis, four, to, 1, [], (inside) => accumulate(inside, scalar, e.body, undefined));
      return scalar;
    }
    const acc = this.name(block, "acc", { k: "const", type, value: identity }, true);
    if (axis === undefined) {
      this.loop(block, e.axis, from, to, 1, [], (inside) => accumulate(inside, acc, e.body, axis));
      return acc;
    }
    // Short bodies: several steps a round, so that counting costs less than what is counted.
    const count = this.name(block, "n", binary("max", int(0), binary("sub", to, from, "i32"), "i32"));
    const many = this.name(block, "end", binary("add", from, binary("bitand", count, int(-foldSteps), "i32"), "i32"));
    this.loop(block, e.axis, from, many, foldSteps, [e.body], (inside) => {
      for (let i = 0; i < foldSteps; i++) accumulate(inside, acc, this.shifted(e.body, e.axis, i), axis);
    });
    this.loop(block, e.axis, many, to, 1, [], (inside) => accumulate(inside, acc, e.body, axis));
    return acc;
  }

  /** `e` where `axis` is `by` further. */
  private shifted(e: Expr, axis: string, by: number): Expr {
    if (by === 0) return e;
    const further: Expr = {
      k: "binary",
      op: "add",
      a: { k: "var", name: axis, type: "i32" },
      b: { k: "const", type: "i32", value: by },
      type: "i32",
    };
    return this.interner.intern(substitute(e, axis, further, this.reads));
  }

  /** acc = acc `op` value, for one step of a fold or for four. */
  accumulate(e: Extract<Expr, { k: "fold" }>, into: Block, acc: ImpExpr, value: Expr, along: Vector): void {
    const fused = e.op === "sum" && value.k === "binary" && value.op === "mul" && e.type === "f32";
    const next: ImpExpr = fused
      ? { k: "fma", a: this.emit(value.a, into, along), b: this.emit(value.b, into, along), c: acc, type: typeOfImp(acc) }
      : this.combine(e.op, acc, this.emit(value, into, along));
    into.statements.push({ k: "assign", name: nameOf(acc), value: next });
  }

  combine(op: FoldOp, a: ImpExpr, b: ImpExpr): ImpExpr {
    return binary(op === "sum" ? "add" : op === "product" ? "mul" : op, a, b, typeOfImp(a));
  }
}

function zero(type: ImpType): ImpExpr {
  return { k: "const", type, value: 0 };
}

export function nameOf(e: ImpExpr): string {
  if (e.k !== "var") throw new Error("expected a variable");
  return e.name;
}
