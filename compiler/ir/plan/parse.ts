// Reads the text that print.ts writes. Reports the line and column of what it did not expect; does not check that
// the plan makes sense (see verify.ts). Shape code was written from host expressions, and is checked where it runs.

import { readFramed, type Cursor } from "../cursor.ts";
import { isDType, type DType } from "../dtype.ts";
import type { GivenType } from "./given.ts";
import type { HostExpr, HostFunction, HostProgram, HostTable } from "./host.ts";
import { readPacked } from "./packed.ts";
import { readRows } from "./rows.ts";
import type { Plan, PlanBuffer, PlanKernel, PlanLimit, PlanParam, PlanSymbol, Step } from "./types.ts";

/** The plan whose text this is. Throws IrParseError. */
export function parsePlan(text: string): Plan {
  const plan = new Reader();
  const open = (c: Cursor): string => {
    c.need("plan");
    const name = c.string();
    c.need("version 1 {");
    return name;
  };
  const name = readFramed(text, "plan", open, (c) => plan.line(c));
  return { format: "uhd-plan", version: 1, name, ...plan.parts() };
}

class Reader {
  readonly #symbols: PlanSymbol[] = [];
  readonly #limits: PlanLimit[] = [];
  readonly #given: NonNullable<HostProgram["given"]>[number][] = [];
  readonly #functions: HostFunction[] = [];
  readonly #bindings: HostProgram["bindings"][number][] = [];
  readonly #tables: HostTable[] = [];
  readonly #buffers: PlanBuffer[] = [];
  readonly #inputs: Plan["inputs"][number][] = [];
  readonly #outputs: Plan["outputs"][number][] = [];
  readonly #params: PlanParam[] = [];
  readonly #states: Plan["states"][number][] = [];
  readonly #kernels: PlanKernel[] = [];
  readonly #prepare: Step[] = [];
  readonly #steps: Step[] = [];

