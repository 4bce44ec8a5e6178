// The checker's public door: a file and its imports in; diagnostics, elaborated graphs, shape functions and
// configuration out. Never throws for any text.

import { closest, type Diagnostic } from "../diagnostics/index.ts";
import type { Graph } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { HostProgram, HostValue } from "../ir/plan/host.ts";
import type { TrainSettings } from "../train/settings.ts";
import { TooLarge, errorValue, type Cx, type Entity, type Unit, type Value } from "./context.ts";
import { expression } from "./expr.ts";
import { checkDefinition, elaborateGraph, reachable } from "./graphs.ts";
import { constantValue, hostTypeOf, signatureOf } from "./items.ts";
import { loadFiles, wholeFile, type Loaded } from "./load.ts";
import { callInstance, member } from "./modules.ts";
import { didYouMean, Reporter } from "./report.ts";
import { checkTrain } from "./train.ts";
import { block, letStatement } from "./statements.ts";
import { hostTypeText } from "./types.ts";

/** A shape function of the file, ready for `callHostFunction(program, name, arguments)`. */
export interface ShapeFunction {
  /** Its name in `program`. */
  readonly name: string;
  readonly params: readonly { readonly name: string; readonly type: string }[];
  readonly result: string;
  readonly program: HostProgram;
}

export interface Config {
  readonly name: string;
  readonly type: string;
  /** As the file says. */
  readonly default: string;
  /** After overriding. */
  readonly value: HostValue;
  readonly file: string;
}

export interface Program {
  readonly diagnostics: readonly Diagnostic[];
  /** Text of every file, by name. */
  readonly sources: ReadonlyMap<string, string>;
  /** Graphs of the file itself that have no error. */
  readonly graphs: ReadonlyMap<string, Graph>;
  /** Shape functions that the file declares or imports. */
  readonly functions: ReadonlyMap<string, ShapeFunction>;
  readonly configs: readonly Config[];
  /** What the file's train section says; undefined where there is none, or one with errors. */
  readonly train?: TrainSettings;
}

export interface LoadOptions {
  /** Text of a file; throws when it cannot be read. */
  readonly readText: (path: string) => string;
  /** Values for config names, as the command line has them. */
  readonly config?: Readonly<Record<string, string>>;
}

/** Reads, checks and elaborates a file with its imports. Problems are diagnostics; it throws for no text. */
export function loadProgram(path: string, options: LoadOptions): Program {
  const report = new Reporter();
  const cx = context(report, new Map(Object.entries(options.config ?? {})));
  const graphs = new Map<string, Graph>();
  const functions = new Map<string, ShapeFunction>();
  const configs: Config[] = [];
  let sources: ReadonlyMap<string, string> = new Map();
  let train: TrainSettings | undefined;
  guarded(report, path, () => {
    const loaded = loadFiles(cx, path, options.readText);
    sources = loaded.sources;
    const root = loaded.units.get(path);
    // A tree with holes would only give errors that follow from the ones reported.
    if (root === undefined || report.errors > 0) return;
    unknownOverrides(cx, root, loaded.units);
    for (const unit of loaded.units.values()) {
      for (const { entity, span } of unit.names.values()) if (entity.unit === unit) declaration(cx, entity, span);
    }
    for (const [name, { entity }] of root.names) {
      if (entity.k !== "graph" || entity.unit !== root) continue;
      const graph = elaborateGraph(cx, entity);
      if (graph !== undefined) graphs.set(name, graph);
    }
    train = checkTrain(cx, root, graphs);
    for (const unit of loaded.units.values()) {
      for (const { entity } of unit.names.values()) if (entity.k === "module" && entity.unit === unit) checkDefinition(cx, entity);
    }
    collect(cx, root, loaded, functions, configs);
  });
  const diagnostics = report.sorted(sources);
  return { diagnostics, sources, graphs, functions, configs, ...(train === undefined ? {} : { train }) };
}

