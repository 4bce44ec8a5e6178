// The formatter: what it writes means the same, keeps every comment, and is not changed by formatting again.

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatFile, formatWidth } from "../compiler/syntax/format.ts";
import { parseFile } from "../compiler/syntax/index.ts";
import { lexer } from "../compiler/syntax/tokens.ts";
import { property } from "./conformance/property.ts";

const folder = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../graphs");
const graphs = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((f) => f.endsWith(".uhd"));
const read = (file: string): string => readFileSync(path.join(folder, file), "utf8");

/** The tree without places. Throws when the text does not parse. */
function tree(text: string): unknown {
  const { ast, diagnostics } = parseFile("test.uhd", text);
  if (diagnostics.length > 0) throw new Error(`${diagnostics[0]?.message ?? ""} in\n${text}`);
  return JSON.parse(JSON.stringify(ast.items, (key, value: unknown) => (/^span$|Span$/.test(key) ? undefined : value))) as unknown;
}

const comments = (text: string): readonly string[] =>
  parseFile("test.uhd", text)
    .ast.comments.map((c) => c.text.trimEnd())
    .sort();

/** Everything that must hold of a text that parses. */
function expectFormatted(text: string): void {
  const formatted = formatFile(text, "test.uhd");
  expect(tree(formatted), formatted).toEqual(tree(text));
  expect(comments(formatted), formatted).toEqual(comments(text));
  expect(formatFile(formatted, "test.uhd")).toBe(formatted);
}

describe("the graphs", () => {
  test.each(graphs)("%s is formatted", (file) => {
    expect(formatFile(read(file), file)).toBe(read(file));
  });

  test.each(graphs)("%s laid out at random is formatted to the same tree with the same comments", (file) => {
    const tokens = lexer.tokenize(read(file));
    const all = [...tokens.tokens, ...(tokens.groups["comments"] ?? [])].sort((a, b) => a.startOffset - b.startOffset);
    // A line may end inside parentheses and square brackets; in braces of statements lines stay what they were.
    property(
      fc.array(fc.constantFrom(" ", "  ", "\n", "\n\n", " # note\n", "\t"), { minLength: 40, maxLength: 200 }),
      (gaps) => {
        const open: string[] = [];
        let text = "";
        let end = 0;
        all.forEach((t, i) => {
          const between = read(file).slice(end, t.startOffset);
          const inside = open.at(-1) === "(" || open.at(-1) === "[";
          const gap = gaps[i % gaps.length] ?? " ";
          const last = all[i - 1]?.tokenType.name;
          text += inside && last !== "Comment" && between !== "" ? gap : between;
          text += t.image;
          end = t.startOffset + t.image.length;
          if (t.tokenType.name !== "Comment") {
            if (/^[([{]$/.test(t.image)) open.push(t.image);
            if (/^[)\]}]$/.test(t.image)) open.pop();
          }
        });
        expectFormatted(text);
      },
      6,
    );
  });
});

// ---- Programs at random ----

const name = fc.constantFrom("a", "b", "width", "picture_taps", "x1", "at", "over", "from", "where", "as");

