// Which values are the same in every lane of a unit. Lanes may meet (at barriers, exchanges and `uniform`) only under
// conditions that are: elsewhere some would wait for others that never come. What is loaded counts as different.

import type { ImpExpr, ImpFunction, ImpStmt } from "./types.ts";
import { operandsOf } from "./verify-expr.ts";

/** Where lanes meet under a condition that may differ between them, in words; nothing when there is one lane. */
export function divergence(fn: ImpFunction): readonly string[] {
  if (fn.lanes === 1) return [];
  const uniformity = new Uniformity(fn);
  const found: string[] = [];
  const visit = (body: readonly ImpStmt[], together: boolean): void => {
    for (const s of body) {
      switch (s.k) {
        case "barrier":
        case "uniform":
        case "exchange":
          if (!together) found.push(`${s.k === "barrier" ? "a barrier" : `${s.k} ${s.name}`} is where not all lanes come`);
          break;
        case "for":
          visit(s.body, together && uniformity.of(s.from) && uniformity.of(s.to));
          break;
        case "while":
          visit(s.body, together && uniformity.of(s.cond));
          break;
        case "if":
          for (const part of [s.then, s.else]) visit(part, together && uniformity.of(s.cond));
          break;
        default:
      }
    }
  };
  visit(fn.body, true);
  return found;
}

export class Uniformity {
  /** Locals that may differ between lanes. */
  readonly #different = new Set<string>();
  #changed = true;

  constructor(fn: ImpFunction) {
    if (fn.lane !== undefined) this.#different.add(fn.lane);
    while (this.#changed) {
      this.#changed = false;
      this.#block(fn.body, true);
    }
  }

  /** The same in every lane of a unit. */
  of(e: ImpExpr): boolean {
    if (e.k === "var") return !this.#different.has(e.name);
    return e.k !== "load" && e.k !== "loadSplat" && operandsOf(e).every((part) => this.of(part));
  }

  #differs(name: string): void {
    if (this.#different.has(name)) return;
    this.#different.add(name);
    this.#changed = true;
  }

  #block(body: readonly ImpStmt[], together: boolean): void {
    for (const s of body) {
      switch (s.k) {
        case "let":
          if (!this.of(s.value)) this.#differs(s.name);
          break;
        case "assign":
          if (!together || !this.of(s.value)) this.#differs(s.name);
          break;
        case "exchange":
          this.#differs(s.name);
          break;
        case "for": {
          const same = this.of(s.from) && this.of(s.to);
          if (!same) this.#differs(s.name);
          this.#block(s.body, together && same);
          break;
        }
        case "while":
          this.#block(s.body, together && this.of(s.cond));
          break;
        case "if":
          for (const part of [s.then, s.else]) this.#block(part, together && this.of(s.cond));
          break;
        default:
      }
    }
  }
}
