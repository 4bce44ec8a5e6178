// Imp IR to WGSL: one function as a shader module, whose workgroups are its units. Does not optimise: what the Imp says is
// what is executed. See places.ts for how memory is seen, expressions.ts for what is hidden from drivers.
//
// A workgroup's unit is workgroup_id.x + workgroup_id.y · num_workgroups.x: WebGPU allows 65535 along an axis.

import { dimConstant } from "../../ir/dim.ts";
import { isPtr, isVector, typeOfImp } from "../../ir/imp/build.ts";
import type { ImpExpr, ImpFunction, ImpStmt } from "../../ir/imp/types.ts";
import { Uniformity } from "../../ir/imp/uniform.ts";
import { operandsOf } from "../../ir/imp/verify-expr.ts";
import { storeLines, type Position } from "./access.ts";
import { Congruences } from "./congruence.ts";
import { Expressions, wgslType, type Around } from "./expressions.ts";
import { Library } from "./functions.ts";
import { wgslFaults } from "./limits.ts";
import { Names } from "./names.ts";
import { congruenceAt, layouts, type PlaceLayout } from "./places.ts";
import type { WgslKernel, WgslOptions } from "./types.ts";

/** A function that WGSL cannot express; the message says why. */
export class WgslError extends Error {
  override readonly name = "WgslError";
}

export function renderWgsl(fn: ImpFunction, options: WgslOptions): WgslKernel {
  const faults = wgslFaults(fn, options.features);
  if (faults.length > 0) throw new WgslError(`function ${fn.name}: ${faults.join("; ")}`);
  return new Renderer(fn, options).kernel();
}

class Renderer implements Around {
  readonly plain = false;
  readonly #fn: ImpFunction;
  readonly #options: WgslOptions;
  readonly #facts: Congruences;
  readonly #layouts: ReadonlyMap<string, PlaceLayout>;
  readonly #places = new Names("p_");
  readonly #locals = new Names("v_");
  /** By their places among the arguments: kernels of two graphs that call their sizes differently have the same text. */
  readonly #sizes: ReadonlyMap<string, string>;
  readonly #library = new Library();
  readonly #expressions: Expressions;
  /** Names of constants that compilers must not know, by what they are. */
  readonly #hidden = new Map<string, string>();
  readonly #uniformity: Uniformity;
  #sharesInteger = false;
  #exchanges = false;
  #lines: string[] = [];
  #indent = "  ";
  #count = 0;

  constructor(fn: ImpFunction, options: WgslOptions) {
    this.#fn = fn;
    this.#options = options;
    this.#sizes = new Map(fn.dims.map((d, i) => [d, `n_${i}`]));
    this.#facts = new Congruences(fn);
    this.#layouts = layouts(fn, this.#facts, options.features.f16);
    this.#expressions = new Expressions(this);
    this.#uniformity = new Uniformity(fn);
  }

