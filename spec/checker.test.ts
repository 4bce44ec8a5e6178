// The checker: real programs pass, wrong ones are refused once, at the right place, with what was expected and found,
// a note at the other end of the conflict, and a suggestion. Every code has a test here, in checker-tensors.test.ts or in
// checker-limits.test.ts.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import { runHostProgram, tableData } from "../compiler/ir/plan/host-eval.ts";
import { verifyGraph } from "../compiler/ir/graph/verify.ts";
import type { Span } from "../compiler/ir/loc.ts";
import { typeRule } from "../ops/index.ts";
import { check, checkFiles, refused } from "./checker-support.ts";

const folder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../graphs");

describe("the graphs", () => {
  const files = readdirSync(folder).filter((f) => f.endsWith(".uhd"));
  const expected: Readonly<Record<string, readonly string[]>> = {
    "clip-vit.uhd": ["clip_vit_layer", "clip_vit_layer_ragged", "clip_vit"],
    "llama.uhd": ["llama"],
    "llama-chat.uhd": ["llama_chat"],
    "llava-uhd-chat.uhd": ["llava_uhd_chat"],
    "llava-uhd.uhd": ["llava_uhd"],
    "llava-uhd-v1.uhd": ["llava_uhd_v1"],
    "preprocess.uhd": ["preprocess", "pictures"],
    "resampler.uhd": ["resampler"],
    "sampling.uhd": ["sampling"],
    "spatial-resampler.uhd": ["spatial_resampler", "roi_align"],
    "positions.uhd": ["interpolate"],
    "uhd-tiny.uhd": ["pictures", "learn", "uhd_tiny"],
  };

  test.each(files)("%s checks without a diagnostic and elaborates to sound graphs", (file) => {
    const program = loadProgram(path.join(folder, file), { readText: (f) => readFileSync(f, "utf8") });
    expect(program.diagnostics).toEqual([]);
    expect([...program.graphs.keys()]).toEqual(expected[file] ?? []);
    for (const graph of program.graphs.values()) expect(verifyGraph(graph, typeRule)).toEqual([]);
  });

  test("every value of a graph knows the lines it came from, outermost call last", () => {
    const file = path.join(folder, "clip-vit.uhd");
    const program = loadProgram(file, { readText: (f) => readFileSync(f, "utf8"), config: { layers: "1" } });
    const graph = program.graphs.get("clip_vit");
    expect(graph).toBeDefined();
    for (const n of graph?.nodes ?? []) expect(n.loc.length).toBeGreaterThan(0);
    const linear = graph?.nodes.find((n) => n.kind === "op" && n.op === "quick_gelu");
    const places = (linear?.loc ?? []).map((s) => (program.sources.get(s.file) ?? "").slice(s.start, s.end));
    expect(places[0]).toBe("quick_gelu(fc1(x))");
    expect(places[1]).toBe("mlp(layer_norm2(h))");
  });
});