function context(report: Reporter, overrides: ReadonlyMap<string, string>): Cx {
  const cx: Cx = {
    report,
    overrides,
    functions: new Map(),
    infos: new Map(),
    types: new WeakMap(),
    depth: 0,
    build: undefined,
    expr: (e, scope) => {
      const value = expression(cx, e, scope);
      if (value.k === "host") cx.types.set(e, value.type);
      return value;
    },
    block: (b, scope) => block(cx, b, scope),
    entityValue: (entity, name, span) => entityValue(cx, entity, name, span),
    signature: (info) => signatureOf(cx, info),
    callInstance: (instance, forward, args, span) => callInstance(cx, instance, forward, args, span),
    member: (instance, name, span) => member(cx, instance, name, span),
    letStatement: (s, scope) => letStatement(cx, s, scope),
  };
  return cx;
}

/**
 * Ends the check at what is too large or fails; what was found until then stays. What is too large is the program's
 * doing; anything else that is thrown is a defect of ours, said as such.
 */
function guarded(report: Reporter, path: string, run: () => void): void {
  try {
    run();
  } catch (error) {
    if (error instanceof TooLarge) report.error("UHD0501", error.span, error.message);
    else if (error instanceof RangeError && /call stack/i.test(error.message))
      report.error("UHD0003", wholeFile(path), "the program is nested too deeply");
    else {
      report.error("UHD0999", wholeFile(path), "the checker failed", {
        found: error instanceof Error ? `${error.name}: ${error.message}` : String(error),
        help: "this is a defect of uhdc: please report it with the file",
      });
    }
  }
}

function entityValue(cx: Cx, entity: Entity, name: string, span: Span): Value {
  switch (entity.k) {
    case "constant":
      return constantValue(cx, entity, span);
    case "fn":
      return { k: "function", fn: entity.info };
    case "module":
      return { k: "module", entity };
    case "type":
    case "graph":
      cx.report.error("UHD0107", span, `${name} is a ${entity.k}, not a value`, {
        notes: [{ span: entity.item.name.span, message: "it is declared here" }],
      });
      return errorValue;
    default:
      return entity satisfies never;
  }
}

/** Checks a declaration that no other may ask for. */
function declaration(cx: Cx, entity: Entity, span: Span): void {
  if (entity.k === "constant") constantValue(cx, entity, span);
  else if (entity.k === "fn") signatureOf(cx, entity.info);
  else if (entity.k === "type") hostTypeOf(cx, { kind: "name", name: entity.item.name.name, span: entity.item.name.span }, entity.unit);
}

function configsOf(units: ReadonlyMap<string, Unit>): readonly Extract<Entity, { k: "constant" }>[] {
  return [...units.values()]
    .flatMap((u) => [...u.names.values()].map((n) => n.entity))
    .filter((e, i, all): e is Extract<Entity, { k: "constant" }> => e.k === "constant" && e.item.kind === "config" && all.indexOf(e) === i);
}

function unknownOverrides(cx: Cx, root: Unit, units: ReadonlyMap<string, Unit>): void {
  const names = configsOf(units).map((c) => c.item.name.name);
  for (const name of cx.overrides.keys()) {
    if (names.includes(name)) continue;
    cx.report.error("UHD0407", wholeFile(root.file), `there is no config ${name} to set`, {
      expected: names.length > 0 ? names.join(", ") : "no config at all",
      found: name,
      help: didYouMean(closest(name, names)),
    });
  }
}

function collect(cx: Cx, root: Unit, { units, sources }: Loaded, functions: Map<string, ShapeFunction>, configs: Config[]): void {
  for (const [name, { entity }] of root.names) {
    if (entity.k !== "fn" || entity.info.broken) continue;
    const { params, result } = signatureOf(cx, entity.info);
    const compiled = cx.functions.get(entity.info.name);
    if (compiled === undefined) continue;
    functions.set(name, {
      name: entity.info.name,
      params: entity.item.params.map((p, i) => ({ name: p.name.name, type: params[i] === undefined ? "_" : hostTypeText(params[i]) })),
      result: hostTypeText(result),
      program: { functions: reachable(cx, [{ k: "call", fn: entity.info.name, args: [], loc: "" }]), bindings: [] },
    });
  }
  for (const c of configsOf(units)) {
    if (c.value.k !== "host" || c.value.known === undefined) continue;
    configs.push({
      name: c.item.name.name,
      type: hostTypeText(c.value.type),
      default: (sources.get(c.unit.file) ?? "").slice(c.item.value.span.start, c.item.value.span.end),
      value: c.value.known,
      file: c.unit.file,
    });
  }
}
