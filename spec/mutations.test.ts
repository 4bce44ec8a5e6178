// Seeded mistakes in the real graphs: a size changed, operands swapped, a name misspelt, a token deleted. Each must be
// reported at its place or at the conflict it causes, or be harmless; the test prints how many of which.
//
// How places are judged, for each reported mutant, by its first diagnostic and that one's notes:
//   exact     the diagnostic's span contains the mutated text (a swap: one of the two; a deletion: touches where it was)
//   noted     a note's span does
//   conflict  a span overlaps the declaration that was mutated, the bracket that lost its other half, or a place
//             that names what was mutated or declared there
// Spans of more than 200 characters count for nothing, so that no span is right by being large.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadProgram, type Program } from "../compiler/check/index.ts";
import type { Diagnostic } from "../compiler/diagnostics/index.ts";
import { printGraph } from "../compiler/ir/graph/print.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import type { Graph } from "../compiler/ir/graph/types.ts";
import type { Span } from "../compiler/ir/loc.ts";
import { HostError, runHostProgram, tableData } from "../compiler/ir/plan/host-eval.ts";
import { typeRule } from "../ops/index.ts";
import { generator, mutate, sourceFile, type Mutation, type MutationKind } from "./mutations.ts";

const folder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../graphs");
const files = readdirSync(folder, { recursive: true, encoding: "utf8" })
  .map((f) => f.replaceAll(path.sep, "/"))
  .filter((f) => f.endsWith(".uhd"))
  .sort();
const texts = new Map(files.map((f) => [f, readFileSync(path.join(folder, f), "utf8")]));
const sources = files.map((f) => sourceFile(f, texts.get(f) ?? ""));

const seed = Number(process.env.UHD_PROPERTY_SEED ?? 20_240_311) | 0;
const count = Math.max(360, Number(process.env.UHD_PROPERTY_RUNS ?? 0) || 0);
const kinds: readonly MutationKind[] = ["dimension", "swap", "misspelling", "deletion"];

function textOf(changed: ReadonlyMap<string, string>, file: string): string {
  const text = changed.get(file) ?? texts.get(file);
  if (text === undefined) throw Object.assign(new Error("no such file"), { code: "ENOENT" });
  return text;
}

/** Two layers instead of 23 and a narrow language model, where a file has them: the same code is checked, sooner. */
function load(root: string, changed: ReadonlyMap<string, string>): Program {
  const small = Object.entries({ layers: "2", width: "384" }).filter(([name]) =>
    importsOf(root).some((f) => (texts.get(f) ?? "").includes(`config ${name}:`)),
  );
  return loadProgram(root, { readText: (file) => textOf(changed, file), config: Object.fromEntries(small) });
}

function importsOf(root: string): readonly string[] {
  const found = new Set([root]);
  for (const file of found) {
    for (const m of (texts.get(file) ?? "").matchAll(/from "(\.[^"]+)"/g)) found.add(path.posix.join(path.posix.dirname(file), m[1] ?? ""));
  }
  return [...found];
}

/** A file itself, and the two programs that between them import every other file. */
function rootsOf(file: string): readonly string[] {
  return [file, ...["llava-uhd-v1.uhd", "llava-uhd.uhd"].filter((f) => f !== file && importsOf(f).includes(file))];
}

/** All that a program means, without places: graphs, shape functions and settings. */
function meaning(program: Program): string {
  const graphs = [...program.graphs].map(([name, graph]) => [name, printGraph(graph, { locations: false })]);
  const functions = [...program.functions].map(([name, f]) => [name, f.params, f.result, f.program]);
  const configs = program.configs.map((c) => [c.name, c.type, c.value]);
  return JSON.stringify([graphs, functions, configs], (key, value: unknown) => (key === "loc" ? undefined : value)).replace(
    /\\"loc\\":\\"[^"]*\\"/g,
    "",
  );
}

const originals = new Map(files.map((f) => [f, meaning(load(f, new Map()))]));

const touches = (s: Span, start: number, end: number): boolean => s.start <= end && start <= s.end;
const fair = (s: Span): boolean => s.end - s.start <= 200;

/** Whether a span has the mutation in it. */
function contains(m: Mutation, s: Span): boolean {
  if (s.file !== m.file || !fair(s)) return false;
  // Between the neighbours of a deleted token there may be white space.
  if (m.start === m.end) {
    const before = m.text.slice(0, m.start).trimEnd().length;
    const after = m.text.length - m.text.slice(m.start).trimStart().length;
    return touches(s, before, after);
  }
  return m.parts.some((p) => s.start <= p.start && p.end <= s.end);
}