describe("text that is no program", () => {
  test("UHD0001: characters that mean nothing", () => {
    refused("const a = 1 $\n", { code: "UHD0001", at: "$", help: "remove it" });
    refused("const b = 'x'\n", { code: "UHD0001", at: "'", help: 'strings are written with "' });
    refused("const c = `x`\n", { code: "UHD0001", at: "`", help: 'strings are written with "' });
    refused("const d = 1 < 2 && 2 < 3", { code: "UHD0001", at: "&&", help: "write and" });
    refused("const e = true || false", { code: "UHD0001", at: "||", help: "write or" });
    refused("const f = !true", { code: "UHD0001", at: "!", help: "write not" });
    refused("const g = 2 ^ 3", { code: "UHD0001", at: "^", help: "a power is written **" });
    refused("const h = true ? 1 : 2", { code: "UHD0001", at: "?", help: "a choice is written if condition { a } else { b }" });
  });

  test("UHD0002: a string without its end", () => {
    refused('const a = "abc\nconst b = 1\n', { code: "UHD0002", at: '"', expected: 'a closing "' });
  });

  test("UHD0004: a file of more than four million characters", () => {
    refused(" ".repeat(4_000_001), { code: "UHD0004", at: " ", expected: "at most 4000000" });
  });

  test("UHD0005: numbers that would not be exact", () => {
    refused("const a = 99999999999999999999", { code: "UHD0005", at: "99999999999999999999", expected: /^at most 9007199254740991$/ });
    refused("const a = 1e999", { code: "UHD0005", at: "1e999" });
  });

  test("UHD0010: what the grammar wanted, what it found, after what", () => {
    refused("fn f(x: int) -> = x", { code: "UHD0010", at: "=", found: '"="', notes: ["->"] });
    refused("const a = (1 + 2", { code: "UHD0010", at: "", expected: '")"', found: "the end of the file", notes: ["("] });
    refused("const a = f(1, ]", { code: "UHD0010", at: "]", expected: "an expression", notes: ["(", ","] });
    refused("fn f() = 1 +", { code: "UHD0010", at: "", expected: "an expression" });
  });

  test("UHD0010: what is habit in other languages is told as it is written here", () => {
    const body = (text: string): string => `graph g(x: f32[N, 4]) -> y: f32[N, 4] {\n  ${text}\n}\n`;
    const repeat = "statements are repeated by repeat i in 0..n { … }";
    const last = "the last expression of a block is its value: leave return out";
    refused(body("// twice\n  x + x"), { code: "UHD0010", at: "//", help: "comments begin with #" });
    refused(body("/* twice */\n  x + x"), { code: "UHD0010", at: "/", help: "comments begin with #" });
    refused(body("return x"), { code: "UHD0010", at: "x", help: last });
    refused(body("for i in 0..3 { x }"), { code: "UHD0010", at: "for", help: `${repeat}; [f(x) for x in list] makes a list` });
    refused(body("while x { x }"), { code: "UHD0010", at: "x", help: repeat });
    refused(body("softmax(x, axis=1)"), { code: "UHD0010", at: "=", help: "an argument's name has a colon: axis: …" });
    refused(body("softmax(x, dim: 1)"), { code: "UHD0010", at: "dim", help: /^dim is a word of the language and names no argument/ });
    // What follows is read as a table's declaration.
    expect(check(body("let table = x\n  x")).diagnostics[0]?.help).toBe("table is a word of the language: take another name");
    refused(body("var h = x\n  h += x\n  h"), { code: "UHD0010", at: "=", help: "there is no +=: write x = x + …, where var x" });
    refused("def f(x: int) -> int { x }", { code: "UHD0010", at: "def", help: /^shape code is fn name/ });
    refused("class A(x: int) { }", { code: "UHD0010", at: "class", help: "what has parameters is a module" });
    refused("struct A { x: int }", { code: "UHD0010", at: "struct", help: "what has fields is type Name = { a: int, … }" });
    refused("fn f(a: int) -> int { if a > 1: 2 else: 3 }", { code: "UHD0010", at: ":", help: "a block stands in { }" });
    refused("fn f(a: int) -> int { if a > 1 { 2 } elif a > 0 { 1 } else { 0 } }", { code: "UHD0010", at: "elif", help: "write else if" });
    refused("graph g(x: f32[N]) -> y: f32[N], z: f32[N] { (x, x) }", {
      code: "UHD0010",
      at: ",",
      help: "several results stand in parentheses: -> (a: …, b: …)",
    });
  });

  test("a comma elsewhere is not taken for several results", () => {
    const [first] = check("fn f() -> int = 1\nconst x = 1, 2\n").diagnostics;
    expect(first).toMatchObject({ code: "UHD0010", found: '","' });
    expect(first?.help).toBeUndefined();
  });

  test("methods, sizes as fields, and blocks that end with a name's declaration are told as they are written here", () => {
    const body = (text: string): string => `graph g(x: f32[N, 4]) -> y: f32[N, 4] {\n  ${text}\n}\n`;
    refused(body("x.relu()"), { code: "UHD0105", at: "relu", help: "operations are functions: relu(…)" });
    refused(body("x.shape"), { code: "UHD0105", at: "shape", help: "sizes have names: those of the signature, or of dim N = …" });
    const [first] = check(body("let y = relu(x)")).diagnostics;
    expect(first).toMatchObject({ code: "UHD0210", help: "the last line gives a value the name y: write y behind it" });
  });

  test("names of other languages' words are names all the same", () => {
    const text = "fn f(return: int, def: int, class: int) -> int = return + def + class\n";
    expect(check(text).diagnostics).toEqual([]);
    expect(check("fn f(class: int) -> int = (class 1)").diagnostics[0]).toMatchObject({ code: "UHD0010", found: '"1"' });
    expect(check("fn f(class: int) -> int = (class 1)").diagnostics[0]?.help).toBeUndefined();
  });

  test("an empty file, and one with comments only, are programs", () => {
    for (const text of ["", "\n\n", "# only\n", "\uFEFF"]) expect(check(text).diagnostics).toEqual([]);
  });
});

