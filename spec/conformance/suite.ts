// One conformance suite for every device: each op of the table on generated calls, and generated graphs, compared
// with the float64 reference. Compiled with fusion or without; all rows of a target run the same kernels.

import * as fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { compileGraph } from "../../compiler/compile.ts";
import type { Graph } from "../../compiler/ir/graph/types.ts";
import { evalGraph } from "../../compiler/ir/graph/eval.ts";
import { isFloat } from "../../compiler/ir/dtype.ts";
import type { OpSample, RefTensor } from "../../ops/define.ts";
import { opNames, ops, referenceOf, type OpName } from "../../ops/index.ts";
import { Session } from "../../runtime/session.ts";
import { batchOf, caseOf, generatedCases, mixed, smallestNormal, withoutSubnormals, type OpCase, type Symbolic } from "./cases.ts";
import { difference } from "./compare.ts";
import type { Artefact } from "../../runtime/artefact.ts";
import { deviceRows, type DeviceRow } from "./devices.ts";
import { generatedGraphs, type GeneratedGraph } from "./graphs.ts";
import { runs, seed } from "./property.ts";
import { fromRuntime, toRuntime } from "./tensors.ts";

/** Calls in one compilation. */
const batchSize = 25;

export interface Suite<C extends Artefact> {
  /** For titles: "fused". */
  readonly title: string;
  readonly rows: readonly DeviceRow<C>[];
  compile(graph: Graph): C;
  /** Why this is not run here, where it is not. It is told, and counted. */
  readonly declines?: (compiled: C) => string | undefined;
  /** Calls of an op. */
  calls(op: OpName): number;
  /** Which sizes of a call are symbols, by its number. */
  readonly symbolic: (i: number) => Symbolic;
  /** Whether devices may take f32 numbers below the smallest normal one for zeros, operands and results, as WGSL lets drivers do. */
  readonly flushes?: boolean;
  /** Generated graphs. They are compiled one by one, so there are fewer. */
  readonly graphs: number;
}

interface Tally {
  compared: number;
  readonly notRun: string | undefined;
}

type Tensors = Readonly<Record<string, RefTensor>>;

async function runOn<C extends Artefact>(row: DeviceRow<C>, compiled: C, inputs: Tensors, params: Tensors): Promise<Tensors> {
  const device = await row.open(compiled);
  try {
    const weights = new Map(Object.entries(params).map(([name, t]) => [name, toRuntime(t)]));
    const session = await Session.create(row.part?.(compiled) ?? compiled, weights.size > 0 ? { device, weights } : { device });
    try {
      const given = Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, toRuntime(t)]));
      const { outputs } = await session.run(given);
      return Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, fromRuntime(t)]));
    } finally {
      await session.close();
    }
  } finally {
    await row.close(device);
  }
}

/** What is wrong with the result of case `c`, if anything. */
function wrong(c: OpCase, found: RefTensor | undefined, flushes = false): string | undefined {
  const op = ops[c.op];
  if (found === undefined) return "there is no result";
  const tolerance = flushes ? { ...op.tolerance, absolute: op.tolerance.absolute + smallestNormal } : op.tolerance;
  return difference(c.expected, found, tolerance, op.kind === "elementwise" || op.kind === "movement");
}

function operandsFor(flushes: boolean | undefined): (sample: OpSample) => OpSample {
  return flushes === true ? withoutSubnormals : (sample) => sample;
}

/** The smallest failing call like `c`, as text; undefined when a call alone does not fail. */
async function shrunk<C extends Artefact>(name: OpName, row: DeviceRow<C>, suite: Suite<C>): Promise<string | undefined> {
  const calls = fc.tuple(ops[name].samples(fc), fc.constantFrom<Symbolic>("none", "first", "every"));
  const report = await fc.check(
    fc.asyncProperty(calls, async ([sample, symbolic]) => {
      const batch = batchOf([caseOf(name, operandsFor(suite.flushes)(sample), symbolic)]);
      const outputs = await runOn(row, suite.compile(batch.graph), batch.inputs, {});
      const message = batch.cases[0] === undefined ? undefined : wrong(batch.cases[0], outputs.c0, suite.flushes);
      if (message !== undefined) throw new Error(message);
    }),
    { numRuns: runs, seed, interruptAfterTimeLimit: 30_000 },
  );
  return report.failed && report.counterexample !== null ? fc.defaultReportMessage(report) : undefined;
}

