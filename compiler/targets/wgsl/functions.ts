// The text of every function that kernels may call: those of library.ts, and the expansions of transcendental functions
// that all targets share, written as WGSL.

import type { ImpExpr } from "../../ir/imp/types.ts";
import { expand, isExpanded } from "../math.ts";
import { Expressions, wgslType, type Around } from "./expressions.ts";
import { calledIn, libraryText } from "./library.ts";
import { Names } from "./names.ts";

/** The functions a module needs, each once. */
export class Library {
  readonly #texts = new Map<string, string>();

  /** Makes sure that `name` and what it calls are there. */
  need(name: string): void {
    if (this.#texts.has(name)) return;
    const direct = libraryText(name);
    if (direct !== undefined) {
      this.#texts.set(name, direct);
      for (const called of calledIn(direct)) if (libraryText(called) !== undefined) this.need(called);
      return;
    }
    // Its place is kept, for functions that call each other are none.
    this.#texts.set(name, "");
    this.#texts.set(name, this.#expanded(name));
  }

  texts(): readonly string[] {
    return [...this.#texts.values()];
  }

  #expanded(name: string): string {
    const [op, type] = [name.slice(0, -1), name.endsWith("4") ? ("f32x4" as const) : ("f32" as const)];
    if (op !== "exp" && op !== "log" && op !== "tanh" && op !== "erf") throw new Error(`there is no function ${name}`);
    if (!isExpanded(op)) throw new Error(`${op} has no expansion`);
    const names = new Names("v_");
    const lines: string[] = [];
    let count = 0;
    const fresh = (hint: string): string => `${hint}_${++count}`;
    const around: Around = {
      plain: true,
      line: (text) => void lines.push(text),
      keep: (text) => text,
      call: (called) => {
        this.need(called);
        return called;
      },
      nested: () => {
        throw new Error(`${name} reads memory`);
      },
      fresh,
      local: (local) => names.of(local),
      size: (size) => size,
      position: () => {
        throw new Error(`${name} reads memory`);
      },
      hiddenFloat: () => undefined,
    };
    const expressions = new Expressions(around);
    const x: ImpExpr = { k: "var", name: "x", type };
    const { lets, result } = expand(op, x, type, () => fresh("let"));
    for (const { name: local, value } of lets) lines.push(`let ${names.of(local)} = ${expressions.text(value)};`);
    const value = expressions.text(result);
    this.need(`nan${name.slice(-1)}`);
    const t = wgslType(type);
    const u = type === "f32" ? "u32" : "vec4u";
    // Drivers may take what is below the normal numbers for 0: its bits as an integer are the number times 2^149.
    const tiny = [`let tiny = (bitcast<${u}>(x) - ${u}(1u)) < ${u}(0x007fffffu);`, `let v_x = select(x, ${t}(bitcast<${u}>(x)), tiny);`];
    const start = op === "log" ? tiny : ["let v_x = x;"];
    const shifted = op === "log" ? `(${value} - select(${t}(0.0f), ${t}(103.27893f), tiny))` : value;
    // The comparisons within may be wrong of NaN.
    const end = `return select(${shifted}, x, nan${name.slice(-1)}(x));`;
    return `fn ${name}(x: ${t}) -> ${t} {\n${[...start, ...lines, end].map((l) => `  ${l}`).join("\n")}\n}`;
  }
}