describe("names", () => {
  test("UHD0101: an unknown name, with the one that is meant and where that is declared", () => {
    refused("fn f(width: int) -> int = widht + 1", { code: "UHD0101", at: "widht", help: 'did you mean "width"?', notes: ["width"] });
    refused("const border = 1\nconst b = bordr", { code: "UHD0101", at: "bordr", help: 'did you mean "border"?', notes: ["border"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  var h = x\n  hh = x\n  h\n}", { code: "UHD0101", at: "hh", help: 'did you mean "h"?' });
    refused("fn f() = floor", { code: "UHD0101", at: "floor", help: /floor is a function/ });
  });

  test("a declaration whose name is misspelt is told once, where it is, with its uses", () => {
    const joined = (text: string): readonly string[] => {
      const { diagnostics, sources } = check(text);
      const at = (s: Span): string => (sources.get(s.file) ?? "").slice(s.start, s.end);
      return diagnostics.map(
        (d) => `${d.code} ${at(d.span)}: ${d.notes.flatMap((n) => (n.span === undefined ? [] : [at(n.span)])).join()}`,
      );
    };
    expect(joined("fn f(widht: int) -> int = width + width")).toEqual(["UHD0101 widht: width,width"]);
    refused("fn f(widht: int) -> int = width + width", { code: "UHD0101", at: "widht", help: 'did you mean "width"?' });
    expect(joined("type Szie = int\nfn f(x: Size, y: Size) -> int = x")).toEqual(["UHD0103 Szie: Size,Size"]);
    // What stands in comments and strings is no use.
    expect(joined('# widht\nconst t = "widht"\nfn f(widht: int) -> int = width + width')).toEqual(["UHD0101 widht: width,width"]);
    // Of one use nobody can say which is wrong, and a name that is used is right.
    expect(joined("fn f(widht: int) -> int = width + 1")).toEqual(["UHD0101 width: widht"]);
    expect(joined("fn f(widht: int) -> int = width + width + widht")).toEqual(["UHD0101 width: widht", "UHD0101 width: widht"]);
    // Another name is another mistake.
    expect(joined("fn f(widht: int) -> int = width + wiht")).toEqual(["UHD0101 width: widht", "UHD0101 wiht: widht"]);
  });

  test("UHD0102: a name twice, with the first place", () => {
    refused("const a = 1\nfn a() = 2", { code: "UHD0102", at: "a", notes: ["a"] });
    refused("fn f(a: int, a: int) = 1", { code: "UHD0102", at: "a" });
    refused("fn f() = { a: 1, a: 2 }", { code: "UHD0102", at: "a" });
    refused("module M(d: int) { forward(x: f32[N, d], x: f32[N, d]) -> f32[N, d] { x } }", { code: "UHD0102", at: "x", notes: ["x"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  dim T = N\n  dim T = N\n  x\n}", { code: "UHD0102", at: "T", notes: ["T"] });
    refused("graph g(x: f32[N]) -> y: f32[N] { softmax(x, axis: 0, axis: 0) }", { code: "UHD0102", at: "axis", notes: ["axis"] });
  });

  test("UHD0102: a state is declared once and gets one new value", () => {
    const graph = (body: string): string => `graph g(x: f32[3]) -> y: f32[3] {\n  state s: f32[3]\n${body}\n  s + x\n}`;
    expect(check(graph("  s = s + x")).diagnostics).toEqual([]);
    refused(graph("  s = x\n  s = x + 1"), { code: "UHD0102", at: "s = x + 1", notes: ["s = x"] });
    refused("graph g(x: f32[3]) -> y: f32[3] {\n  repeat i in 0..2 { state s: f32[3] }\n  x\n}", { code: "UHD0102", at: "s" });
  });

  test("UHD0103: no such type", () => {
    refused("fn f(x: itn) -> int = 1", { code: "UHD0103", at: "itn", help: 'did you mean "int"?' });
    refused("type Size = int\nfn f(x: Sise) -> int = 1", { code: "UHD0103", at: "Sise", help: 'did you mean "Size"?', notes: ["Size"] });
    refused("graph g(x: f23[N]) -> y: f32[N] { x }", { code: "UHD0103", at: "f23", help: 'did you mean "f32"?', expected: /f32, f16/ });
    refused("fn f(x: f32) = 1", { code: "UHD0103", at: "f32", help: /f32\[…\]/ });
    refused("type A = [B]\ntype B = A", { code: "UHD0103", at: "A", notes: ["A"] });
  });

  test("UHD0104: no such function, operation or module", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] { sofmax(x, axis: 0) }", { code: "UHD0104", at: "sofmax", help: 'did you mean "softmax"?' });
    refused("fn double(x: int) = 2 * x\nconst a = doubel(2)", {
      code: "UHD0104",
      at: "doubel",
      help: 'did you mean "double"?',
      notes: ["double"],
    });
    refused(
      "module Linear(a: int) { forward(x: f32[N, a]) -> f32[N, a] { x } }\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use l = Liner(3)\n  l(x)\n}",
      { code: "UHD0104", at: "Liner", help: 'did you mean "Linear"?', notes: ["Linear"] },
    );
  });

  test("UHD0105: no such field, place or member", () => {
    const record = "type S = { px: int, patches: int }\n";
    refused(`${record}fn f(s: S) -> int = s.pathces`, {
      code: "UHD0105",
      at: "pathces",
      help: 'did you mean "patches"?',
      notes: ["patches"],
    });
    refused(`${record}fn f() -> S = { px: 1, patchs: 2 }`, {
      code: "UHD0105",
      at: "patchs",
      help: 'did you mean "patches"?',
      notes: ["patches"],
    });
    refused("fn f(s: (int, int)) = s.2", { code: "UHD0105", at: "2", expected: ".0 to .1" });
    refused("fn f(s: int) = s.x", { code: "UHD0105", at: "x", expected: "a record", found: "int" });
    refused(
      "module M(d: int) {\n  param weight: f32[d]\n  forward(x: f32[N, d]) -> f32[N, d] { x + weight }\n}\ngraph g(x: f32[3]) -> y: f32[3] {\n  use m = M(3)\n  x + m.wieght\n}",
      { code: "UHD0105", at: "wieght", help: 'did you mean "weight"?', notes: ["weight", "M"] },
    );
  });

  test("UHD0106: no such argument", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] { softmax(x, axes: 0) }", { code: "UHD0106", at: "axes", help: 'did you mean "axis"?' });
    refused("fn f(x: int) = x\nconst a = f(x: 1)", { code: "UHD0106", at: "x", expected: "no name" });
  });

  test("UHD0107: a name of another kind", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] { g(x) }", { code: "UHD0107", at: "g", notes: ["g"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let n = [x for i in 0..2]\n  x\n}", { code: "UHD0107", at: "x", notes: ["x"] });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  let h = x\n  h = x\n  h\n}", {
      code: "UHD0107",
      at: "h",
      help: "declare it with var",
      notes: ["h"],
    });
    refused("fn f(x: int) = softmax(x)", { code: "UHD0107", at: "softmax" });
  });

  test("UHD0111: values that nobody reads", () => {
    refused("fn f(x: int) -> int {\n  x\n  -1\n}", { code: "UHD0111", at: "x", help: /end of the first/ });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  x + 1\n  x\n}", { code: "UHD0111", at: "x + 1" });
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  repeat i in 0..2 { x + 1 }\n  x\n}", { code: "UHD0111", at: "x + 1" });
    expect(check("fn f(x: int) -> int {\n  let _ = x\n  1\n}").diagnostics).toEqual([]);
  });
});

