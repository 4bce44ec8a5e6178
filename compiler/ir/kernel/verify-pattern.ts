// Does a pattern repeat what the stages say? The builders trust it, so a matrix multiply must be exactly the first
// stage. Attention is spread over several stages; there, what its operands may depend on is checked, and that the
// stages load them.

import { scalarTypeOf, type Expr, type Kernel, type Pattern } from "./types.ts";
import { operandsOf, typeOfExpr } from "./build.ts";
import { Interner, Reads } from "./intern.ts";

type Report = (message: string) => void;

export function checkPattern(kernel: Kernel, pattern: Pattern, at: Report): void {
  const checker = new Checker(kernel, at);
  if (pattern.k === "matmul") checker.matmul(pattern);
  else checker.attention(pattern);
}

class Checker {
  readonly #kernel: Kernel;
  readonly #at: Report;
  readonly #interner = new Interner();
  readonly #reads = new Reads();
  readonly #parallel: ReadonlySet<string>;
  readonly #lets: ReadonlySet<string>;

  constructor(kernel: Kernel, at: Report) {
    this.#kernel = kernel;
    this.#at = at;
    this.#parallel = new Set(kernel.axes.map((a) => a.name));
    this.#lets = new Set(kernel.stages.flatMap((s) => (s.k === "let" ? [s.name] : [])));
  }

  matmul(p: Extract<Pattern, { k: "matmul" }>): void {
    const outer = [...p.batch, p.m, p.n];
    if (new Set(outer).size !== outer.length || outer.length !== this.#parallel.size || outer.some((name) => !this.#parallel.has(name)))
      this.#at(`its axes ${outer.join(", ")} are not the kernel's ${[...this.#parallel].join(", ")}`);
    this.#load("a", p.a, [...p.batch, p.m, p.kAxis]);
    this.#load("b", p.b, [...p.batch, p.n, p.kAxis]);
    const first = this.#kernel.stages[0];
    const value = first?.k === "let" ? this.#interner.intern(first.value) : undefined;
    if (value?.k !== "fold" || value.op !== "sum" || value.type !== "f32") {
      this.#at("the first stage is no sum");
      return;
    }
    if (value.axis !== p.kAxis) this.#at(`the sum is over ${value.axis}, not ${p.kAxis}`);
    const [a, b] = [this.#interner.intern(p.a), this.#interner.intern(p.b)];
    const { body } = value;
    const agrees = body.k === "binary" && body.op === "mul" && ((body.a === a && body.b === b) || (body.a === b && body.b === a));
    if (!agrees) this.#at("the first stage does not sum the product of a and b");
  }

  attention(p: Extract<Pattern, { k: "attention" }>): void {
    for (const [what, name] of [
      ["query", p.query],
      ["head", p.head],
    ] as const)
      if (!this.#parallel.has(name)) this.#at(`its ${what} ${name} is no parallel axis`);
    this.#load("q", p.q, [p.query, p.head, p.inner]);
    this.#load("k", p.key_, [p.key, p.head, p.inner]);
    this.#load("v", p.value, [p.key, p.head, p.feature]);
    for (const [what, e] of [
      ["from", p.from],
      ["to", p.to],
    ] as const) {
      if (typeOfExpr(e) !== "i32") this.#at(`${what} is ${typeOfExpr(e)}, not i32`);
      this.#within(what, e, [p.query, p.head]);
    }
    if (Number.isNaN(p.scale)) this.#at("the scale is NaN");
    const loaded = new Set<string>();
    const seen = new Set<Expr>();
    const visit = (e: Expr): void => {
      if (seen.has(e)) return;
      seen.add(e);
      if (e.k === "load") loaded.add(e.buffer);
      for (const part of operandsOf(e)) visit(part);
    };
    for (const s of this.#kernel.stages) visit(s.value);
    for (const l of [p.q, p.key_, p.value]) if (!loaded.has(l.buffer)) this.#at(`no stage loads ${l.buffer}`);
  }

  /** A float buffer for reading, at a place that depends on `names` (and values of earlier stages) alone. */
  #load(what: string, e: Extract<Expr, { k: "load" }>, names: readonly string[]): void {
    const buffer = this.#kernel.buffers.find((b) => b.name === e.buffer);
    if (buffer?.access !== "read" || scalarTypeOf(buffer.dtype) !== "f32" || e.type !== "f32")
      this.#at(`${what} does not load floats from a buffer for reading`);
    this.#within(what, e, names);
  }

  #within(what: string, e: Expr, names: readonly string[]): void {
    for (const name of this.#reads.of(e)) if (!names.includes(name) && !this.#lets.has(name)) this.#at(`${what} depends on ${name}`);
  }
}
