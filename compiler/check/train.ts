// The train section: what each setting may be, whether its names and patterns mean something in the graph that is
// trained. Does not build the training step (compiler/train does).

import { closest } from "../diagnostics/index.ts";
import { typeText } from "../ir/graph/build.ts";
import type { Graph } from "../ir/graph/types.ts";
import type { Span } from "../ir/loc.ts";
import type { HostValue } from "../ir/plan/host.ts";
import { largestScale, type LossScaling, type Schedule } from "../ir/plan/training.ts";
import type { Expr, Item, Setting } from "../syntax/ast.ts";
import { matches, matchesAny, type HalfType, type LoraSettings, type OptimiserSettings, type TrainSettings } from "../train/settings.ts";
import { constantOf } from "./constants.ts";
import { Namer, Scope, type Cx, type Unit } from "./context.ts";
import { didYouMean } from "./report.ts";
import { fits, float, hostTypeText, int, listOf, string, tupleOf, type HostType } from "./types.ts";
import { hostExpr } from "./values.ts";

type TrainItem = Extract<Item, { kind: "train" }>;

/** A setting's value, and where it stands. */
interface Given<T> {
  readonly value: T;
  readonly span: Span;
  readonly at: Expr;
}

/** The settings of the file's train section, or undefined when there is none or it has an error. */
export function checkTrain(cx: Cx, unit: Unit, graphs: ReadonlyMap<string, Graph>): TrainSettings | undefined {
  const before = cx.report.errors;
  const [item, ...more] = unit.ast.items.filter((i): i is TrainItem => i.kind === "train");
  for (const other of more)
    cx.report.error("UHD0102", other.span, "a file has one train section", {
      notes: item === undefined ? [] : [{ span: item.span, message: "the first one is here" }],
    });
  if (item === undefined) return undefined;
  const settings = new Sections(cx, new Scope(unit, new Namer())).train(item, graphs, unit);
  return cx.report.errors === before ? settings : undefined;
}

class Sections {
  private readonly cx: Cx;
  private readonly scope: Scope;

  constructor(cx: Cx, scope: Scope) {
    this.cx = cx;
    this.scope = scope;
  }

  train(item: TrainItem, graphs: ReadonlyMap<string, Graph>, unit: Unit): TrainSettings | undefined {
    const s = new Section(this.cx, this.scope, "train", item.settings, item.span, [
      "graph",
      "loss",
      "trainable",
      "frozen",
      "optimiser",
      "schedule",
      "clip",
      "accumulate",
      "steps",
      "lora",
      "compute",
      "scaling",
    ]);
    const trainable = s.patterns("trainable") ?? s.missing("trainable", '["model.**"]');
    const frozen = s.patterns("frozen") ?? [];
    const loss = s.text("loss") ?? s.missing("loss", "the name of an output of the graph");
    const optimiser = this.optimiser(s);
    const lora = this.lora(s);
    const found = this.graph(s, graphs, unit);
    const [graph, name] = found ?? [];
    if (graph !== undefined && loss !== undefined) this.loss(graph, loss);
    if (graph !== undefined) this.names(graph, [...(trainable ?? []), ...frozen], optimiser, lora);
    const clip = s.number("clip", (x) => x > 0, "above 0")?.value;
    const accumulate = s.integer("accumulate", 1)?.value ?? 1;
    const steps = s.integer("steps", 1)?.value;
    const schedule = this.schedule(s);
    const compute = this.compute(s);
    const scaling = this.scaling(s, compute);
    if (name === undefined || loss === undefined || trainable === undefined || optimiser === undefined) return undefined;
    return {
      graph: name,
      loss: loss.value,
      trainable: trainable.map((p) => p.value),
      frozen: frozen.map((p) => p.value),
      optimiser: optimiser.settings,
      schedule,
      accumulate,
      ...(clip === undefined ? {} : { clip }),
      ...(steps === undefined ? {} : { steps }),
      ...(lora === undefined ? {} : { lora: lora.settings }),
      ...(compute === undefined ? {} : { compute }),
      ...(scaling === undefined ? {} : { scaling }),
    };
  }

