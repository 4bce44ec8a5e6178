// The public door of the syntax: text in, tree and diagnostics out. Never throws for any text.

import type { ILexingError, IRecognitionException, IToken } from "chevrotain";
import type { Diagnostic, Note } from "../diagnostics/index.ts";
import type { Span } from "../ir/loc.ts";
import type { Comment as CommentNode, FileAst } from "./ast.ts";
import { maximumNesting, TooDeep } from "./grammar/base.ts";
import { UhdParser } from "./parser.ts";
import { grammarSlip, lexicalSlip } from "./slips.ts";
import * as T from "./tokens.ts";

export type { FileAst } from "./ast.ts";

/** Characters of a source file beyond which it is refused. */
const maximumFileLength = 4_000_000;

let shared: UhdParser | undefined;

/** Parses one file. With any error among the diagnostics the tree may have holes and must not be checked. */
export function parseFile(file: string, text: string): { readonly ast: FileAst; readonly diagnostics: readonly Diagnostic[] } {
  const whole = spanOfOffsets(file, text, 0, text.length);
  const failed = (diagnostic: Diagnostic): { ast: FileAst; diagnostics: readonly Diagnostic[] } => ({
    ast: { file, items: [], comments: [], span: whole },
    diagnostics: [diagnostic],
  });
  if (text.length > maximumFileLength) {
    return failed(
      syntaxError("UHD0004", spanOfOffsets(file, text, 0, 1), `the file has ${text.length} characters`, {
        expected: `at most ${maximumFileLength}`,
      }),
    );
  }
  const lexed = T.lexer.tokenize(text);
  const diagnostics: Diagnostic[] = lexed.errors.map((e) => lexicalError(file, text, e));
  const comments: CommentNode[] = (lexed.groups["comments"] ?? []).map((t) => ({ text: t.image.slice(1), span: spanOfToken(file, t) }));
  const { lineStarts, tooDeep } = structure(lexed.tokens);
  if (tooDeep !== undefined) return failed(tooDeepError(file, tooDeep));
  // The grammar was validated by a test; doing it again would cost every start.
  shared ??= new UhdParser({ skipValidations: true });
  try {
    const ast = shared.parse(file, lexed.tokens, lineStarts, whole);
    diagnostics.push(...shared.errors.map((e) => grammarError(file, text, e, lexed.tokens)));
    return { ast: { ...ast, comments }, diagnostics: withoutEchoes(diagnostics) };
  } catch (error) {
    if (error instanceof TooDeep) return failed(tooDeepError(file, error.token));
    throw error;
  }
}

/** Which tokens start a line where lines separate statements, and the first token nested too deeply. */
function structure(tokens: readonly IToken[]): { readonly lineStarts: ReadonlySet<number>; readonly tooDeep: IToken | undefined } {
  const lineStarts = new Set<number>();
  const open: IToken[] = [];
  let line = 0;
  for (const token of tokens) {
    const inner = open.at(-1)?.tokenType;
    if ((token.startLine ?? 0) > line && (inner === undefined || inner === T.LeftBrace)) lineStarts.add(token.startOffset);
    line = token.endLine ?? line;
    if (isOpening(token)) {
      open.push(token);
      if (open.length > maximumNesting) return { lineStarts, tooDeep: token };
    } else if (isClosing(token)) open.pop();
  }
  return { lineStarts, tooDeep: undefined };
}

function spanOfToken(file: string, t: IToken): Span {
  return T.spanOfTokens(file, t, t);
}

function spanOfOffsets(file: string, text: string, start: number, end: number): Span {
  const place = (offset: number): { line: number; column: number } => {
    const before = text.slice(0, offset).split("\n");
    return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
  };
  const from = place(start);
  const to = place(end);
  return { file, start, end, line: from.line, column: from.column, endLine: to.line, endColumn: to.column };
}

function syntaxError(
  code: string,
  span: Span,
  message: string,
  more: { expected?: string; found?: string; notes?: readonly Note[]; help?: string } = {},
): Diagnostic {
  return { severity: "error", code, span, message, notes: [], ...more };
}

function tooDeepError(file: string, token: IToken): Diagnostic {
  return syntaxError("UHD0003", spanOfToken(file, token), "nested too deeply", {
    expected: `at most ${maximumNesting} levels of brackets, blocks and operators`,
    help: "name the inner parts with let",
  });
}

function lexicalError(file: string, text: string, e: ILexingError): Diagnostic {
  const span = spanOfOffsets(file, text, e.offset, e.offset + e.length);
  const found = text.slice(e.offset, e.offset + Math.min(e.length, 20));
  if (found.startsWith('"')) return syntaxError("UHD0002", span, "this string is not closed on its line", { expected: 'a closing "' });
  return syntaxError("UHD0001", span, `unexpected ${JSON.stringify(found)}`, {
    help: lexicalSlip(found),
  });
}