describe("shape code", () => {
  test("UHD0201: another type, with the declaration", () => {
    refused("fn f(x: int) -> int = x / 2", { code: "UHD0201", at: "x / 2", expected: "int", found: "float", notes: ["int"] });
    refused('fn f(x: int) = x\nconst a = f("a")', { code: "UHD0201", at: '"a"', expected: "int", found: "string", notes: ["x: int"] });
    refused("const a = floor(true)", { code: "UHD0201", at: "true", expected: "int or float", found: "bool" });
    refused('const a = [1, "a"]', { code: "UHD0201", at: '"a"', expected: "int", found: "string", notes: ["1"] });
    refused("fn f(x: int) = if x { 1 } else { 2 }", { code: "UHD0201", at: "x", expected: "bool", found: "int" });
    refused('fn f(x: int) = if x > 1 { 1 } else { "a" }', { code: "UHD0201", at: '"a"', expected: "int", found: "string", notes: ["1"] });
    refused('config a: int = "x"', { code: "UHD0201", at: '"x"', notes: ["int"] });
    refused("fn f(x: float) = 0..x", { code: "UHD0201", at: "x", expected: "int", found: "float" });
  });

  test("UHD0201: of a record written out only the part that is wrong", () => {
    const types = "type Size = { px: (int, int), n: int }\n";
    refused(`${types}fn f(x: float) -> Size = { px: (1, x), n: 1 }`, { code: "UHD0201", at: "x", expected: "int", found: "float" });
    refused(`${types}fn f() -> [Size] = [{ n: i } for i in 0..2]`, {
      code: "UHD0201",
      at: "{ n: i }",
      expected: "px: (int, int)",
      notes: ["px"],
    });
    refused(`${types}fn f(b: bool) -> Size = if b { { px: (1, 2), n: true } } else { { px: (1, 2), n: true } }`, {
      code: "UHD0201",
      at: "true",
      expected: "int",
      found: "bool",
      notes: ["n"],
    });
  });

  test("UHD0202: operators of other types", () => {
    refused('fn f() = 1 + "a"', { code: "UHD0202", at: '1 + "a"', found: "int + string" });
    refused("fn f(x: float) = x // 2", { code: "UHD0202", at: "x // 2", expected: "two integers", help: /floor/ });
    refused("fn f() = not 1", { code: "UHD0202", at: "not 1", expected: "bool" });
  });

  test("UHD0203: the number of arguments", () => {
    refused("fn f(a: int, b: int) = a + b\nconst c = f(1)", {
      code: "UHD0203",
      at: "f(1)",
      expected: "a: int, b: int",
      found: "1 argument",
      notes: ["f"],
    });
    refused("const a = clamp(1, 2)", { code: "UHD0203", at: "clamp(1, 2)", found: "2 arguments" });
  });

  test("UHD0204: elements of what has none", () => {
    refused("fn f(a: int) = a[0]", { code: "UHD0204", at: "a[0]", expected: "a list", found: "int" });
    refused("fn f(a: int) = [x for x in a]", { code: "UHD0204", at: "a", expected: "a list", found: "int" });
    refused("fn f(a: (int, int)) = a[0]", { code: "UHD0204", at: "a[0]", help: /\.0, \.1/ });
  });

  test("UHD0205: a pattern of another form", () => {
    refused("fn f() {\n  let (a, b) = (1, 2, 3)\n  a\n}", {
      code: "UHD0205",
      at: "(a, b)",
      expected: "(int, int, int)",
      found: "a tuple of 2",
    });
  });

  test("UHD0206: recursion needs a written result", () => {
    refused("fn f(n: int) = f(n - 1)", { code: "UHD0206", at: "f", help: /-> TYPE/ });
  });

  test("UHD0207: what must be known at compile time", () => {
    refused("graph g(x: f32[N]) -> y: f32[N] {\n  var h = x\n  repeat i in 0..N { h = h + 1 }\n  h\n}", { code: "UHD0207", at: "0..N" });
    refused("const a = b\nconst b = a", { code: "UHD0207", at: "a", notes: ["a"] });
    const layers = "module L(d: int) { forward(x: f32[N, d]) -> f32[N, d] { x } }\n";
    refused(`${layers}graph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use l[N] = L(3)\n  l[0](x)\n}`, { code: "UHD0207", at: "N" });
  });

  test("UHD0208: shape code that fails when it is evaluated", () => {
    refused("const a = [1][3]", { code: "UHD0208", at: "[1][3]", found: /index 3 is outside a list of 1/ });
    refused("const b = 1 // 0", { code: "UHD0208", at: "1 // 0" });
    refused("const c = choose x in [1] where x > 1 minimizing x", {
      code: "UHD0208",
      at: "choose x in [1] where x > 1 minimizing x",
      found: /no candidate/,
    });
  });

  test("UHD0209: statements that shape code does not have", () => {
    refused("fn f() {\n  var a = 1\n  a\n}", { code: "UHD0209", at: "var a = 1", help: /comprehension/ });
    refused("fn f(a: int = 1) = a", { code: "UHD0209", at: "1" });
  });

  test("UHD0210: a block without a value", () => {
    refused("fn f() {\n  let a = 1\n}", { code: "UHD0210", at: "{\n  let a = 1\n}", expected: /expression/ });
  });
});