/** Whether a span has a place that the mutation is in conflict with. */
function conflicts(m: Mutation, s: Span): boolean {
  if (!fair(s)) return false;
  if (s.file === m.file) {
    if (touches(s, m.start, m.end)) return true;
    if (m.related.some((r) => touches(s, r.start, r.end))) return true;
  }
  const text = (s.file === m.file ? m.text : (texts.get(s.file) ?? "")).slice(s.start, s.end);
  return [...text.matchAll(/[A-Za-z_][A-Za-z0-9_]*/g)].some((w) => m.names.has(w[0]));
}

type Place = "exact" | "noted" | "conflict" | "elsewhere";

function place(m: Mutation, d: Diagnostic): Place {
  const notes = d.notes.flatMap((n) => (n.span === undefined ? [] : [n.span]));
  if (contains(m, d.span)) return "exact";
  if (notes.some((s) => contains(m, s))) return "noted";
  return [d.span, ...notes].some((s) => conflicts(m, s)) ? "conflict" : "elsewhere";
}

/** Runs the shape code of a graph for two sizes of image; undefined when it works, the error of the user otherwise. */
function runShapeCode(graph: Graph): string | undefined {
  return runFor(graph, 301, 341) ?? runFor(graph, 1200, 90);
}

function runFor(graph: Graph, first: number, second: number): string | undefined {
  // Everything that the caller gives: as large as its bounds let it be.
  const computed = new Set(graph.host.bindings.map((b) => b.name));
  const sizes = Object.fromEntries(
    graph.symbols
      .filter((s) => !computed.has(s.name))
      .map((s, i) => [
        s.name,
        Math.max(s.lower, Math.min(i === 0 ? first : second, s.upper !== undefined && s.upper < 1000 ? 5 + i : Infinity)),
      ]),
  );
  try {
    const run = runHostProgram(graph.host, sizes);
    for (const n of graph.nodes) {
      if (n.kind === "table") tableData({ name: n.name, dtype: n.type.dtype, shape: n.type.shape.map((d) => d.text), value: n.value }, run);
    }
    return undefined;
  } catch (error) {
    // Anything but a HostError means that shape code was run which is not well typed.
    if (error instanceof HostError) return error.message;
    throw error;
  }
}

type Outcome =
  | { readonly k: "reported"; readonly place: Place; readonly diagnostic: Diagnostic }
  | { readonly k: "equivalent" }
  | { readonly k: "well typed" }
  | { readonly k: "refused at run"; readonly error: string };

function judge(m: Mutation): Outcome {
  const changed = new Map([[m.file, m.text]]);
  let same = true;
  let refused: string | undefined;
  for (const root of rootsOf(m.file)) {
    const program = load(root, changed);
    const errors = program.diagnostics.filter((d) => d.severity === "error");
    const defect = errors.find((d) => d.code === "UHD0999");
    if (defect !== undefined) throw new Error(`${m.what}: ${defect.found ?? defect.message}`);
    const keys = errors.map((d) => `${d.code} ${d.span.file} ${d.span.start} ${d.span.end}`);
    if (new Set(keys).size < keys.length) throw new Error(`${m.what}: an error is reported twice`);
    if (errors.length > 0) {
      // The best placed of the first two: of one mistake that breaks two things either may come first in the file.
      const places = errors.slice(0, 2).map((d) => ({ k: "reported" as const, place: place(m, d), diagnostic: d }));
      const order: readonly Place[] = ["exact", "noted", "conflict", "elsewhere"];
      const best = places.sort((a, b) => order.indexOf(a.place) - order.indexOf(b.place))[0];
      if (best !== undefined) return best;
    }
    for (const graph of program.graphs.values()) {
      const wrong = verifyGraph(graph, typeRule);
      if (wrong.length > 0) throw new Error(`${m.what}: accepted, but ${wrong.join("; ")}`);
    }
    if (meaning(program) === originals.get(root)) continue;
    same = false;
    for (const graph of program.graphs.values()) refused ??= runShapeCode(graph);
  }
  return same ? { k: "equivalent" } : refused === undefined ? { k: "well typed" } : { k: "refused at run", error: refused };
}