  /** The graph that is named, or the only one of the file. Undefined also where it has errors of its own. */
  private graph(s: Section, graphs: ReadonlyMap<string, Graph>, unit: Unit): readonly [Graph | undefined, string] | undefined {
    const named = s.text("graph");
    const all = [...unit.names].flatMap(([n, { entity }]) => (entity.k === "graph" && entity.unit === unit ? [n] : []));
    if (named === undefined) {
      const [only, second] = all;
      if (only !== undefined && second === undefined) return [graphs.get(only), only];
      s.missing("graph", all.length === 0 ? "a graph in this file" : `one of ${all.join(", ")}`);
      return undefined;
    }
    if (!all.includes(named.value)) {
      this.cx.report.error("UHD0603", named.span, `the file has no graph ${named.value}`, {
        expected: all.join(", ") || "a graph in this file",
        found: named.value,
        help: didYouMean(closest(named.value, all)),
      });
      return undefined;
    }
    return [graphs.get(named.value), named.value];
  }

  private loss(graph: Graph, loss: Given<string>): void {
    const names = graph.outputs.map((o) => o.name);
    const output = graph.outputs.find((o) => o.name === loss.value);
    const node = graph.nodes.find((n) => n.id === output?.value);
    if (node === undefined) {
      this.cx.report.error("UHD0603", loss.span, `the graph ${graph.name} has no output ${loss.value}`, {
        expected: names.join(", "),
        found: loss.value,
        help: didYouMean(closest(loss.value, names)),
      });
    } else if (node.type.dtype !== "f32" || node.type.shape.length > 0)
      this.cx.report.error("UHD0603", loss.span, "a loss is one number", { expected: "f32[]", found: typeText(node.type) });
  }

  /** Every pattern chooses a parameter of the graph; something is trained; a low-rank addition goes to a matrix. */
  private names(graph: Graph, all: readonly Given<string>[], optimiser: Optimiser | undefined, lora: Lora | undefined): void {
    const params = graph.nodes.flatMap((n) => (n.kind === "param" ? [n] : []));
    const names = params.map((p) => p.name);
    const more = [...(optimiser?.patterns ?? []), ...(lora?.patterns ?? [])];
    for (const p of [...all, ...more]) {
      if (names.some((n) => matches(p.value, n))) continue;
      this.cx.report.error("UHD0604", p.span, `no parameter of ${graph.name} has a name like this`, {
        found: p.value,
        help: didYouMean(closest(p.value, names)) ?? "* stands for anything without a dot, ** for anything",
      });
    }
    if (lora === undefined) return;
    for (const p of params) {
      const { targets, except } = lora.settings;
      if (!matchesAny(targets, p.name) || matchesAny(except, p.name) || p.type.shape.length === 2) continue;
      const by = lora.patterns.find((t) => matches(t.value, p.name));
      if (by !== undefined)
        this.cx.report.error("UHD0604", by.span, `${p.name} is not a matrix`, {
          expected: "f32[outputs, inputs]",
          found: typeText(p.type),
        });
    }
  }

  private optimiser(parent: Section): Optimiser | undefined {
    const s = parent.section("optimiser", ["name", "rate", "betas", "eps", "decay", "undecayed", "rates"]);
    if (s === undefined) {
      parent.missing("optimiser", 'optimiser { name: "adamw", rate: 0.001 }');
      return undefined;
    }
    const name = s.text("name");
    if (name !== undefined && name.value !== "adamw")
      this.cx.report.error("UHD0602", name.span, "there is one optimiser", { expected: '"adamw"', found: JSON.stringify(name.value) });
    const positive = (x: number): boolean => x >= 0;
    const rate = s.number("rate", positive, "0 or more") ?? s.missing("rate", "0.001");
    const betas = s.read<readonly number[]>("betas", tupleOf([float, float]));
    if (betas?.value.some((b) => !(b >= 0 && b < 1)) === true)
      this.cx.report.error("UHD0602", betas.span, "each beta is at least 0 and below 1", { found: `(${betas.value.join(", ")})` });
    const [first = 0.9, second = 0.999] = betas?.value ?? [];
    const undecayed = s.patterns("undecayed") ?? [];
    const rates = s.read<readonly (readonly [string, number])[]>("rates", listOf(tupleOf([string, float])));
    const own = (rates?.value ?? []).map(([p, r], i): Given<string> => {
      const span = rates?.at.kind === "list" ? (rates.at.items[i]?.span ?? rates.span) : (rates?.span ?? parent.span);
      if (!(r >= 0)) this.cx.report.error("UHD0602", span, "a rate is at least 0", { found: String(r) });
      return { value: p, span, at: rates?.at ?? { kind: "error", span } };
    });
    if (rate === undefined) return undefined;
    const settings: OptimiserSettings = {
      name: "adamw",
      rate: rate.value,
      betas: [first, second],
      eps: s.number("eps", positive, "0 or more")?.value ?? 1e-8,
      decay: s.number("decay", positive, "0 or more")?.value ?? 0,
      undecayed: undecayed.map((p) => p.value),
      rates: rates?.value ?? [],
    };
    return { settings, patterns: [...undecayed, ...own] };
  }