describe("recovery", () => {
  test("several mistakes are found in one run, in the order of the text, each once", () => {
    const program = check(`const a = bb
fn f(x: int) -> int = x / 2
fn g() = f(1, 2)
graph h(x: f32[N, 3], w: f32[5, 4]) -> y: f32[N, 3] {
  let u = linear(x, w)
  let v = u + 1
  sofmax(v, axis: 1)
}
graph i(x: f32[N]) -> y: f32[N, 2] { x }
`);
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0101", "UHD0201", "UHD0203", "UHD0302", "UHD0104", "UHD0305"]);
    expect(program.graphs.size).toBe(0);
  });

  test("several syntax errors are found in one run, and nothing that follows from them is told", () => {
    const program = check("const a = \nfn f(x: int -> int = x\nconst b = (1\nconst c = lost\ngraph g() {}\n");
    expect(program.diagnostics.length).toBeGreaterThanOrEqual(3);
    expect(new Set(program.diagnostics.map((d) => d.code))).toEqual(new Set(["UHD0010"]));
    expect(new Set(program.diagnostics.map((d) => d.span.line)).size).toBe(program.diagnostics.length);
  });

  test("a graph with an error does not keep the others from being elaborated", () => {
    const program = check("graph bad(x: f32[N]) -> y: f32[N] { lost }\ngraph good(x: f32[N]) -> y: f32[N] { x + 1 }");
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0101"]);
    expect([...program.graphs.keys()]).toEqual(["good"]);
  });

  test("a module with a wrong body still tells callers about their own mistakes", () => {
    const program = check(`module M(d: int) { forward(x: f32[N, d]) -> f32[N, d] { lost } }
graph g(x: f32[N, 3]) -> y: f32[N, 4] {
  use m = M(3)
  m(x)
}`);
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0101", "UHD0305"]);
  });

  test("a name whose import failed is not told again at its uses", () => {
    const program = checkFiles({ "a.uhd": 'import { x, y } from "./b.uhd"\nconst a = x + y\nconst c = x', "b.uhd": "const y = 1" });
    expect(program.diagnostics.map((d) => d.code)).toEqual(["UHD0405"]);
  });
});

