// Does a pattern repeat what the stages say? The builders trust it, so a matrix multiply must be exactly the first
// stage. Attention is spread over several stages; there, what its operands may depend on is checked, and that the
// stages load them.

import { scalarTypeOf, type Expr, type Kernel, type Pattern } from "./types.ts";
import { operandsOf, typeOfExpr } from "./build.ts";
import { dim, dimMul } from "../dim.ts";
import { Interner, Reads } from "./intern.ts";

type Report = (message: string) => void;

export function checkPattern(kernel: Kernel, pattern: Pattern, at: Report): void {
  const checker = new Checker(kernel, at);
  if (pattern.k === "matmul") checker.matmul(pattern);
  else if (pattern.k === "quantised") checker.quantised(pattern);
  else checker.attention(pattern);
}

/** The buffers that any of the expressions loads from. */
function loadsIn(...all: readonly Expr[]): ReadonlySet<string> {
  const loaded = new Set<string>();
  const seen = new Set<Expr>();
  const visit = (e: Expr): void => {
    if (seen.has(e)) return;
    seen.add(e);
    if (e.k === "load") loaded.add(e.buffer);
    for (const part of operandsOf(e)) visit(part);
  };
  for (const e of all) visit(e);
  return loaded;
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
    const b = this.#interner.intern(p.b);
    if (this.#factor(p) !== b) this.#at("the first stage does not sum the product of a and b");
  }

  /** What the first stage multiplies `a` by; undefined where it does not sum such products over `kAxis`. */
  #factor(p: { readonly a: Expr; readonly kAxis: string }): Expr | undefined {
    const first = this.#kernel.stages[0];
    const value = first?.k === "let" ? this.#interner.intern(first.value) : undefined;
    if (value?.k !== "fold" || value.op !== "sum" || value.type !== "f32") {
      this.#at("the first stage is no sum");
      return undefined;
    }
    if (value.axis !== p.kAxis) this.#at(`the sum is over ${value.axis}, not ${p.kAxis}`);
    const a = this.#interner.intern(p.a);
    const { body } = value;
    if (body.k !== "binary" || body.op !== "mul") return undefined;
    return body.a === a ? body.b : body.b === a ? body.a : undefined;
  }

  quantised(p: Extract<Pattern, { k: "quantised" }>): void {
    if (this.#parallel.size !== 2 || p.m === p.n || !this.#parallel.has(p.m) || !this.#parallel.has(p.n))
      this.#at(`its axes ${p.m}, ${p.n} are not the kernel's ${[...this.#parallel].join(", ")}`);
    this.#load("a", p.a, [p.m, p.kAxis]);
    const b = this.#factor(p);
    if (b === undefined) {
      this.#at("the first stage does not sum the product of a and a weight");
      return;
    }
    this.#within("the weight", b, [p.n, p.kAxis]);
    const parts = [p.values, p.scales, ...(p.minima === undefined ? [] : [p.minima])];
    const loaded = loadsIn(b);
    if ([...loaded].sort().join() !== [...new Set(parts)].sort().join() || loaded.size !== parts.length)
      this.#at(`the weight is made of ${[...loaded].join(", ")}, not of ${parts.join(", ")}`);
    const shapes = parts.map((name, i) => {
      const buffer = this.#kernel.buffers.find((x) => x.name === name);
      if (buffer?.dtype !== (i === 0 ? "i32" : "f16")) this.#at(`${name} holds no ${i === 0 ? "words" : "scales"}`);
      return buffer?.shape ?? [];
    });
    const [words, ...others] = shapes;
    const blocks = others[0]?.[1];
    const fits =
      words?.length === 2 &&
      blocks !== undefined &&
      words[1]?.text === dimMul(blocks, dim(p.bits)).text &&
      others.every((s) => s.length === 2 && s[0]?.text === words[0]?.text && s[1]?.text === blocks.text);
    if (!fits) this.#at("the shapes of the weight's parts do not fit each other");
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
    if (p.part !== undefined) {
      const { axis, count, keys } = p.part;
      if (this.#kernel.axes.find((a) => a.name === axis)?.extent.text !== count.text) this.#at(`its parts are not those of axis ${axis}`);
      if (!Number.isSafeInteger(keys) || keys < 1) this.#at(`its parts have ${keys} keys at a time`);
    }
    const loaded = loadsIn(...this.#kernel.stages.map((s) => s.value));
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