const { expression } = fc.letrec<{ expression: string; atom: string; block: string }>((tie) => ({
  atom: fc.oneof(
    { maxDepth: 1 },
    name,
    fc.constantFrom("1", "0.5", "1e-3", "10_000", '"text"', '"a\\"b\\n"', "true", "false"),
    tie("expression").map((e) => `(${e})`),
    fc.array(tie("expression"), { maxLength: 4 }).map((es) => `[${es.join(", ")}]`),
    fc.array(tie("expression"), { minLength: 2, maxLength: 3 }).map((es) => `(${es.join(", ")})`),
    fc
      .array(fc.tuple(name, tie("expression")), { minLength: 1, maxLength: 3 })
      .map((fs) => `{ ${fs.map(([n, e]) => `${n}: ${e}`).join(", ")} }`),
    fc.tuple(name, fc.array(tie("expression"), { maxLength: 3 })).map(([n, es]) => `${n}(${es.join(", ")})`),
    fc.tuple(name, tie("expression")).map(([n, e]) => `${n}(axis: ${e})`),
    fc.tuple(tie("expression"), name, tie("expression"), tie("expression")).map(([e, n, f, c]) => `[${e} for ${n} in ${f} if ${c}]`),
    fc.tuple(tie("expression"), name, name, tie("expression")).map(([e, n, m, f]) => `[${e} for (${n}, (${m}, _)) in ${f} for _ in 0..=3]`),
    fc.tuple(tie("atom"), tie("expression")).map(([of, e]) => `${of}[${e}]`),
    fc.tuple(tie("atom"), tie("expression"), tie("expression")).map(([of, a, b]) => `${of}[${a}:, :${b}, ::2, :]`),
    fc.tuple(tie("atom"), name).map(([of, n]) => `${of}.${n}.0.1`),
  ),
  block: fc.oneof(
    { maxDepth: 2 },
    tie("expression").map((e) => `{ ${e} }`),
    fc.tuple(name, tie("expression"), tie("expression")).map(([n, e, v]) => `{\n  let ${n} = ${e} # why\n\n  ${v}\n}`),
    fc.tuple(name, tie("expression"), tie("expression")).map(([n, e, v]) => `{ let (${n}, b): (int, [float]) = ${e}; ${v} }`),
  ),
  expression: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    tie("atom"),
    fc
      .tuple(
        tie("atom"),
        fc.constantFrom("+", "-", "*", "/", "//", "%", "@", "==", "<=", ">", "!=", "and", "or", "**", "..", "..="),
        tie("atom"),
      )
      .map(([a, o, b]) => `${a} ${o} ${b}`),
    fc.tuple(tie("atom"), tie("atom"), tie("atom")).map(([a, b, c]) => `${a} - ${b} - ${c} * ${a} + ${b}`),
    tie("atom").map((a) => `-${a}`),
    tie("atom").map((a) => `not ${a}`),
    tie("atom").map((a) => `-${a} ** -2 ** 3`),
    fc.tuple(tie("atom"), tie("block"), tie("block")).map(([c, a, b]) => `if ${c} ${a} else ${b}`),
    fc.tuple(tie("atom"), tie("block"), tie("block")).map(([c, a, b]) => `if ${c} ${a} else if ${c} ${b} else ${a}`),
    fc.tuple(name, tie("atom"), tie("atom"), tie("atom")).map(([n, f, w, c]) => `choose (${n}, y) in ${f} where ${w} minimizing ${c}`),
  ),
}));

const type = fc.constantFrom(
  "int",
  "f32[N, 3 * d, T~]",
  "[(int, float)]",
  "{ a: int, b: [bool] }",
  "u8[H in 1..=20000, W in 1..=20000, 3]",
  "f32[]",
);

const item = fc.oneof(
  fc.tuple(name, type, expression).map(([n, t, e]) => `config ${n}: ${t} = ${e}`),
  fc.tuple(name, expression).map(([n, e]) => `# above\nconst ${n} = ${e} # behind`),
  fc.tuple(name, type).map(([n, t]) => `type ${n} = ${t}`),
  fc.tuple(name, name).map(([n, m]) => `import { ${n}, ${m} as other } from "./x.uhd"`),
  fc.tuple(name, type, expression).map(([n, t, e]) => `fn ${n}(a: ${t}, b: int) -> ${t} = ${e}`),
  fc.tuple(name, type, expression, expression).map(([n, t, e, v]) => `fn ${n}(a: ${t}) {\n  # first\n  let q = ${e}\n  ${v}\n  # last\n}`),
  fc
    .tuple(name, type, expression, expression)
    .map(
      ([n, t, e, v]) =>
        `module ${n}(d: int, eps: float = 0.5) {\n  param w: ${t} at "a.b" ~ normal(${e})\n\n\n  use l[d] = Layer(d, k: 2) at ""\n  let z = ${e}\n  forward(x: ${t}, n: int) -> (f32[d], f32[1]) {\n    var h = x\n    repeat i in 0..d { h = l[i](h) }\n    ${v}\n  }\n  forward other(x: ${t}) -> f32[d] { ${v} }\n}`,
    ),
  fc
    .tuple(name, type, expression, expression)
    .map(
      ([n, t, e, v]) =>
        `graph ${n}(x: ${t}) -> (first: f32[T], second: f32[T]) {\n  dim T = ${e}\n  ragged R over T = [${e}]\n  table rows: i32[T] = ${e}\n  state cache: ${t}\n  cache = ${v}\n  ${v}\n}`,
    ),
  expression.map((e) => `train {\n  rate: ${e}\n  optimiser { name: "adamw", decay: 0.0 }\n}`),
);

