// The canonical text of an Imp function: one line a statement. `parseImp(printImp(f))` equals f, places of the .uhd
// file included. Does not check the function (see verify.ts).

import { SpanWriter } from "../spans.ts";
import { nameText } from "../text.ts";
import { Declared, exprText, typeText } from "./expr-text.ts";
import type { ImpFunction, ImpStmt } from "./types.ts";

/** With `sources: false` the places in .uhd files are left out. */
export function printImp(fn: ImpFunction, { sources = true }: { readonly sources?: boolean } = {}): string {
  const spans = new SpanWriter();
  const locs = sources ? fn.sources.map((loc) => `  source ${spans.loc(loc)}`.trimEnd()) : [];
  const writer = new Writer(fn);
  writer.block(fn.body, "  ");
  return [
    `function ${JSON.stringify(fn.name)} {`,
    ...spans.lines(),
    `  dims [${fn.dims.map(nameText).join(", ")}]`,
    ...fn.buffers.map((b) => `  ${b.access} ${nameText(b.name)}: ${b.dtype}`),
    ...fn.scratch.map((s) => `  scratch ${s.space} ${nameText(s.name)}: ${s.dtype}[${s.size.text}]`),
    `  units ${nameText(fn.unit)}: ${fn.units.text}`,
    ...(fn.lanes === 1 && fn.lane === undefined ? [] : [`  lanes ${fn.lane === undefined ? "" : `${nameText(fn.lane)}: `}${fn.lanes}`]),
    ...(fn.subgroup === undefined ? [] : [`  subgroup ${fn.subgroup}`]),
    ...writer.lines,
    ...locs,
    "}",
    "",
  ].join("\n");
}

class Writer {
  readonly lines: string[] = [];
  readonly #declared: Declared;

  constructor(fn: ImpFunction) {
    this.#declared = new Declared(fn);
  }

  block(statements: readonly ImpStmt[], indent: string): void {
    for (const s of statements) this.#statement(s, indent);
  }

  #statement(s: ImpStmt, indent: string): void {
    const line = (text: string): void => void this.lines.push(indent + text);
    const expr = (e: Parameters<typeof exprText>[0]): string => exprText(e, this.#declared);
    const inner = `${indent}  `;
    switch (s.k) {
      case "let": {
        const value = expr(s.value);
        this.#declared.local(s.name, s.type);
        line(`${s.mutable ? "var" : "let"} ${nameText(s.name)}: ${typeText(s.type)} = ${value}`);
        break;
      }
      case "assign":
        line(`set ${nameText(s.name)} = ${expr(s.value)}`);
        break;
      case "store":
      case "storeLanes": {
        const offset = s.offset === 0 ? "" : `, ${s.offset}`;
        line(`store${s.k === "store" ? "" : ` lanes ${s.count}`} (${expr(s.ptr)}${offset}) = ${expr(s.value)}`);
        break;
      }
      case "for": {
        const [from, to] = [expr(s.from), expr(s.to)];
        this.#declared.local(s.name, "i32");
        line(`for ${nameText(s.name)} = ${from} .. ${to}${s.step === 1 ? "" : ` step ${s.step}`} {`);
        this.block(s.body, inner);
        line("}");
        break;
      }
      case "while":
        line(`while ${expr(s.cond)} {`);
        this.block(s.body, inner);
        line("}");
        break;
      case "if":
        line(`if ${expr(s.cond)} {`);
        this.block(s.then, inner);
        if (s.else.length > 0) {
          line("} else {");
          this.block(s.else, inner);
        }
        line("}");
        break;
      case "barrier":
        line("barrier");
        break;
      case "uniform": {
        const value = expr(s.value);
        this.#declared.local(s.name, s.type);
        line(`uniform ${nameText(s.name)} = ${value}`);
        break;
      }
      case "exchange": {
        const [value, lane] = [expr(s.value), expr(s.lane)];
        this.#declared.local(s.name, s.type);
        line(`exchange ${nameText(s.name)}: ${typeText(s.type)} = ${s.op} ${lane} of ${value}`);
        break;
      }
      case "fence":
        line(`fence ${nameText(s.ptr)} [${s.keep.map(nameText).join(", ")}]`);
        break;
      default:
        s satisfies never;
    }
  }
}
