// The checker on tensor code, modules, imports and configuration: what checker.test.ts says of the rest.

import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { check, checkFiles, matches, refused } from "./checker-support.ts";

describe("tensor code", () => {
  test("UHD0301: an argument that does not fit a signature, with what set the size and the declaration", () => {
    const text = `module M(a: int) { forward(x: f32[N, a], y: f32[N, a]) -> f32[N, a] { x + y } }
graph g(u: f32[P, 3], v: f32[Q, 3]) -> out: f32[P, 3] {
  use m = M(3)
  m(u, v)
}`;
    refused(text, { code: "UHD0301", at: "v", expected: "f32[P, 3]", found: "f32[Q, 3]", notes: ["u", "N", "f32[Q, 3]", "use m = M(3)"] });
    refused(text.replace("v: f32[Q, 3]", "v: i32[P, 3]"), { code: "UHD0301", at: "v", expected: /f32/, found: "i32[P, 3]" });
    refused(text.replace("v: f32[Q, 3]", "v: f32[P]"), { code: "UHD0301", at: "v", found: "f32[P]" });
  });

  test("UHD0302: an operand that an operation does not take, both shapes told", () => {
    refused("graph g(x: f32[N, 3], w: f32[5, 4]) -> y: f32[N, 5] { linear(x, w) }", {
      code: "UHD0302",
      at: "w",
      expected: "3 (in f32[N, 3])",
      found: "4 (in f32[5, 4])",
      notes: ["x", "f32[5, 4]"],
    });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 4] { reshape(x, [N, 4]) }", { code: "UHD0302", at: "[N, 4]", notes: ["f32[N, 3]"] });
  });

  test("UHD0303: shapes that do not broadcast", () => {
    refused("graph g(x: f32[N, 3], w: f32[N, 4]) -> y: f32[N, 4] { x * w }", {
      code: "UHD0303",
      at: "x * w",
      found: "[N, 4]",
      notes: ["x", "w", "f32[N, 3]", "f32[N, 4]"],
    });
  });

  test("UHD0304: element types that differ", () => {
    refused("graph g(x: f32[N], w: i32[N]) -> y: f32[N] { x * w }", {
      code: "UHD0304",
      at: "w",
      expected: "f32",
      found: "i32[N]",
      help: /cast/,
      notes: ["x"],
    });
    refused("graph g(x: i32[N]) -> y: i32[N] { x + 0.5 }", { code: "UHD0304", at: "0.5", found: "float" });
    refused("graph g(x: f32[2]) -> y: f32[2] {\n  table t: f16[2] = [1.0, 2.0]\n  x\n}", { code: "UHD0304", at: "f16[2]" });
  });

  test("UHD0305: a result, a let, a state or a branch of another type", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 4] { x }", {
      code: "UHD0305",
      at: "x",
      expected: "f32[N, 4]",
      found: "f32[N, 3]",
      notes: ["y: f32[N, 4]", "f32[N, 3]"],
    });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let h: f32[4] = x\n  x\n}", { code: "UHD0305", at: "x", notes: ["f32[4]"] });
    // Where two sizes come from is told, also where one of them stands twice.
    refused("graph g(x: f32[N, N, M]) -> y: f32[3, 3, 4] { x }", { code: "UHD0305", at: "x", notes: ["N", "M"] });
    refused("graph g(x: f32[3]) -> y: f32[3] {\n  state s: f32[4]\n  s = x\n  x\n}", {
      code: "UHD0305",
      at: "x",
      expected: "f32[4]",
      notes: ["state s: f32[4]"],
    });
    refused(
      "module M(d: int, b: bool) {\n  param w: f32[3]\n  param v: f32[4]\n  forward(x: f32[d]) -> f32[3] { if b { w } else { v } }\n}",
      {
        code: "UHD0305",
        at: "v",
        expected: "f32[3]",
        found: "f32[4]",
        notes: ["w"],
      },
    );
  });

  test("UHD0306: a tensor is wanted", () => {
    refused('graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax("a", axis: 1) }', {
      code: "UHD0306",
      at: '"a"',
      expected: "a tensor",
      found: "string",
    });
    refused("graph g(n: string) -> y: f32[3] { n }", { code: "UHD0306", at: "string", help: /config/ });
    refused("graph g(x: f32[N]) -> y: f32[N] { 1 }", { code: "UHD0306", at: "1", found: "int" });
  });

  test("UHD0307: segments", () => {
    const ragged = "module M(d: int) { forward(x: f32[T~, d]) -> f32[T, d] { x } }\n";
    refused(`${ragged}graph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = M(3)\n  m(x)\n}`, {
      code: "UHD0307",
      at: "x",
      notes: ["T~"],
      help: /ragged T over P/,
    });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let s = segment(x)\n  x\n}", { code: "UHD0307", at: "x" });
    refused(
      "graph g(q: f32[P in 1..=4, n in 1..=9, 2, 8]) -> y: f32[T, 2, 8] {\n  ragged T over P = [n for _ in 0..P]\n  dim Q = 2\n  ragged U over Q = [n * P for _ in 0..Q]\n  let a = reshape(q, [T, 2, 8])\n  let b = reshape(concat(q, q, axis: 0), [U, 2, 8])\n  attention(a, b, b, scale: 1.0)\n}",
      { code: "UHD0307", at: "b", expected: /segments over P/, found: /segments over 2/, notes: ["a"] },
    );
  });

  test("UHD0308: sizes that nothing gives, and bounds", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[M, 3] { x }", { code: "UHD0308", at: "M", help: /a size comes from/ });
    refused("graph g(x: f32[rows, 3]) -> y: f32[rosw, 3] { x }", {
      code: "UHD0308",
      at: "rosw",
      help: 'did you mean "rows"?',
      notes: ["rows"],
    });
    refused("graph g(x: f32[W in 1..=9, W in 1..=9]) -> y: f32[W, W] { x }", { code: "UHD0308", at: "W in 1..=9", notes: ["W in 1..=9"] });
    refused("graph g(x: f32[W in 9..=1]) -> y: f32[W] { x }", { code: "UHD0308", at: "9..=1" });
    refused("graph g(x: f32[W in 1]) -> y: f32[W] { x }", { code: "UHD0308", at: "1", expected: "1..=20000" });
    refused("graph g(x: f32[0 - 1]) -> y: f32[2] { x }", { code: "UHD0308", at: "0 - 1" });
  });

  test("UHD0309: attributes", () => {
    refused('graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax(x, axis: "a") }', {
      code: "UHD0309",
      at: '"a"',
      expected: "int",
      found: "string",
    });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax(x, axis: 7) }", { code: "UHD0309", at: "7", expected: "-2 … 1", found: "7" });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { softmax(x, axis: N) }", { code: "UHD0309", at: "N", found: "a value of each run" });
  });

  test("UHD0309: sizes may be a list that is computed, where it is known at compile time", () => {
    const squares = "module M(d: int) { forward(x: f32[N, d]) -> f32[N, d] { reshape(x, [d for _ in 0..2]) } }\n";
    expect(check(`${squares}graph g(x: f32[4, 4]) -> y: f32[4, 4] {\n  use m = M(4)\n  m(x)\n}`).diagnostics).toEqual([]);
    refused("graph g(x: f32[N, N]) -> y: f32[N, N] { reshape(x, [N for _ in 0..2]) }", {
      code: "UHD0309",
      at: "[N for _ in 0..2]",
      expected: "a list of integers",
      found: "a value of each run",
    });
  });

  test("UHD0310: a choice between tensors that only a run can make", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { if N > 3 { x } else { x * 2 } }", {
      code: "UHD0310",
      at: "N > 3",
      help: /select/,
      notes: ["x"],
    });
    expect(check("config twice: bool = false\ngraph g(x: f32[N]) -> y: f32[N] { if twice { x * 2 } else { x } }").diagnostics).toEqual([]);
  });

  test("UHD0311: places in brackets", () => {
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { x[:, :, 0] }", { code: "UHD0311", at: "x[:, :, 0]", found: "f32[N, 3]" });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { x[0:1.5] }", { code: "UHD0201", at: "1.5" });
    refused("graph g(x: f32[N, 3]) -> y: f32[N, 3] { x[::N] }", { code: "UHD0311", at: "N" });
    refused("graph g(x: f32[N, 3]) -> y: f32[3] {\n  let a: float = N - 1\n  x[a]\n}", { code: "UHD0201", at: "a", found: "float" });
  });

  test("a mistake in a module is told once, with the modules and the call that led there", () => {
    const program = check(`module Inner(d: int, e: int) {
  param w: f32[e, d]
  forward(x: f32[N, d]) -> f32[N, d] { linear(x, w) }
}
module Outer(d: int, e: int) {
  use first = Inner(d, e)
  use second = Inner(d, d)
  forward(x: f32[N, d]) -> f32[N, d] { second(first(x)) }
}
graph g(x: f32[N, 3]) -> y: f32[N, 3] {
  use outer[4] = Outer(3, 5)
  var h = x
  repeat i in 0..4 { h = outer[i](h) }
  h
}`);
    expect(program.diagnostics).toHaveLength(1);
    matches(program, program.diagnostics[0], {
      code: "UHD0305",
      at: "linear(x, w)",
      expected: "f32[N, 3]",
      found: "f32[N, 5]",
      notes: ["f32[N, d]", "first(x)", "use first = Inner(d, e)", "use outer[4] = Outer(3, 5)"],
    });
    expect(program.diagnostics[0]?.notes.map((n) => n.message)).toContain("in Inner(d: 3, e: 5), made here");
  });

  test("shape code that fails where a value must be known is told once, at its place, as the failure that it is", () => {
    const module =
      'module L(d: int, s: float = 1.0) {\n  param w: f32[d] at ["w"][0] ~ normal(s)\n  forward(x: f32[N, d]) -> f32[N, d] { x + w }\n}\n';
    const graph = (body: string, more = ""): string => `${module}graph g(x: f32[N${more}, 3]) -> y: f32[N, 3] {\n${body}\n}`;
    const wrong = "[1][3]";
    const failing: readonly (readonly [string, string])[] = [
      [graph("  reshape(x, [1 // i for i in 0..2])"), "[1 // i for i in 0..2]"],
      [graph(`  softmax(x, axis: ${wrong})`), wrong],
      [graph("  transpose(x, [1 // i for i in 0..2])"), "[1 // i for i in 0..2]"],
      [graph(`  x[::${wrong}]`), wrong],
      [graph(`  use l[${wrong}] = L(3)\n  l[0](x)`), wrong],
      [graph(`  use l[2] = L(3)\n  l[${wrong}](x)`), wrong],
      [graph('  use l = L(3) at ["a"][3]\n  l(x)'), '["a"][3]'],
      [graph("  var h = x\n  repeat i in [1 // i for i in 0..2] { h = h + 1 }\n  h"), "[1 // i for i in 0..2]"],
      [graph("  if [true][3] { x } else { x + 1 }"), "[true][3]"],
      [graph("  x", ` in 1..=${wrong}`), wrong],
      [graph("  use l = L(3)\n  l(x)").replace("normal(s)", `normal(${wrong})`), wrong],
    ];
    for (const [text, at] of failing) refused(text, { code: "UHD0208", at });
    // What is only known at a run is no failure.
    refused(graph("  use l = L(3, 0.5 * N)\n  l(x)"), { code: "UHD0207", at: "s" });
  });

  test("what a module's use will know is not wanted of the module alone", () => {
    const rows =
      "module M(heads: int, head: int) {\n  forward(x: f32[N, heads, head], p: i32[N]) -> f32[N, heads, head] { rope(x, p, theta: 10000.0) }\n}";
    expect(check(rows).diagnostics).toEqual([]);
    refused(`${rows}\ngraph g(x: f32[N, 2, D], p: i32[N]) -> y: f32[N, 2, D] {\n  use m = M(2, D)\n  m(x, p)\n}`, {
      code: "UHD0302",
      at: "x",
      notes: ["use m = M(2, D)"],
    });
  });

  test("a module that no graph uses is checked with symbols for its arguments", () => {
    refused("module M(d: int, e: int) {\n  param w: f32[e, d]\n  forward(x: f32[N, d]) -> f32[N, d] { linear(x, w) }\n}", {
      code: "UHD0305",
      at: "linear(x, w)",
      expected: "f32[N, d]",
      found: "f32[N, e]",
    });
  });
});

