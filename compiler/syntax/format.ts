// The formatter: one layout for every program, at most 120 columns where that is possible. Keeps comments, the
// parentheses that were written, single blank lines, and blocks that were written over several lines. Formatting
// what it wrote changes nothing. Rows and comments are in rows.ts, layout in doc.ts.

import type { Span } from "../ir/loc.ts";
import type {
  Argument,
  Block,
  Clause,
  DimExpr,
  Expr,
  Item,
  ModuleMember,
  Parameter,
  Pattern,
  Result,
  Setting,
  Statement,
  Subscript,
  TypeExpr,
} from "./ast.ts";
import { group, indent, join, layout, line, softline, type Doc } from "./doc.ts";
import { parseFile } from "./index.ts";
import { Source, type Piece } from "./rows.ts";

/** Columns that lines are broken to fit. */
export const formatWidth = 120;

/** The text laid out afresh. A file with syntax errors comes back as it was. */
export function formatFile(text: string, file: string): string {
  const { ast, diagnostics } = parseFile(file, text);
  if (diagnostics.some((d) => d.severity === "error")) return text;
  const source = new Source(text, ast.comments);
  const rows = source.rows(
    ast.items.map((i) => ({ span: i.span, doc: () => item(source, i) })),
    0,
    text.length,
  );
  const out = layout(rows, formatWidth);
  return out === "" ? "" : `${out}\n`;
}

// ---- Items ----

function item(s: Source, i: Item): Doc {
  switch (i.kind) {
    case "import": {
      const names = i.names.map((n): Piece => ({
        span: { ...n.name.span, end: n.as.span.end },
        doc: () => (n.as.span.start === n.name.span.start ? n.name.name : `${n.name.name} as ${n.as.name}`),
      }));
      return ["import ", s.list("{", i.span.start, names, { spaced: true }), " from ", quoted(i.path)];
    }
    case "config":
    case "const":
      return [`${i.kind} ${i.name.name}`, i.type === undefined ? "" : [": ", type(s, i.type)], " = ", expr(s, i.value)];
    case "type":
      return [`type ${i.name.name} = `, type(s, i.type)];
    case "fn": {
      const head = [
        `fn ${i.name.name}`,
        parameters(s, i.params, i.name.span.end, false),
        i.result === undefined ? "" : [" -> ", type(s, i.result)],
      ];
      const short = i.body.value !== undefined && i.body.span.start === i.body.value.span.start;
      if (short && i.body.value !== undefined) {
        const body = expr(s, i.body.value);
        // What starts with a bracket breaks inside it, anything else goes to a line of its own.
        const inside = ["tuple", "list", "comprehension", "record"].includes(i.body.value.kind);
        return [group(head), " =", inside ? [" ", body] : group(indent([line, body]))];
      }
      return [group(head), " ", block(s, i.body)];
    }
    case "module": {
      const open = s.next("{", s.matching("(", i.name.span.end));
      const members = i.members.map((m): Piece => ({ span: m.span, doc: () => member(s, m) }));
      return [`module ${i.name.name}`, parameters(s, i.params, i.name.span.end), " ", s.braces(open, members)];
    }
    case "graph":
      return [group([`graph ${i.name.name}`, signature(s, i.params, i.results, i.name.span.end)]), " ", block(s, i.body)];
    case "train":
      return ["train ", settings(s, i.settings, i.span.start)];
    default:
      return i satisfies never;
  }
}

function member(s: Source, m: ModuleMember): Doc {
  switch (m.kind) {
    case "param":
      return [
        `param ${m.name.name}: `,
        type(s, m.type),
        m.path === undefined ? "" : [" at ", expr(s, m.path)],
        m.init === undefined ? "" : [" ~ ", expr(s, m.init)],
      ];
    case "forward": {
      const unnamed = s.text.slice(m.name.span.start, m.name.span.end) === "forward";
      return [
        group([unnamed ? "forward" : `forward ${m.name.name}`, signature(s, m.params, m.results, m.name.span.end)]),
        " ",
        block(s, m.body),
      ];
    }
    case "use":
    case "let":
      return statement(s, m);
    default:
      return m satisfies never;
  }
}

function settings(s: Source, list: readonly Setting[], from: number): Doc {
  const pieces = list.map((x): Piece => ({
    span: x.span,
    doc: () =>
      x.value.kind === "settings"
        ? [`${x.name.name} `, settings(s, x.value.settings, x.name.span.end)]
        : [`${x.name.name}: `, expr(s, x.value)],
  }));
  return s.braces(s.next("{", from), pieces);
}

/** `grouped` is false where the list breaks with what is around it. */
function parameters(s: Source, params: readonly Parameter[], from: number, grouped = true): Doc {
  const pieces = params.map((p): Piece => ({
    span: p.span,
    doc: () => [
      `${p.name.name}: `,
      type(s, p.type),
      p.bounds === undefined ? "" : [" in ", expr(s, p.bounds)],
      p.value === undefined ? "" : [" = ", expr(s, p.value)],
    ],
  }));
  return s.list("(", from, pieces, { grouped });
}

