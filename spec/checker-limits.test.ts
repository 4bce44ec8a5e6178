// The checker on programs that are too deep, too large or do not end: one clear error, soon.

import { describe, expect, test } from "vitest";
import { loadProgram } from "../compiler/check/index.ts";
import type { Diagnostic } from "../compiler/diagnostics/index.ts";
import { check } from "./checker-support.ts";

describe("programs that are too deep or do not end", () => {
  const deep = 10_000;
  const many = (text: string, n = deep): string => text.repeat(n);
  const lines = (f: (i: number) => string, n = deep): string => Array.from({ length: n }, (_, i) => f(i)).join("\n");
  const last = deep - 1;

  /** One clear error, soon. */
  function ends(text: string, code: string, ms = 5000): Diagnostic | undefined {
    const started = performance.now();
    const program = check(text);
    expect(program.diagnostics.map((d) => d.code)).toEqual([code]);
    expect(performance.now() - started).toBeLessThan(ms);
    return program.diagnostics[0];
  }

  test.each([
    ["parentheses", `const a = ${many("(")}1${many(")")}`],
    ["parentheses without their ends", `const a = ${many("(")}`],
    ["blocks", `fn f() = ${many("if true { ")}1${many(" } else { 2 }")}`],
    ["lists", `const a = ${many("[")}1${many("]")}`],
    ["minus signs", `const a = ${many("-")}1`],
    ["not", `const a = ${many("not ")}true`],
    ["else if", `fn f(x: int) = ${many("if x == 1 { 1 } else ")}{ 2 }`],
    ["sums", `const a = 1${many(" + 1")}`],
    ["powers", `const a = 1${many(" ** 1")}`],
    ["calls", `fn f(x: int) = ${many("floor(")}1${many(")")}`],
    ["fields", `fn f(x: int) = x${many(".a")}`],
    ["list types", `fn f(x: ${many("[")}int${many("]")}) = x`],
    ["records", `const a = ${many("{ a: ")}1${many(" }")}`],
    ["record types", `type A = ${many("{ a: ")}int${many(" }")}`],
    ["patterns", `fn f() { let ${many("(a, ")}b${many(")")} = 1\n 2 }`],
    ["settings", `train { ${many("a { ")} ${many("}")} }`],
    ["braces", many("{")],
  ])("%s, nested 10,000 deep", (_, text) => {
    expect(ends(text, "UHD0003")?.expected).toMatch(/at most 200 levels/);
  });

  test.each([
    ["values of a block", `fn f() {\n${lines((i) => `let a${i} = ${i === 0 ? "1" : `a${i - 1} + 1`}`)}\na${last} }`],
    ["constants", lines((i) => `const a${i} = ${i === last ? "1" : `a${i + 1} + 1`}`)],
    ["functions", lines((i) => `fn f${i}(x: int) = ${i === last ? "x" : `f${i + 1}(x)`}`)],
    ["types", lines((i) => `type A${i} = ${i === last ? "int" : `[A${i + 1}]`}`)],
    [
      "modules",
      lines((i) => `module M${i}(d: int) { ${i === last ? "" : `use m = M${i + 1}(d)\n`}forward(x: f32[T, d]) -> f32[T, d] { x } }`),
    ],
  ])("%s that refer to each other, 10,000 long", (_, text) => {
    ends(text, "UHD0501", 15_000);
  });

  test("a chain of 10,000 imports", () => {
    const started = performance.now();
    const program = loadProgram("f0.uhd", {
      readText: (file) => {
        const i = Number(/^f(\d+)\.uhd$/.exec(file)?.[1]);
        return i === last ? "const x = 1" : `import { x } from "./f${i + 1}.uhd"`;
      },
    });
    expect(program.diagnostics.map((d) => [d.code, d.message])).toEqual([["UHD0501", "more than 1000 files"]]);
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  test("modules that double at every level", () => {
    const letters = [..."BCDEFGHIJKLMNOPQRSTUVWXY"];
    const text = ["A", ...letters]
      .map((c, i) => {
        const next = letters[i];
        return `module ${c}1(d: int) {\n${next === undefined ? "" : `use a = ${next}1(d)\nuse b = ${next}1(d)\n`}forward(x: f32[N, d]) -> f32[N, d] { x }\n}`;
      })
      .join("\n");
    expect(ends(`${text}\ngraph g(x: f32[N, 3]) -> y: f32[N, 3] {\n  use m = A1(3)\n  m(x)\n}`, "UHD0501", 20_000)?.message).toMatch(
      /modules/,
    );
  });

  test("a block repeated too often", () => {
    const found = ends("graph g(x: f32[N]) -> y: f32[N] {\n  var h = x\n  repeat i in 0..1000000 { h = h + 1 }\n  h\n}", "UHD0501");
    expect(found?.span.line).toBe(3);
  });

  test.each([
    ["a function that calls itself for ever", "fn f(n: int) -> int = f(n + 1)\nconst a = f(1)", /^main\.uhd:1:23: f calls itself/],
    [
      "two functions that call each other",
      "fn f(n: int) -> int = g(n)\nfn g(n: int) -> int = f(n)\nconst a = f(1)",
      /^main\.uhd:[12]:23: [fg] calls itself/,
    ],
    [
      "a function that takes for ever",
      "fn f(n: int) -> int = if n < 2 { n } else { f(n - 1) + f(n - 2) }\nconst a = f(80)",
      /^main\.uhd:1:\d+: .*steps/,
    ],
    ["a range without bounds", "const a = sum([1 for i in 0..1000000000])", /too long/],
    ["a list of lists of everything", "const a = len([1 for i in 0..100000 for j in 0..100000])", /more than 20000000 elements/],
  ])("%s stops, and the place is named", (_, text, found) => {
    const d = ends(text, "UHD0208", 50_000);
    expect(d?.found).toMatch(found);
    expect(d?.span.line).toBe(text.split("\n").length);
  });

  test("recursion that ends is evaluated", () => {
    const program = check("fn f(n: int) -> int = if n < 2 { 1 } else { n * f(n - 1) }\nconfig a: int = f(10)");
    expect(program.diagnostics).toEqual([]);
    expect(program.configs[0]?.value).toBe(3628800);
  });
});