describe("modules, imports and configuration", () => {
  test("UHD0401: the file itself cannot be read; UHD0402: an import cannot", () => {
    const none = loadProgram("none.uhd", {
      readText: () => {
        throw Object.assign(new Error("ENOENT"), { code: "ENOENT" });
      },
    });
    expect(none.diagnostics.map((d) => [d.code, d.found])).toEqual([["UHD0401", "there is no such file"]]);
    refused('import { a } from "./lost.uhd"\nconst b = a', { code: "UHD0402", at: '"./lost.uhd"', found: "there is no such file" });
  });

  test("UHD0403: imports in a circle are told with the circle", () => {
    const program = checkFiles({
      "a.uhd": 'import { b } from "./b.uhd"\nconst a = b',
      "b.uhd": 'import { c } from "./c.uhd"\nconst b = c',
      "c.uhd": 'import { a } from "./a.uhd"\nconst c = a',
    });
    expect(program.diagnostics).toHaveLength(1);
    matches(program, program.diagnostics[0], { code: "UHD0403", at: '"./a.uhd"', found: "a.uhd → b.uhd → c.uhd → a.uhd" });
    expect(checkFiles({ "a.uhd": 'import { a } from "./a.uhd"' }).diagnostics.map((d) => d.code)).toEqual(["UHD0403"]);
  });

  test("UHD0404: a module that uses itself", () => {
    refused("module M(a: int) {\n  use m = M(a)\n  forward(x: f32[N, a]) -> f32[N, a] { m(x) }\n}", {
      code: "UHD0404",
      at: "use m = M(a)",
      found: "M → M",
    });
  });

  test("UHD0405: what the other file does not declare", () => {
    const program = checkFiles({ "a.uhd": 'import { widht as w } from "./b.uhd"\nconst a = w', "b.uhd": "const width = 1" });
    expect(program.diagnostics).toHaveLength(1);
    matches(program, program.diagnostics[0], { code: "UHD0405", at: "widht", help: 'did you mean "width"?', notes: ["width"] });
  });

  test("UHD0406: arguments of modules, and ways to initialise", () => {
    const m = "module M(a: int, b: int) { forward(x: f32[N, a]) -> f32[N, a] { x } }\n";
    const graph = (use: string): string => `${m}graph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = ${use}\n  m(x)\n}`;
    refused(graph("M(3)"), { code: "UHD0406", at: "M", expected: "a: int, b: int", found: "1 argument", notes: ["M"] });
    refused(graph("M(3, 4, 5)"), { code: "UHD0406", at: "5", found: "3 arguments", notes: ["M"] });
    refused(graph("M(3, bb: 4)"), { code: "UHD0406", at: "bb", help: 'did you mean "b"?' });
    refused("module M(a: int) {\n  param w: f32[a] ~ norml(0.02)\n}", {
      code: "UHD0406",
      at: "norml(0.02)",
      help: 'did you mean "normal"?',
    });
  });

  test("UHD0407 and UHD0408: settings from outside", () => {
    const text = 'config width: int = 8\nconfig scale: float = 0.5\nconfig on: bool = true\nconfig policy: string = "v1"\n';
    refused(
      text,
      { code: "UHD0407", at: "", found: "widht", help: 'did you mean "width"?', expected: "width, scale, on, policy" },
      { widht: "3" },
    );
    refused(text, { code: "UHD0408", at: "width", expected: "int", found: '"wide"' }, { width: "wide" });
    refused(text, { code: "UHD0408", at: "width", expected: "int", found: '"1.5"' }, { width: "1.5" });
    refused(text, { code: "UHD0408", at: "on", expected: "bool" }, { on: "1" });
    const program = check(text, { width: "12", scale: "2", on: "false", policy: "seed" });
    expect(program.diagnostics).toEqual([]);
    expect(program.configs.map((c) => [c.name, c.value, c.default])).toEqual([
      ["width", 12, "8"],
      ["scale", 2, "0.5"],
      ["on", false, "true"],
      ["policy", "seed", '"v1"'],
    ]);
  });

  test("UHD0410: parameters whose sizes are open, or one name with two types", () => {
    refused(
      "module M(a: int) {\n  param w: f32[a, 2]\n  forward(x: f32[N, a]) -> f32[N, 2] { x @ w }\n}\ngraph g(x: f32[N, D]) -> y: f32[N, 2] {\n  use m = M(D)\n  m(x)\n}",
      { code: "UHD0410", at: "f32[a, 2]", expected: "numbers", found: "f32[D, 2]", notes: ["D"] },
    );
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  state s: f32[N]\n  x + s\n}", {
      code: "UHD0410",
      at: "f32[N]",
      notes: ["N"],
      help: /most/,
    });
    refused(
      'module M(a: int) {\n  param w: f32[a] at "w"\n  param v: f32[2 * a] at "w"\n  forward(x: f32[a]) -> f32[2 * a] { concat(x + w, x, axis: 0) + v }\n}\ngraph g(x: f32[2]) -> y: f32[4] {\n  use m = M(2)\n  m(x)\n}',
      { code: "UHD0410", at: 'param v: f32[2 * a] at "w"', expected: "f32[2]", found: "f32[4]", notes: ['param w: f32[a] at "w"'] },
    );
  });
});