function signature(s: Source, params: readonly Parameter[], results: readonly Result[], from: number): Doc {
  const arrow = s.next("->", s.matching("(", from));
  const one = results[0];
  const result = (r: Result): Doc => [r.name === undefined ? "" : `${r.name.name}: `, type(s, r.type)];
  const bare = results.length === 1 && one !== undefined && (one.name !== undefined || one.type.kind !== "tuple");
  const pieces = results.map((r): Piece => ({ span: r.span, doc: () => result(r) }));
  return [parameters(s, params, from, false), " -> ", bare && one !== undefined ? result(one) : s.list("(", arrow, pieces)];
}

// ---- Blocks and statements ----

/** `grouped` is false where the block breaks with what is around it. */
function block(s: Source, b: Block, grouped = true): Doc {
  const pieces: Piece[] = b.statements.map((x) => ({ span: x.span, doc: () => statement(s, x) }));
  const { value } = b;
  if (value !== undefined) pieces.push({ span: value.span, doc: () => expr(s, value) });
  const first = pieces[0];
  const tall = pieces.length !== 1 || (first !== undefined && s.text.slice(b.span.start, first.span.start).includes("\n"));
  return tall ? s.braces(b.span.start, pieces) : s.list("{", b.span.start, pieces, { spaced: true, grouped });
}

function statement(s: Source, x: Statement): Doc {
  switch (x.kind) {
    case "let":
      // An expression that stands alone.
      if (x.pattern.span.start === x.value.span.start) return expr(s, x.value);
      return [
        x.mutable ? "var " : "let ",
        pattern(x.pattern),
        x.type === undefined ? "" : [": ", type(s, x.type)],
        " = ",
        expr(s, x.value),
      ];
    case "assign":
      return [`${x.name.name} = `, expr(s, x.value)];
    case "repeat":
      return [`repeat ${x.variable.name} in `, expr(s, x.from), " ", block(s, x.body)];
    case "dim":
      return [`dim ${x.name.name} = `, expr(s, x.value)];
    case "ragged":
      return [`ragged ${x.name.name} over ${x.over.name} = `, expr(s, x.value)];
    case "table":
      return [`table ${x.name.name}: `, type(s, x.type), " = ", expr(s, x.value)];
    case "use":
      return [
        `use ${x.name.name}`,
        x.count === undefined ? "" : ["[", expr(s, x.count), "]"],
        ` = ${x.module.name}`,
        args(s, x.args, x.module.span.end),
        x.path === undefined ? "" : [" at ", expr(s, x.path)],
      ];
    case "state":
      return [`state ${x.name.name}: `, type(s, x.type)];
    default:
      return x satisfies never;
  }
}

function pattern(p: Pattern): string {
  return p.kind === "name" ? p.name : `(${p.items.map(pattern).join(", ")})`;
}

// ---- Types ----

function type(s: Source, t: TypeExpr): Doc {
  switch (t.kind) {
    case "name":
      return t.name;
    case "tensor":
      return [
        t.dtype.name,
        s.list(
          "[",
          t.dtype.span.end,
          t.dims.map((d): Piece => ({ span: d.span, doc: () => dimension(s, d) })),
        ),
      ];
    case "list":
      return ["[", type(s, t.element), "]"];
    case "tuple":
      return s.list(
        "(",
        t.span.start,
        t.items.map((i): Piece => ({ span: i.span, doc: () => type(s, i) })),
      );
    case "record": {
      const fields = t.fields.map((f): Piece => ({
        span: around(f.name.span, f.type.span),
        doc: () => [`${f.name.name}: `, type(s, f.type)],
      }));
      return s.list("{", t.span.start, fields, { spaced: true });
    }
    case "error":
      throw new Error("a tree with holes is not formatted");
    default:
      return t satisfies never;
  }
}

function dimension(s: Source, d: DimExpr): Doc {
  return [expr(s, d.value), d.ragged ? "~" : "", d.bounds === undefined ? "" : [" in ", expr(s, d.bounds)]];
}

// ---- Expressions ----

/** The leftmost part of an expression, which starts where it starts unless parentheses are around the whole. */
function leftmost(e: Expr): Span | undefined {
  switch (e.kind) {
    case "binary":
      return e.left.span;
    case "range":
      return e.from.span;
    case "call":
      return e.callee.span;
    case "subscript":
    case "field":
      return e.of.span;
    default:
      return undefined;
  }
}

function expr(s: Source, e: Expr): Doc {
  const written = e.kind !== "tuple" && s.text[e.span.start] === "(" && leftmost(e)?.start !== e.span.start;
  if (!written) return bare(s, e);
  return group(["(", indent([softline, bare(s, e)]), softline, ")"]);
}