describe("programs at random", () => {
  test("formatting keeps the tree and the comments, and is idempotent", () => {
    property(fc.array(item, { minLength: 1, maxLength: 4 }), (items) => {
      expectFormatted(items.join("\n\n"));
    });
  });

  test("no line is longer than the width where it can be broken", () => {
    property(fc.array(name, { minLength: 2, maxLength: 60 }), (names) => {
      const text = `const total = f(${names.join(", ")})\nconst sum = ${names.join(" + ")}\n`;
      for (const line of formatFile(text, "test.uhd").split("\n")) expect(line.length).toBeLessThanOrEqual(formatWidth);
    });
  });
});

describe("by example", () => {
  test("spaces, blank lines and quotes are made one way; numbers stay as written", () => {
    expect(formatFile("const   a=1_000\n\n\n\nconst b = [ 1,2 ,3e-2 ]\nfn f( x:int )->int=x*( 2+1 )   \n", "t.uhd")).toBe(
      "const a = 1_000\n\nconst b = [1, 2, 3e-2]\nfn f(x: int) -> int = x * (2 + 1)\n",
    );
  });

  test("comments keep their place: above, behind, in lists, before a closing bracket", () => {
    const text = `# top

# above
const a = [
  1, # one
  # before two
  2
  # last
]
fn f() { # opening
  1 # value
}
# end
`;
    const formatted = formatFile(text, "t.uhd");
    expect(comments(formatted)).toEqual(comments(text));
    expect(formatted).toContain("  1, # one\n  # before two\n  2");
    expect(formatted.startsWith("# top\n\n# above\nconst a")).toBe(true);
    expect(formatted.endsWith("# end\n")).toBe(true);
    expect(formatFile(formatted, "t.uhd")).toBe(formatted);
  });

  test("a signature that does not fit breaks at its parameters", () => {
    const text =
      "graph pictures(image: u8[H in 1..=20000, W in 1..=20000, channels], other: f32[a_long_name, another_long_name]) -> out: f32[T, 588] { image }";
    expect(formatFile(text, "t.uhd")).toBe(
      "graph pictures(\n  image: u8[H in 1..=20000, W in 1..=20000, channels],\n  other: f32[a_long_name, another_long_name]\n) -> out: f32[T, 588] { image }\n",
    );
  });

  test("a file with a syntax error is left as it was", () => {
    expect(formatFile("fn f( { 1", "t.uhd")).toBe("fn f( { 1");
  });

  test("an empty file stays empty; one with comments only keeps them", () => {
    expect(formatFile("  \n\n", "t.uhd")).toBe("");
    expect(formatFile("\n# only\n", "t.uhd")).toBe("# only\n");
  });

  test("Windows line endings and a byte order mark are read", () => {
    expect(formatFile("\uFEFFconst a = 1\r\n# note\r\nconst b = 2\r\n", "t.uhd")).toBe("const a = 1\n# note\nconst b = 2\n");
  });
});
