// The direction of imports, read from the source with ts-morph: compiler/ir <- ops <- compiler <- cli,
// runtime beside them knowing only the plan's types, and no circle between files.

import { Project, ts } from "ts-morph";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

interface Edge {
  readonly from: string;
  readonly to: string;
  readonly typeOnly: boolean;
}

let edges: readonly Edge[] = [];

beforeAll(() => {
  const project = new Project({
    compilerOptions: {
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      allowImportingTsExtensions: true,
      noEmit: true,
    },
  });
  project.addSourceFilesAtPaths(["compiler", "ops", "runtime"].map((folder) => path.join(root, folder, "**/*.ts")));
  const found: Edge[] = [];
  for (const file of project.getSourceFiles()) {
    const from = path.relative(root, file.getFilePath());
    const add = (specifier: string, typeOnly: boolean): void => {
      if (specifier.startsWith(".")) found.push({ from, to: path.normalize(path.join(path.dirname(from), specifier)), typeOnly });
    };
    for (const d of file.getImportDeclarations()) add(d.getModuleSpecifierValue(), d.isTypeOnly());
    for (const d of file.getExportDeclarations()) {
      const specifier = d.getModuleSpecifierValue();
      if (specifier !== undefined) add(specifier, d.isTypeOnly());
    }
    for (const call of file.getDescendantsOfKind(ts.SyntaxKind.CallExpression)) {
      const argument = call.getArguments()[0];
      if (call.getExpression().getKind() === ts.SyntaxKind.ImportKeyword && argument?.isKind(ts.SyntaxKind.StringLiteral))
        add(argument.getLiteralValue(), false);
    }
  }
  edges = found;
}, 60_000);

/** The layer a file belongs to, lowest first; an import may only point to its own layer or one named in `allowed`. */
function layer(file: string): string {
  if (/^compiler\/ir\/(dim|dtype|text|cursor)\.ts$/.test(file) || file.startsWith("compiler/ir/plan/")) return "plan";
  if (file.startsWith("compiler/ir/") || file === "compiler/ir") return "ir";
  if (file.startsWith("ops/")) return "ops";
  if (file.startsWith("compiler/cli/")) return "cli";
  if (file.startsWith("compiler/")) return "compiler";
  if (file.startsWith("runtime/")) return "runtime";
  return "outside";
}

const allowed: Readonly<Record<string, readonly string[]>> = {
  plan: ["plan"],
  ir: ["ir", "plan"],
  ops: ["ops", "ir", "plan"],
  compiler: ["compiler", "ops", "ir", "plan"],
  runtime: ["runtime", "plan"],
  cli: ["cli", "compiler", "ops", "ir", "plan", "runtime"],
};

describe("the house", () => {
  test("has source in every layer", () => {
    const layers = new Set(edges.map((e) => layer(e.from)));
    expect([...layers].sort()).toEqual(["cli", "compiler", "ir", "ops", "plan", "runtime"]);
  });

  test("imports only downwards", () => {
    const wrong = edges.filter((e) => !(allowed[layer(e.from)] ?? []).includes(layer(e.to))).map((e) => `${e.from} -> ${e.to}`);
    expect(wrong).toEqual([]);
  });

  test("has no circle of value imports between files", () => {
    const out = new Map<string, string[]>();
    for (const e of edges) if (!e.typeOnly) out.set(e.from, [...(out.get(e.from) ?? []), e.to]);
    const state = new Map<string, "open" | "done">();
    const circles: string[] = [];
    const visit = (file: string, trail: readonly string[]): void => {
      if (state.get(file) === "done") return;
      if (state.get(file) === "open") {
        circles.push([...trail.slice(trail.indexOf(file)), file].join(" -> "));
        return;
      }
      state.set(file, "open");
      for (const to of out.get(file) ?? []) visit(to, [...trail, file]);
      state.set(file, "done");
    };
    for (const file of out.keys()) visit(file, []);
    expect(circles).toEqual([]);
  });
});