/** How far f32 may take a graph from its reference: as far as rounding every value of the reference does, with room. */
function roundingOf(g: GeneratedGraph): { readonly expected: Tensors; readonly allowed: (name: string) => number } {
  const { inputs, params } = g;
  const exact = evalGraph(g.graph, referenceOf, { inputs, params });
  const rounded = evalGraph(
    g.graph,
    (op, operands, attrs, out) => {
      const result = referenceOf(op, operands, attrs, out);
      return isFloat(out.dtype) ? { ...result, data: result.data.map(Math.fround) } : result;
    },
    { inputs, params },
  );
  const allowed = (name: string): number => {
    const [a, b] = [exact.outputs[name]?.data ?? [], rounded.outputs[name]?.data ?? []];
    let [apart, largest] = [0, 1];
    for (const [i, x] of a.entries()) {
      apart = Math.max(apart, Math.abs(x - (b[i] ?? NaN)));
      largest = Math.max(largest, Math.abs(x));
    }
    return 64 * apart + 1e-5 * largest;
  };
  return { expected: exact.outputs, allowed };
}

/** Registers the suite on the devices that run WebAssembly or what it is made of, with fusion or without. */
export function conformance(fuse: boolean): Promise<void> {
  return register({
    title: fuse ? "fused" : "unfused",
    rows: deviceRows,
    compile: (graph) => compileGraph(graph, { target: "wasm", fuse }),
    calls: () => runs,
    symbolic: mixed,
    graphs: Math.max(10, Math.floor(runs / 4)),
  });
}

export async function register<C extends Artefact>(suite: Suite<C>): Promise<void> {
  const { title } = suite;
  const callsOf = (names: readonly OpName[]): number => names.reduce((sum, name) => sum + suite.calls(name), 0);
  const rows = await Promise.all(
    suite.rows.map(async (row) => ({ row, tally: { compared: 0, notRun: await row.unavailable() } as Tally })),
  );
  /** Ops that were declined, with the reasons. */
  const notRun: string[] = [];
  const ready = rows.filter(({ tally }) => tally.notRun === undefined);

  describe(`every op, ${title}, is what its reference says`, () => {
    for (const name of opNames)
      test(name, { timeout: 600_000 }, async (context) => {
        const cases = generatedCases(name, suite.calls(name), seed, suite.symbolic, operandsFor(suite.flushes));
        for (let first = 0; first < cases.length; first += batchSize) {
          const batch = batchOf(cases.slice(first, first + batchSize));
          const compiled = suite.compile(batch.graph);
          const declined = suite.declines?.(compiled);
          if (declined !== undefined && ready.length > 0) {
            notRun.push(`${name}: ${declined}`);
            context.skip(`not run: ${declined}`);
          }
          for (const { row, tally } of ready) {
            const outputs = await runOn(row, compiled, batch.inputs, {});
            for (const [i, c] of batch.cases.entries()) {
              const message = wrong(c, outputs[`c${i}`], suite.flushes);
              if (message !== undefined) {
                const smaller = await shrunk(name, row, suite);
                throw new Error(
                  `${row.name}, ${title}, case ${first + i} of seed ${seed}: ${message}\n${smaller ?? `it fails only in its batch: ${fc.stringify(c.sample)}`}`,
                );
              }
              tally.compared++;
            }
          }
        }
      });
  });

  describe(`generated graphs, ${title}, are what their references say`, () => {
    test("on every device", { timeout: 600_000 }, async () => {
      await fc.assert(
        fc.asyncProperty(generatedGraphs(), async (g) => {
          const { expected, allowed } = roundingOf(g);
          const compiled = suite.compile(g.graph);
          for (const { row, tally } of ready) {
            const outputs = await runOn(row, compiled, g.inputs, g.params);
            for (const [name, want] of Object.entries(expected)) {
              const found = outputs[name];
              const tolerance = {
                absolute: allowed(name),
                relative: 0,
                why: "Sixty-four times what rounding every value of the reference does.",
              };
              const message = found === undefined ? "there is no result" : difference(want, found, tolerance, false);
              if (message !== undefined) throw new Error(`${row.name}, ${title}: ${name}: ${message}`);
            }
            tally.compared++;
          }
        }),
        { numRuns: suite.graphs, seed },
      );
    });
  });

  describe(`devices, ${title}`, () => {
    for (const { row, tally } of rows) {
      test(row.name, (context) => {
        if (tally.notRun !== undefined) context.skip(`not run: ${tally.notRun}`);
        expect(tally.compared).toBeGreaterThanOrEqual(
          callsOf(opNames.filter((name) => !notRun.some((text) => text.startsWith(`${name}:`)))),
        );
      });
    }
  });

  afterAll(async () => {
    for (const { row } of ready) await row.end();
    const lines = rows.map(
      ({ row, tally }) => `  ${row.name}: ${tally.notRun === undefined ? `${tally.compared} cases compared` : `not run: ${tally.notRun}`}`,
    );
    console.log(
      [
        `conformance, ${title}, seed ${seed}, ${callsOf(opNames)} calls of ${opNames.length} ops`,
        ...lines,
        ...notRun.map((text) => `  not run: ${text}`),
      ].join("\n"),
    );
  });
}
