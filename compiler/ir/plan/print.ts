// The canonical text of a plan: `parsePlan(printPlan(p))` equals p, shape code included. `%3` is buffer 3. Does not
// check the plan (see verify.ts).

import { dimParse, DimError } from "../dim.ts";
import { jsonText, nameText, numberText } from "../text.ts";
import { packedText } from "./packed.ts";
import { rowsText } from "./rows.ts";
import type { DimText, Plan, PlanBuffer, PlanKernel, PlanParam, Step } from "./types.ts";

interface PrintPlanOptions {
  /** Shape code in full, as JSON; true when left out. Otherwise only its names: such text does not read back. */
  readonly code?: boolean;
}

export function printPlan(plan: Plan, { code = true }: PrintPlanOptions = {}): string {
  const value = (of: unknown): string => (code ? jsonText(of) : "…");
  const list = (steps: readonly Step[], word: string): readonly string[] => steps.map((s, i) => `${word} ${i} = ${stepText(s)}`);
  const lines = [
    ...plan.symbols.map((s) => `${s.argument === true ? "argument" : "symbol"} ${nameText(s.name)}: ${s.lower}..${s.upper ?? ""}`),
    ...plan.limits.map((l) => `limit {${sizeText(l.value)}} to {${sizeText(l.most)}} ${JSON.stringify(l.says)}`),
    ...(plan.host.given ?? []).map((g) => `given ${nameText(g.name)} ${jsonText(g.type)}`),
    ...plan.host.functions.map((f) => `function ${nameText(f.name)} ${value(f)}`),
    ...plan.host.bindings.map((b) => `${b.symbol ? "size" : "value"} ${nameText(b.name)} at ${JSON.stringify(b.loc)} = ${value(b.value)}`),
    ...plan.tables.map((t, i) => `table ${i} ${nameText(t.name)}: ${typeText(t.dtype, t.shape)} = ${value(t.value)}`),
    ...plan.buffers.map((b, id) => `buffer %${id} ${bufferText(b)}`),
    ...plan.inputs.map((e) => `input ${nameText(e.name)} = %${e.buffer}`),
    ...plan.outputs.map((e) => `output ${nameText(e.name)} = %${e.buffer}`),
    ...plan.params.map((p) => `param ${paramText(p)}`),
    ...plan.states.map((s) => `state ${nameText(s.name)} = %${s.buffer}${s.update === undefined ? "" : ` update %${s.update}`}`),
    ...plan.kernels.map((k) => `kernel ${kernelText(k)}`),
    ...list(plan.prepare, "prepare"),
    ...list(plan.steps, "step"),
  ];
  return [`plan ${JSON.stringify(plan.name)} version ${plan.version} {`, ...lines.map((l) => `  ${l}`), "}", ""].join("\n");
}

/** A size as it is, or quoted where it is not the canonical text of one. */
function sizeText(text: DimText): string {
  try {
    return dimParse(text).text === text ? text : JSON.stringify(text);
  } catch (error) {
    if (error instanceof DimError) return JSON.stringify(text);
    throw error;
  }
}

function sizes(texts: readonly DimText[]): string {
  return `[${texts.map(sizeText).join(", ")}]`;
}

function typeText(dtype: string, shape: readonly DimText[]): string {
  return `${dtype}${sizes(shape)}`;
}

function bufferText(b: PlanBuffer): string {
  const slack = b.slack === 0 ? "" : ` + ${b.slack}`;
  return `${nameText(b.name)}: ${typeText(b.dtype, b.shape)}${slack} ${placeText(b.place)}`;
}

function placeText(place: PlanBuffer["place"]): string {
  switch (place.k) {
    case "input":
    case "output":
    case "param":
    case "persistent":
    case "state":
      return place.k;
    case "table":
      return `table ${place.table}`;
    case "constant":
      return `constant [${place.data.map(numberText).join(", ")}]`;
    case "arena":
      return `arena ${place.first}..${place.last}`;
    default:
      return place satisfies never;
  }
}

function paramText(p: PlanParam): string {
  const init =
    p.init === undefined
      ? ""
      : ` ~ ${p.init.kind === "constant" ? `constant(${numberText(p.init.value)})` : `normal(${numberText(p.init.std)})`}`;
  const packed = p.packed === undefined ? "" : ` of ${packedText(p.packed)}`;
  const rows = p.rows === undefined ? "" : ` ${rowsText(p.rows)}`;
  return `${nameText(p.name)}: ${p.dtype}[${p.shape.map(numberText).join(", ")}]${init}${packed}${rows} = %${p.buffer}`;
}

function kernelText(k: PlanKernel): string {
  return `${nameText(k.name)}(${k.dims.map(nameText).join(", ")}) buffers ${k.bufferCount}${k.written === undefined ? "" : ` written ${k.written}`} units {${sizeText(k.units)}} scratch {${sizeText(k.scratch)}}`;
}

function stepText(s: Step): string {
  switch (s.k) {
    case "copy":
      return `copy %${s.from} to %${s.to}`;
    case "dispatch":
      return [
        `run ${nameText(s.kernel)}(${s.buffers.map((b) => `%${b}`).join(", ")})`,
        `dims ${sizes(s.dims)}`,
        `over ${sizes(s.extents)}`,
        `flops {${sizeText(s.flops)}}`,
        `bytes {${sizeText(s.bytes)}}`,
        `stage ${JSON.stringify(s.stage)}`,
        `from [${s.sources.map((x) => JSON.stringify(x)).join(", ")}]`,
        ...(s.unfused === undefined ? [] : [`apart ${JSON.stringify(s.unfused)}`]),
      ].join(" ");
    default:
      return s satisfies never;
  }
}