describe("what the language means", () => {
  test("choose takes the first of equal minima, in float64", () => {
    const program = check(
      "const a = choose x in [3, 1, 2] minimizing 0\nconfig b: int = a\nconfig c: int = choose x in [1, 2, 3] where x > 1 minimizing x % 2",
    );
    expect(program.configs.map((c) => c.value)).toEqual([3, 2]);
  });

  test("sizes are polynomials: equality does not depend on how they are written", () => {
    expect(check("graph g(x: f32[h, w, 6]) -> y: f32[2 * w * h, 3] {\n  reshape(x, [h * w * 2, 3])\n}").diagnostics).toEqual([]);
    refused("graph g(x: f32[h, w]) -> y: f32[h + w] { reshape(x, [h + w]) }", { code: "UHD0302", at: "[h + w]" });
  });

  test("a ragged size of a graph's signature is one segment, whatever the size is", () => {
    const graph = check(
      "graph g(x: f32[H, W], z: f32[2 * H * W~, 2, 4]) -> y: f32[2 * H * W, 2, 4] { attention(z, z, z, scale: 1.0) }",
    ).graphs.get("g");
    if (graph === undefined) throw new Error("there is no graph");
    const run = runHostProgram(graph.host, { H: 1, W: 2 });
    const tables = graph.nodes.flatMap((n) =>
      n.kind === "table"
        ? [tableData({ name: n.name, dtype: n.type.dtype, shape: n.type.shape.map((d) => d.text), value: n.value }, run)]
        : [],
    );
    expect(tables.map((t) => [...t])).toEqual(
      expect.arrayContaining([
        [0, 0, 0, 0],
        [0, 4],
      ]),
    );
  });

  test("parameters that no graph uses do not enter it", () => {
    const program = check(
      "module M(d: int, wide: bool) {\n  param a: f32[d]\n  param b: f32[d]\n  forward(x: f32[N, d]) -> f32[N, d] { x + (if wide { a } else { b }) }\n}\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = M(3, true)\n  m(x)\n}",
    );
    expect(program.diagnostics).toEqual([]);
    expect(program.graphs.get("g")?.nodes.flatMap((n) => (n.kind === "param" ? [n.name] : []))).toEqual(["m.a"]);
  });

  test("checkpoint names join the places of modules; an empty place adds nothing", () => {
    const program = check(
      'module L(d: int) {\n  param w: f32[d] at "weight"\n  forward(x: f32[N, d]) -> f32[N, d] { x + w }\n}\nmodule M(d: int) {\n  use l[2] = L(d) at "layers"\n  use plain = L(d) at ""\n  forward(x: f32[N, d]) -> f32[N, d] { plain(l[1](l[0](x))) }\n}\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = M(3) at "model.vision"\n  m(x)\n}',
    );
    expect(program.diagnostics).toEqual([]);
    expect(program.graphs.get("g")?.nodes.flatMap((n) => (n.kind === "param" ? [n.name] : []))).toEqual([
      "model.vision.layers.0.weight",
      "model.vision.layers.1.weight",
      "model.vision.weight",
    ]);
  });
});