function mutants(): readonly Mutation[] {
  const random = generator(seed);
  const out: Mutation[] = [];
  const seen = new Set<string>();
  // Files in proportion to their size.
  const total = sources.reduce((n, s) => n + s.tokens.length, 0);
  for (let tries = 0; out.length < count && tries < 50 * count; tries++) {
    let at = random() * total;
    const source = sources.find((s) => (at -= s.tokens.length) < 0);
    const kind = kinds[tries % kinds.length];
    if (source === undefined || kind === undefined) continue;
    const m = mutate(source, kind, random);
    if (m === undefined || seen.has(m.file + m.text)) continue;
    seen.add(m.file + m.text);
    out.push(m);
  }
  return out;
}

describe("mutations of the graphs", () => {
  const all = mutants();
  const judged = all.map((m) => ({ m, outcome: judge(m) }));
  const reported = judged.flatMap(({ m, outcome }) => (outcome.k === "reported" ? [{ m, ...outcome }] : []));
  const share = (n: number): string => `${((100 * n) / reported.length).toFixed(1)} %`;
  const of = (k: Place): number => reported.filter((r) => r.place === k).length;

  test("there are at least 300 of all kinds", () => {
    expect(all.length).toBeGreaterThanOrEqual(300);
    for (const kind of kinds) expect(all.filter((m) => m.kind === kind).length).toBeGreaterThan(50);
    const rows = kinds.map((kind) => {
      const mine = judged.filter(({ m }) => m.kind === kind);
      const n = (k: string): number => mine.filter(({ outcome }) => (outcome.k === "reported" ? outcome.place : outcome.k) === k).length;
      return `${kind}: ${mine.length} (exact ${n("exact")}, noted ${n("noted")}, conflict ${n("conflict")}, elsewhere ${n("elsewhere")}; equivalent ${n("equivalent")}, well typed ${n("well typed")}, refused at run ${n("refused at run")})`;
    });
    console.log(
      [
        `seed ${seed}: ${all.length} mutants, ${reported.length} reported; exact ${share(of("exact"))}, exact or noted ${share(of("exact") + of("noted"))}, located ${share(reported.length - of("elsewhere"))}`,
        ...rows,
      ].join("\n"),
    );
  });

  test("at least 300 are reported, each at its place or at the conflict it causes", () => {
    const astray = reported.filter((r) => r.place === "elsewhere");
    expect(astray.map((r) => `${r.m.what} → ${r.diagnostic.span.file}:${r.diagnostic.span.line}: ${r.diagnostic.message}`)).toEqual([]);
    expect(reported.length).toBeGreaterThanOrEqual(300);
  });

  test("most are reported exactly where they are, nearly all there or in a note", () => {
    expect(of("exact") / reported.length).toBeGreaterThan(0.63);
    expect((of("exact") + of("noted")) / reported.length).toBeGreaterThan(0.88);
  });

  // The size of a table is compared with its list when that is computed.
  test("a changed size in a declared type is reported, unless it is an input's, parameter's or state's own and nothing else fixes it", () => {
    const silent = judged.filter(({ m, outcome }) => m.kind === "dimension" && outcome.k !== "reported" && outcome.k !== "equivalent");
    const table = silent.filter(({ m }) => m.where === "table");
    expect(table.filter(({ outcome }) => outcome.k !== "refused at run").map(({ m }) => m.what)).toEqual([]);
    expect(
      silent.filter(({ m }) => m.where === "reshape" || m.where === "declared").map(({ m, outcome }) => `${m.what}: ${outcome.k}`),
    ).toEqual([]);
    expect(silent.length).toBeLessThan(0.15 * judged.filter(({ m }) => m.kind === "dimension").length);
  });

  test("a misspelt name or a lost token is seldom accepted, and then means something else that is well typed", () => {
    for (const kind of ["misspelling", "deletion"] as const) {
      const mine = judged.filter(({ m }) => m.kind === kind);
      expect(mine.filter(({ outcome }) => outcome.k === "reported").length / mine.length).toBeGreaterThan(0.9);
    }
  });

  test("operands of a commutative operator may be swapped: nothing is reported", () => {
    const swapped = judged.filter(({ m }) => m.commutative && m.kind === "swap");
    expect(swapped.length).toBeGreaterThan(0);
    expect(swapped.flatMap(({ m, outcome }) => (outcome.k === "reported" || outcome.k === "refused at run" ? [m.what] : []))).toEqual([]);
  });
});