  kernel(): WgslKernel {
    const fn = this.#fn;
    this.#block(fn.body);
    const bindings = fn.buffers.map((b) => {
      const layout = this.#layout(b.name);
      return b.access === "read" && layout.view !== "atomic words" && this.#options.readOnly.has(b.name) ? "read" : "read_write";
    });
    const half = [...this.#layouts.values()].some((l) => l.half);
    const code = [
      ...(half ? ["enable f16;"] : []),
      // The subgroup's operations are where the function's author knows that all invocations arrive.
      ...(this.#exchanges ? ["enable subgroups;", "diagnostic(off, subgroup_uniformity);"] : []),
      `struct Args { units: i32, ${[...this.#sizes.values()].map((name) => `${name}: i32, `).join("")}}`,
      ...fn.buffers.map((b, i) => {
        const access = bindings[i] === "read" ? "read" : "read_write";
        return `@group(0) @binding(${i}) var<storage, ${access}> ${this.#places.of(b.name)}: array<${this.#layout(b.name).element}>;`;
      }),
      `@group(0) @binding(${fn.buffers.length}) var<uniform> args: Args;`,
      ...this.#scratch("workgroup").map((text) => `var<workgroup> ${text};`),
      ...(this.#sharesInteger ? ["var<workgroup> shared_integer: i32;"] : []),
      ...this.#main(),
    ];
    return {
      name: fn.name,
      code: `${[...code, ...this.#library.texts()].join("\n")}\n`,
      lanes: fn.lanes,
      bindings,
      requires: [...(this.#exchanges ? (["subgroups"] as const) : []), ...(half ? (["shader-f16"] as const) : [])],
    };
  }

  #main(): readonly string[] {
    const fn = this.#fn;
    if (this.#hidden.size > 0) this.call("hidden");
    return [
      `@compute @workgroup_size(${fn.lanes})`,
      "fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) invocation: u32) {",
      `  let ${this.local(fn.unit)} = i32(group.x + group.y * groups.x);`,
      `  if (${this.local(fn.unit)} >= args.units) { return; }`,
      ...(fn.lane === undefined ? [] : [`  let ${this.local(fn.lane)} = i32(invocation);`]),
      ...this.#scratch("private").map((text) => `  var ${text};`),
      // Two zeros that are not known to be the same.
      ...(this.#hidden.size > 0 ? ["  let zero = hidden();", "  let other_zero = u32(args.units) & 0x80000000u;"] : []),
      ...[...this.#hidden].map(([value, name]) => `  let ${name} = bitcast<f32>(${value});`),
      ...this.#lines,
      "}",
    ];
  }

  #scratch(space: "workgroup" | "private"): readonly string[] {
    return this.#fn.scratch.flatMap((s) => {
      if (s.space !== space) return [];
      const { view, element } = this.#layout(s.name);
      const size = Math.max(1, Math.ceil((dimConstant(s.size) ?? 0) / (view === "four" ? 4 : 1)));
      return [`${this.#places.of(s.name)}: array<${element}, ${size}>`];
    });
  }

  #layout(name: string): PlaceLayout {
    const found = this.#layouts.get(name);
    if (found === undefined) throw new WgslError(`function ${this.#fn.name}: there is no buffer or scratch ${name}`);
    return found;
  }

  // ---- What expressions are written into ----

  line(text: string): void {
    this.#lines.push(this.#indent + text);
  }

  keep(text: string, hint: string): string {
    return /^\w+$/.test(text) ? text : this.#named(text, hint);
  }

  #named(text: string, hint = "i"): string {
    const name = this.fresh(hint);
    this.line(`let ${name} = ${text};`);
    return name;
  }

  call(name: string): string {
    this.#library.need(name);
    return name;
  }

  nested(open: string, body: () => void): void {
    this.line(`${open} {`);
    const outer = this.#indent;
    this.#indent = `${outer}  `;
    body();
    this.#indent = outer;
    this.line("}");
  }

  fresh(hint: string): string {
    return `${hint}_${++this.#count}`;
  }

  local(name: string): string {
    return this.#locals.of(name);
  }

  size(name: string): string {
    const place = this.#sizes.get(name);
    if (place === undefined) throw new WgslError(`function ${this.#fn.name}: ${name} is none of its sizes`);
    return `args.${place}`;
  }

  position(ptr: ImpExpr, offset: number): Position {
    const type = typeOfImp(ptr);
    const name = isPtr(type) ? type.slice(4) : "";
    const text = this.#expressions.text(ptr);
    // Constants out of range are refused, even where they are never reached.
    const constant = /^-?\d+$/.test(text.replace(/^i32\((.*)\)$/, "$1"));
    const base = constant && (text.startsWith("i32(") || this.#layout(name).space !== "buffer") ? this.#named(text) : text;
    const index = offset === 0 ? base : `(${base} ${offset < 0 ? "-" : "+"} ${Math.abs(offset)})`;
    return { place: this.#layout(name), array: this.#places.of(name), index, at: congruenceAt(this.#facts, ptr, offset) };
  }

  hiddenFloat(bits: number, taken: boolean): string {
    const key = `0x${(bits >>> 0).toString(16)}u ^ ${taken ? "other_zero" : "zero"}`;
    const known = this.#hidden.get(key);
    if (known !== undefined) return known;
    const name = `k_${this.#hidden.size + 1}`;
    this.#hidden.set(key, name);
    return name;
  }

  // ---- Statements ----

  #block(body: readonly ImpStmt[]): void {
    for (const s of body) this.#statement(s);
  }

  #statement(s: ImpStmt): void {
    const local = "name" in s ? this.local(s.name) : "";
    switch (s.k) {
      case "let": {
        const value = this.#expressions.text(s.value);
        if (s.mutable) this.line(`var ${local}: ${wgslType(s.type)} = ${value};`);
        else this.line(`let ${local} = ${value};`);
        return;
      }
      case "assign":
        this.line(`${local} = ${this.#expressions.text(s.value)};`);
        return;
      case "store":
      case "storeLanes":
        this.#store(s);
        return;
      case "for": {
        const from = this.#expressions.text(s.from);
        const to = this.#expressions.text(s.to);
        const end = /^[\w.]+$/.test(to) && s.to.k !== "var" ? to : this.keep(to, "end");
        this.nested(`for (var ${local} = ${from}; ${local} < ${end}; ${local} += ${s.step})`, () => this.#block(s.body));
        return;
      }
      case "while":
        this.nested("loop", () => {
          this.line(`if (!${this.#expressions.text(s.cond)}) { break; }`);
          this.#block(s.body);
        });
        return;
      case "if":
        this.nested(`if (${this.#expressions.text(s.cond)})`, () => this.#block(s.then));
        if (s.else.length > 0) this.nested("else", () => this.#block(s.else));
        return;
      case "barrier":
        if (this.#fn.lanes > 1) this.line("workgroupBarrier();");
        return;
      case "fence":
        return;
      case "uniform":
        this.#shared(s, local);
        return;
      case "exchange": {
        this.#exchanges = true;
        const value = this.#expressions.text(s.value);
        const lane = `u32(${this.#expressions.text(s.lane)})`;
        this.line(`let ${local} = ${s.op === "xor" ? "subgroupShuffleXor" : "subgroupShuffle"}(${value}, ${lane});`);
        return;
      }
      default:
        s satisfies never;
    }
  }

  /** Reading through a workgroup variable tells WGSL that the value is the same everywhere, unless it sees so itself. */
  #shared(s: Extract<ImpStmt, { k: "uniform" }>, local: string): void {
    const value = this.#expressions.text(s.value);
    if (this.#fn.lanes === 1 || this.#isUniform(s.value)) {
      this.line(`let ${local} = ${value};`);
      return;
    }
    // A workgroup of one subgroup whose lanes never wait for each other otherwise: barriers would be all that costs.
    if (this.#fn.subgroup === this.#fn.lanes && !hasBarrier(this.#fn.body)) {
      this.#exchanges = true;
      this.line(`let ${local} = subgroupBroadcastFirst(${value});`);
      return;
    }
    this.#sharesInteger = true;
    this.line(`if (invocation == 0u) { shared_integer = ${value}; }`);
    this.line(`let ${local} = workgroupUniformLoad(&shared_integer);`);
  }

  /** As WGSL sees it: what is loaded is the same only where the buffer is bound for reading. */
  #isUniform(e: ImpExpr): boolean {
    if (this.#uniformity.of(e)) return true;
    const type = e.k === "load" || e.k === "loadSplat" ? typeOfImp(e.ptr) : undefined;
    const fixed = type !== undefined && isPtr(type) && this.#options.readOnly.has(type.slice(4));
    return (fixed || (type === undefined && e.k !== "var")) && operandsOf(e).every((part) => this.#isUniform(part));
  }

  #store(s: Extract<ImpStmt, { k: "store" | "storeLanes" }>): void {
    const position = this.position(s.ptr, s.offset);
    const type = typeOfImp(s.value);
    const text = this.#expressions.text(s.value);
    const vector = isVector(type);
    storeLines(position, type === "bool" ? `i32(${text})` : text, vector, !vector ? 1 : s.k === "store" ? 4 : s.count, this);
  }
}

function hasBarrier(body: readonly ImpStmt[]): boolean {
  return body.some((s) => {
    if (s.k === "for" || s.k === "while") return hasBarrier(s.body);
    return s.k === "barrier" || (s.k === "if" && (hasBarrier(s.then) || hasBarrier(s.else)));
  });
}
