// The words of the language. `#` starts a comment; newlines separate statements but are not tokens (the
// parser asks which tokens start a line).

import { createToken, Lexer, type IToken, type TokenType } from "chevrotain";
import type { Span } from "../ir/loc.ts";

export const Comment = createToken({ name: "Comment", pattern: /#[^\n\r]*/, group: "comments" });
const WhiteSpace = createToken({ name: "WhiteSpace", pattern: /[ \t\r\n\uFEFF]+/, group: Lexer.SKIPPED, line_breaks: true });

export const Identifier = createToken({ name: "Identifier", pattern: /[A-Za-z_][A-Za-z0-9_]*/, label: "a name" });

function keyword(word: string): TokenType {
  return createToken({ name: `Keyword_${word}`, pattern: new RegExp(word), longer_alt: Identifier, label: `"${word}"` });
}

/** Words with a meaning in one place only; elsewhere they are names. */
function contextual(word: string): TokenType {
  return createToken({
    name: `Word_${word}`,
    pattern: new RegExp(word),
    longer_alt: Identifier,
    categories: [Identifier],
    label: `"${word}"`,
  });
}

export const Import = keyword("import");
export const From = contextual("from");
export const As = contextual("as");
export const Config = keyword("config");
export const Const = keyword("const");
export const Type = keyword("type");
export const Fn = keyword("fn");
export const Module = keyword("module");
export const Graph = keyword("graph");
export const Train = keyword("train");
export const Param = keyword("param");
export const Use = keyword("use");
export const State = keyword("state");
export const Forward = keyword("forward");
export const Let = keyword("let");
export const Var = keyword("var");
export const Dim = keyword("dim");
export const Ragged = keyword("ragged");
export const Over = contextual("over");
export const Table = keyword("table");
export const Repeat = keyword("repeat");
export const At = contextual("at");
export const If = keyword("if");
export const Else = keyword("else");
export const For = keyword("for");
export const In = keyword("in");
export const Choose = keyword("choose");
export const Where = contextual("where");
export const Minimizing = keyword("minimizing");
export const And = keyword("and");
export const Or = keyword("or");
export const Not = keyword("not");
export const True = keyword("true");
export const False = keyword("false");

function symbol(name: string, text: string): TokenType {
  return createToken({ name, pattern: text, label: `"${text}"` });
}

// A number does not swallow the first dot of a range: `0..23` is 0 .. 23.
export const Float = createToken({
  name: "Float",
  pattern: /(?:\d[\d_]*\.\d[\d_]*(?:[eE][+-]?\d+)?|\d[\d_]*[eE][+-]?\d+)(?![A-Za-z_])/,
  label: "a number",
});
export const Int = createToken({ name: "Int", pattern: /\d[\d_]*(?![A-Za-z_])/, label: "a number" });
export const Text = createToken({ name: "Text", pattern: /"(?:[^"\\\n\r]|\\["\\nrt])*"/, label: "a string" });

export const Arrow = symbol("Arrow", "->");
export const RangeInclusive = symbol("RangeInclusive", "..=");
export const Range = symbol("Range", "..");
export const Power = symbol("Power", "**");
export const FloorDivide = symbol("FloorDivide", "//");
export const Equal = symbol("Equal", "==");
export const NotEqual = symbol("NotEqual", "!=");
export const LessEqual = symbol("LessEqual", "<=");
export const GreaterEqual = symbol("GreaterEqual", ">=");
export const Less = symbol("Less", "<");
export const Greater = symbol("Greater", ">");
export const Assign = symbol("Assign", "=");
export const Plus = symbol("Plus", "+");
export const Minus = symbol("Minus", "-");
export const Times = symbol("Times", "*");
export const Divide = symbol("Divide", "/");
export const Percent = symbol("Percent", "%");
export const MatMul = symbol("MatMul", "@");
export const Tilde = symbol("Tilde", "~");
export const Dot = symbol("Dot", ".");
export const Comma = symbol("Comma", ",");
export const Colon = symbol("Colon", ":");
export const Semicolon = symbol("Semicolon", ";");
export const LeftParen = symbol("LeftParen", "(");
export const RightParen = symbol("RightParen", ")");
export const LeftBracket = symbol("LeftBracket", "[");
export const RightBracket = symbol("RightBracket", "]");
export const LeftBrace = symbol("LeftBrace", "{");
export const RightBrace = symbol("RightBrace", "}");

// Order matters: keywords before names, longer symbols before their prefixes.
export const allTokens: readonly TokenType[] = [
  WhiteSpace,
  Comment,
  Import,
  From,
  As,
  Config,
  Const,
  Type,
  Fn,
  Module,
  Graph,
  Train,
  Param,
  Use,
  State,
  Forward,
  Let,
  Var,
  Dim,
  Ragged,
  Over,
  Table,
  Repeat,
  At,
  If,
  Else,
  For,
  In,
  Choose,
  Where,
  Minimizing,
  And,
  Or,
  Not,
  True,
  False,
  Identifier,
  Float,
  Int,
  Text,
  Arrow,
  RangeInclusive,
  Range,
  Power,
  FloorDivide,
  Equal,
  NotEqual,
  LessEqual,
  GreaterEqual,
  Less,
  Greater,
  Assign,
  Plus,
  Minus,
  Times,
  Divide,
  Percent,
  MatMul,
  Tilde,
  Dot,
  Comma,
  Colon,
  Semicolon,
  LeftParen,
  RightParen,
  LeftBracket,
  RightBracket,
  LeftBrace,
  RightBrace,
];

export const lexer = new Lexer([...allTokens], { positionTracking: "full", ensureOptimizations: false, skipValidations: true });

/** From the start of one token to the end of another. */
export function spanOfTokens(file: string, first: IToken, last: IToken): Span {
  return {
    file,
    start: first.startOffset,
    end: (last.endOffset ?? last.startOffset) + 1,
    line: first.startLine ?? 1,
    column: first.startColumn ?? 1,
    endLine: last.endLine ?? last.startLine ?? 1,
    endColumn: (last.endColumn ?? last.startColumn ?? 1) + 1,
  };
}

const escapes: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" };

/** The text of a string token. */
export function unquote(image: string): string {
  return image.slice(1, -1).replace(/\\(.)/g, (_, c: string) => escapes[c] ?? c);
}