function bare(s: Source, e: Expr): Doc {
  switch (e.kind) {
    case "int":
    case "float":
      return s.number(e.span);
    case "string":
      return quoted(e.value);
    case "bool":
      return String(e.value);
    case "name":
      return e.name;
    case "unary":
      return [e.operator === "not" ? "not " : "-", expr(s, e.operand)];
    case "binary":
      if (e.operator === "**") return [expr(s, e.left), " ** ", expr(s, e.right)];
      return chain(s, e);
    case "range":
      return [expr(s, e.from), e.inclusive ? "..=" : "..", expr(s, e.to)];
    case "tuple":
      return s.list(
        "(",
        s.before(e.items[0]?.span.start ?? e.span.start),
        e.items.map((i) => piece(s, i)),
      );
    case "list":
      return s.list(
        "[",
        e.span.start,
        e.items.map((i) => piece(s, i)),
      );
    case "comprehension":
      return s.list("[", e.span.start, [piece(s, e.body), ...clauses(s, e.clauses)], { separator: "" });
    case "record": {
      const fields = e.fields.map((f): Piece => ({
        span: around(f.name.span, f.value.span),
        doc: () => [`${f.name.name}: `, expr(s, f.value)],
      }));
      return s.list("{", e.span.start, fields, { spaced: true });
    }
    case "call":
      return [expr(s, e.callee), args(s, e.args, e.callee.span.end)];
    case "subscript":
      return [
        expr(s, e.of),
        s.list(
          "[",
          e.of.span.end,
          e.at.map((a): Piece => ({ span: a.span, doc: () => subscript(s, a) })),
        ),
      ];
    case "field":
      return [expr(s, e.of), `.${e.name.name}`];
    case "if":
      return group(conditional(s, e));
    case "choose":
      return group([
        `choose ${pattern(e.pattern)} in `,
        expr(s, e.from),
        indent([e.where === undefined ? "" : [line, "where ", expr(s, e.where)], line, "minimizing ", expr(s, e.cost)]),
      ]);
    case "block":
      return block(s, e.block);
    case "error":
      throw new Error("a tree with holes is not formatted");
    default:
      return e satisfies never;
  }
}

/** Operators of one strength in a row break together, each after its operator: a line may not start with `-`. */
function chain(s: Source, e: Extract<Expr, { kind: "binary" }>): Doc {
  const strength = strengths[e.operator];
  const rest: Doc[] = [];
  let first: Expr = e;
  while (
    first.kind === "binary" &&
    strengths[first.operator] === strength &&
    (first === e || !s.parenthesised(first.span, first.left.span))
  ) {
    rest.unshift([` ${first.operator}`, line, expr(s, first.right)]);
    first = first.left;
  }
  return group([expr(s, first), indent(rest)]);
}

const strengths: Readonly<Record<Extract<Expr, { kind: "binary" }>["operator"], number>> = {
  or: 0,
  and: 1,
  "==": 2,
  "!=": 2,
  "<": 2,
  "<=": 2,
  ">": 2,
  ">=": 2,
  "+": 3,
  "-": 3,
  "*": 4,
  "/": 4,
  "//": 4,
  "%": 4,
  "@": 4,
  "**": 5,
};

/** The branches of an `if`, `else if` included, are all on one line or none is. */
function conditional(s: Source, e: Extract<Expr, { kind: "if" }>): Doc {
  const again = e.otherwise.value;
  const chained = again?.kind === "if" && again.span.start === e.otherwise.span.start;
  const otherwise = chained ? conditional(s, again) : block(s, e.otherwise, false);
  return ["if ", expr(s, e.condition), " ", block(s, e.then, false), " else ", otherwise];
}

/** All clauses on one line where they fit. */
function clauses(s: Source, list: readonly Clause[]): readonly Piece[] {
  const [first, last] = [list[0], list.at(-1)];
  if (first === undefined || last === undefined) return [];
  return [
    {
      span: around(first.span, last.span),
      doc: () =>
        group(
          join(
            line,
            list.map((c) => clause(s, c)),
          ),
        ),
    },
  ];
}

function clause(s: Source, c: Clause): Doc {
  return c.kind === "for" ? [`for ${pattern(c.pattern)} in `, expr(s, c.from)] : ["if ", expr(s, c.condition)];
}

function subscript(s: Source, a: Subscript): Doc {
  if (a.kind === "index") return expr(s, a.value);
  const part = (e: Expr | undefined): Doc => (e === undefined ? "" : expr(s, e));
  return [part(a.from), ":", part(a.to), a.step === undefined ? "" : [":", expr(s, a.step)]];
}

function args(s: Source, list: readonly Argument[], from: number): Doc {
  return s.list(
    "(",
    from,
    list.map((a): Piece => ({ span: a.span, doc: () => [a.name === undefined ? "" : `${a.name.name}: `, expr(s, a.value)] })),
  );
}

function piece(s: Source, e: Expr): Piece {
  return { span: e.span, doc: () => expr(s, e) };
}

function around(a: Span, b: Span): Span {
  return { ...a, end: b.end, endLine: b.endLine, endColumn: b.endColumn };
}

function quoted(text: string): string {
  const escaped = text.replace(/["\\]/g, "\\$&").replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t");
  return `"${escaped}"`;
}