function grammarError(file: string, text: string, e: IRecognitionException, tokens: readonly IToken[]): Diagnostic {
  const atEnd = Number.isNaN(e.token.startOffset) || e.token.tokenType.name === "EOF";
  const previous = atEnd ? tokens.at(-1) : tokens[tokens.indexOf(e.token) - 1];
  const end = text.trimEnd().length;
  const span = atEnd ? spanOfOffsets(file, text, end, end) : spanOfToken(file, e.token);
  const found = atEnd ? "the end of the file" : `"${e.token.image.slice(0, 40)}"`;
  const expected = expectation(e);
  const notes: Note[] = previous === undefined ? [] : [{ message: "after this", span: spanOfToken(file, previous) }];
  const brackets = bracketsAt(tokens, atEnd ? undefined : e.token);
  const open = brackets.open.at(-1);
  const mismatched = isClosing(e.token) && open !== undefined && closing[open.image] !== e.token.image;
  if (open !== undefined && (atEnd || /^"[)\]}]"/.test(expected) || mismatched)) {
    const line = e.token.startLine ?? Infinity;
    const earlier = brackets.open.findLast((t) => t.tokenType !== T.LeftBrace && (t.startLine ?? line) < line);
    const culprits = new Set([open, earlier, brackets.odd].filter((t) => t !== undefined && t !== previous));
    for (const t of culprits) if (t !== undefined) notes.push({ message: `this ${t.image} is not closed`, span: spanOfToken(file, t) });
  }
  const help = atEnd ? undefined : grammarSlip(tokens, tokens.indexOf(e.token), open);
  return syntaxError("UHD0010", span, `expected ${expected}, found ${found}`, {
    expected,
    found,
    notes,
    ...(help === undefined ? {} : { help }),
  });
}

/**
 * Brackets that are open before a token, or at the end, outermost first; and the innermost brace whose other half
 * starts a line at another indentation than the brace's own, which is likely another brace's.
 */
function bracketsAt(
  tokens: readonly IToken[],
  until: IToken | undefined,
): { readonly open: readonly IToken[]; readonly odd: IToken | undefined } {
  const open: IToken[] = [];
  let odd: IToken | undefined;
  let line = 0;
  let indentation = 0;
  const indentations = new Map<IToken, number>();
  for (const t of tokens) {
    if (t === until) break;
    const first = (t.startLine ?? 0) > line;
    line = t.endLine ?? line;
    if (first) indentation = t.startColumn ?? 0;
    if (isOpening(t)) {
      open.push(t);
      indentations.set(t, indentation);
    } else if (isClosing(t)) {
      const opener = open.pop();
      if (first && opener !== undefined && indentations.get(opener) !== indentation) odd ??= opener;
    }
  }
  return { open, odd };
}

const closing: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

function isOpening(t: IToken): boolean {
  return t.tokenType === T.LeftParen || t.tokenType === T.LeftBracket || t.tokenType === T.LeftBrace;
}

function isClosing(t: IToken): boolean {
  return t.tokenType === T.RightParen || t.tokenType === T.RightBracket || t.tokenType === T.RightBrace;
}

/** What the grammar wanted, in the user's words: chevrotain's message without its frame. */
function expectation(e: IRecognitionException): string {
  const mismatch =
    /Expecting token of type --> (.*?) <-- but found/s.exec(e.message)?.[1] ?? /^Expecting (.*?),? but found/s.exec(e.message)?.[1];
  if (mismatch !== undefined && !mismatch.includes("one of")) return mismatch.replace(/^-+> | <-+$/g, "");
  const words = [...e.message.matchAll(/\d+\. \[([^\]]*|"\["|"\]")\]/g)].map((m) => m[1] ?? "");
  const first = [...new Set(words.map((w) => w.split(", ")[0] ?? w))];
  if (first.includes('"not"') || (first.includes('"-"') && first.includes("a number"))) return "an expression";
  if (first.length > 0)
    return first.length > 6
      ? `one of ${first.slice(0, 6).join(", ")}, …`
      : first.length === 1
        ? (first[0] ?? "")
        : `one of ${first.join(", ")}`;
  if (e.name === "NotAllInputParsedException") return "an item or the end of the file";
  const told = /Expecting(?: --> |: |\s)(.*?)(?: <--|\n|but found|$)/s.exec(e.message)?.[1]?.trim();
  return told !== undefined && told !== "" ? told : (e.message.split("\n")[0]?.replace(/^Expecting:? ?/, "") ?? "something else");
}

/**
 * Recovery may stumble over one mistake twice: of errors that start on one line only the first is kept, and the brace that an
 * earlier error waited for is none of its own.
 */
function withoutEchoes(diagnostics: readonly Diagnostic[]): readonly Diagnostic[] {
  const lines = new Set<number>();
  let awaited = 0;
  return [...diagnostics]
    .sort((a, b) => a.span.start - b.span.start)
    .filter((d) => {
      if (lines.has(d.span.line)) return false;
      lines.add(d.span.line);
      if (d.found === '"}"' && awaited > 0) {
        awaited--;
        return false;
      }
      if (d.expected === '"}"') awaited++;
      return true;
    });
}