  parts(): Omit<Plan, "format" | "version" | "name"> {
    return {
      symbols: this.#symbols,
      limits: this.#limits,
      host: { ...(this.#given.length === 0 ? {} : { given: this.#given }), functions: this.#functions, bindings: this.#bindings },
      tables: this.#tables,
      inputs: this.#inputs,
      outputs: this.#outputs,
      params: this.#params,
      states: this.#states,
      buffers: this.#buffers,
      kernels: this.#kernels,
      prepare: this.#prepare,
      steps: this.#steps,
    };
  }

  line(c: Cursor): void {
    const word = c.word();
    switch (word) {
      case "symbol":
        this.#symbols.push(readSymbol(c));
        break;
      case "argument":
        this.#symbols.push({ ...readSymbol(c), argument: true });
        break;
      case "limit": {
        const value = braced(c, "");
        const most = braced(c, "to");
        this.#limits.push({ value, most, says: c.string() });
        break;
      }
      case "given":
        this.#given.push({ name: c.name(), type: c.json(false) as GivenType });
        break;
      case "function":
        c.name();
        this.#functions.push(c.json(false) as HostFunction);
        break;
      case "size":
      case "value":
        this.#bindings.push(readBinding(c, word === "size"));
        break;
      case "table":
        numbered(c, "", this.#tables.length);
        this.#tables.push(readTable(c));
        break;
      case "buffer":
        numbered(c, "%", this.#buffers.length);
        this.#buffers.push(readBuffer(c));
        break;
      case "input":
        this.#inputs.push(readEntry(c));
        break;
      case "output":
        this.#outputs.push(readEntry(c));
        break;
      case "param":
        this.#params.push(readParam(c));
        break;
      case "state": {
        const entry = readEntry(c);
        this.#states.push(c.take("update") ? { ...entry, update: c.value() } : entry);
        break;
      }
      case "kernel":
        this.#kernels.push(readKernel(c));
        break;
      case "prepare":
      case "step": {
        const list = word === "prepare" ? this.#prepare : this.#steps;
        numbered(c, "", list.length);
        c.need("=");
        list.push(readStep(c));
        break;
      }
      default:
        c.fail("a part of a plan before this");
    }
  }
}

/** Things that others name by number stand in their order. */
function numbered(c: Cursor, before: string, expected: number): void {
  if (!c.take(`${before}${expected} `)) c.fail(`number ${expected}`);
}

function size(c: Cursor): string {
  return c.sees(/"/y) ? c.string() : c.dim().text;
}

function sizes(c: Cursor): string[] {
  c.need("[");
  return c.list("]", () => size(c));
}

function braced(c: Cursor, word: string): string {
  c.need(word);
  c.need("{");
  const text = size(c);
  c.need("}");
  return text;
}

function dtype(c: Cursor): DType {
  const word = c.word();
  return isDType(word) ? word : c.fail("an element type before this");
}

function readSymbol(c: Cursor): PlanSymbol {
  const name = c.name();
  c.need(":");
  const lower = c.int();
  c.need("..");
  return c.sees(/-?\d/y) ? { name, lower, upper: c.int() } : { name, lower };
}

function readBinding(c: Cursor, symbol: boolean): HostProgram["bindings"][number] {
  const name = c.name();
  c.need("at");
  const loc = c.string();
  c.need("=");
  return { name, value: c.json(false) as HostExpr, symbol, loc };
}

function readTable(c: Cursor): HostTable {
  const name = c.name();
  c.need(":");
  const [type, shape] = [dtype(c), sizes(c)];
  c.need("=");
  return { name, dtype: type, shape, value: c.json(false) as HostExpr };
}

function readBuffer(c: Cursor): PlanBuffer {
  const name = c.name();
  c.need(":");
  const [type, shape] = [dtype(c), sizes(c)];
  const slack = c.take("+") ? c.int() : 0;
  return { name, dtype: type, shape, slack, place: readPlace(c) };
}

function readPlace(c: Cursor): PlanBuffer["place"] {
  const k = c.word();
  switch (k) {
    case "input":
    case "output":
    case "param":
    case "persistent":
    case "state":
      return { k };
    case "table":
      return { k, table: c.int() };
    case "constant":
      c.need("[");
      return { k, data: c.list("]", () => c.number()) };
    case "arena": {
      const first = c.int();
      c.need("..");
      return { k, first, last: c.int() };
    }
    default:
      return c.fail("a place before this");
  }
}

function readEntry(c: Cursor): { readonly name: string; readonly buffer: number } {
  const name = c.name();
  c.need("=");
  return { name, buffer: c.value() };
}

function readParam(c: Cursor): PlanParam {
  const name = c.name();
  c.need(":");
  const type = dtype(c);
  c.need("[");
  const shape = c.list("]", () => c.number());
  const init = c.take("~") ? readInit(c) : undefined;
  const packed = c.take("of ") ? readPacked(c) : undefined;
  const rows = c.take("rows ") ? readRows(c) : undefined;
  c.need("=");
  return {
    name,
    dtype: type,
    shape,
    buffer: c.value(),
    ...(init === undefined ? {} : { init }),
    ...(packed === undefined ? {} : { packed }),
    ...(rows === undefined ? {} : { rows }),
  };
}

function readInit(c: Cursor): NonNullable<PlanParam["init"]> {
  const kind = c.word();
  c.need("(");
  const value = c.number();
  c.need(")");
  if (kind === "constant") return { kind, value };
  return kind === "normal" ? { kind, std: value } : c.fail("constant or normal before this");
}

function readKernel(c: Cursor): PlanKernel {
  const name = c.name();
  c.need("(");
  const dims = c.list(")", () => c.name());
  c.need("buffers");
  const bufferCount = c.int();
  const written = c.take("written ") ? { written: c.int() } : {};
  const units = braced(c, "units");
  return { name, dims, bufferCount, ...written, scratch: braced(c, "scratch"), units };
}

function readStep(c: Cursor): Step {
  if (c.take("copy ")) {
    const from = c.value();
    c.need("to");
    return { k: "copy", from, to: c.value() };
  }
  c.need("run");
  const kernel = c.name();
  c.need("(");
  const buffers = c.list(")", () => c.value());
  c.need("dims");
  const dims = sizes(c);
  c.need("over");
  const extents = sizes(c);
  const [flops, bytes] = [braced(c, "flops"), braced(c, "bytes")];
  c.need("stage");
  const stage = c.string();
  c.need("from");
  c.need("[");
  const sources = c.list("]", () => c.string());
  const unfused = c.take("apart") ? c.string() : undefined;
  return { k: "dispatch", kernel, buffers, dims, extents, sources, flops, bytes, ...(unfused === undefined ? {} : { unfused }), stage };
}