  private schedule(parent: Section): Schedule {
    const s = parent.section("schedule", ["kind", "warmup"]);
    const kinds = ["constant", "linear", "cosine"] as const;
    const given = s?.text("kind");
    const kind = kinds.find((k) => k === given?.value);
    if (given !== undefined && kind === undefined)
      this.cx.report.error("UHD0602", given.span, "there is no such schedule", {
        expected: kinds.join(", "),
        found: given.value,
        help: didYouMean(closest(given.value, [...kinds])),
      });
    const warmup = s?.number("warmup", (x) => x >= 0 && (x < 1 || Number.isInteger(x)), "a share below 1, or a number of steps");
    const of = warmup?.value ?? 0;
    return { kind: kind ?? "constant", warmup: of > 0 && of < 1 ? { k: "share", of } : { k: "steps", count: of } };
  }

  /** Undefined for f32. */
  private compute(parent: Section): HalfType | undefined {
    const given = parent.text("compute");
    if (given === undefined || given.value === "f32") return undefined;
    const found = (["f16", "bf16"] as const).find((d) => d === given.value);
    if (found === undefined)
      this.cx.report.error("UHD0602", given.span, "products are computed of floats", {
        expected: "f32, f16, bf16",
        found: given.value,
        help: didYouMean(closest(given.value, ["f32", "f16", "bf16"])),
      });
    return found;
  }

  /** f16 has no room for small derivatives without it; bf16 has the range of f32. */
  private scaling(parent: Section, compute: HalfType | undefined): LossScaling | undefined {
    const s = parent.section("scaling", ["initial", "every"]);
    if (s !== undefined && compute !== "f16") {
      this.cx.report.error("UHD0602", s.span, "the loss is scaled where products are computed in f16", {
        expected: 'compute: "f16"',
        found: compute ?? "f32",
      });
      return undefined;
    }
    const power = (x: number): boolean => x >= 1 && x <= largestScale && Number.isInteger(Math.log2(x));
    const initial = s?.number("initial", power, `a power of two from 1 to 2^${Math.log2(largestScale)}`)?.value ?? 65536;
    const every = s?.integer("every", 1)?.value ?? 2000;
    return compute === "f16" ? { initial, every } : undefined;
  }

  private lora(parent: Section): Lora | undefined {
    const s = parent.section("lora", ["rank", "alpha", "dropout", "targets", "except", "rate"]);
    if (s === undefined) return undefined;
    const rank = s.integer("rank", 1) ?? s.missing("rank", "8");
    const alpha = s.number("alpha", (x) => x > 0, "above 0");
    const dropout = s.number("dropout", (x) => x >= 0 && x < 1, "0 or more, below 1");
    if (dropout !== undefined && dropout.value !== 0)
      this.cx.report.error("UHD0602", dropout.span, "low-rank additions have no dropout", { expected: "0", found: String(dropout.value) });
    const targets = s.patterns("targets") ?? s.missing("targets", '["model.layers.**_proj.weight"]');
    const except = s.patterns("except") ?? [];
    const rate = s.number("rate", (x) => x >= 0, "0 or more")?.value;
    if (rank === undefined || targets === undefined) return undefined;
    const settings: LoraSettings = {
      rank: rank.value,
      alpha: alpha?.value ?? rank.value,
      targets: targets.map((p) => p.value),
      except: except.map((p) => p.value),
      ...(rate === undefined ? {} : { rate }),
    };
    return { settings, patterns: [...targets, ...except] };
  }
}

interface Optimiser {
  readonly settings: OptimiserSettings;
  readonly patterns: readonly Given<string>[];
}

interface Lora {
  readonly settings: LoraSettings;
  readonly patterns: readonly Given<string>[];
}

/** Settings between two braces: reports those it does not know, those given twice, and what does not fit. */
class Section {
  readonly span: Span;
  private readonly cx: Cx;
  private readonly scope: Scope;
  private readonly name: string;
  private readonly settings = new Map<string, Setting>();

  constructor(cx: Cx, scope: Scope, name: string, settings: readonly Setting[], span: Span, known: readonly string[]) {
    this.cx = cx;
    this.scope = scope;
    this.name = name;
    this.span = span;
    for (const s of settings) {
      const own = s.name.name;
      const before = this.settings.get(own);
      if (!known.includes(own))
        cx.report.error("UHD0601", s.name.span, `${name} has no setting ${own}`, {
          expected: known.join(", "),
          found: own,
          help: didYouMean(closest(own, [...known])),
        });
      else if (before !== undefined) cx.report.twice(own, s.name.span, before.name.span);
      else this.settings.set(own, s);
    }
  }

  missing(name: string, expected: string): undefined {
    if (!this.settings.has(name)) this.cx.report.error("UHD0601", this.span, `${this.name} does not say ${name}`, { expected });
    return undefined;
  }

  section(name: string, known: readonly string[]): Section | undefined {
    const s = this.settings.get(name);
    if (s === undefined) return undefined;
    if (s.value.kind === "settings") return new Section(this.cx, this.scope, name, s.value.settings, s.span, known);
    this.cx.report.error("UHD0602", s.value.span, `${name} is a group of settings`, { expected: `${name} { … }` });
    return undefined;
  }

  /** A value of shape code that is known at compile time, of a type; the caller says which form that type has. */
  read<T extends HostValue>(name: string, type: HostType): Given<T> | undefined {
    const s = this.settings.get(name);
    if (s === undefined) return undefined;
    if (s.value.kind === "settings") {
      this.cx.report.error("UHD0602", s.span, `${name} is one value`, { expected: `${name}: ${hostTypeText(type)}` });
      return undefined;
    }
    const at = s.value;
    const v = hostExpr(this.cx, at, this.scope);
    if (v === undefined) return undefined;
    if (!fits(v.type, type)) {
      this.cx.report.error("UHD0602", at.span, `${name} is of another type`, { expected: hostTypeText(type), found: hostTypeText(v.type) });
      return undefined;
    }
    const value = constantOf(this.cx, v, at.span, () => this.cx.report.error("UHD0207", at.span, `${name} must be known at compile time`));
    return value === undefined ? undefined : { value: value as T, span: at.span, at };
  }

  text(name: string): Given<string> | undefined {
    return this.read<string>(name, string);
  }

  number(name: string, accepts: (x: number) => boolean, expected: string): Given<number> | undefined {
    return this.within(this.read<number>(name, float), name, (x) => Number.isFinite(x) && accepts(x), expected);
  }

  integer(name: string, least: number): Given<number> | undefined {
    return this.within(this.read<number>(name, int), name, (x) => x >= least, `${least} or more`);
  }

  /** Strings, one or a list, each with its own place where the list is written out. */
  patterns(name: string): readonly Given<string>[] | undefined {
    const list = this.read<readonly string[]>(name, listOf(string));
    return list?.value.map((value, i) => ({
      value,
      at: list.at,
      span: list.at.kind === "list" ? (list.at.items[i]?.span ?? list.span) : list.span,
    }));
  }

  private within(
    given: Given<number> | undefined,
    name: string,
    accepts: (x: number) => boolean,
    expected: string,
  ): Given<number> | undefined {
    if (given === undefined || accepts(given.value)) return given;
    this.cx.report.error("UHD0602", given.span, `${name} is out of range`, { expected, found: String(given.value) });
    return undefined;
  }
}
