// What all rules of the grammar share: spans, limits of nesting, lines, and what a rule gives where the parser recovered
// from an error. No rules.

import { EmbeddedActionsParser, type IParserConfig, type IToken, type ParserMethod } from "chevrotain";
import type { Span } from "../../ir/loc.ts";
import type { Block, Clause, DimExpr, Expr, Ident, Pattern, Subscript, TypeExpr } from "../ast.ts";
import * as T from "../tokens.ts";

/** Nesting of expressions and blocks beyond which a file is refused: far above any program, far below the stack. */
export const maximumNesting = 200;
/** Operators in a row at one level, for the same reason: `a + b + …` nests to the left. */
export const maximumChain = 400;

export class TooDeep extends Error {
  override readonly name = "TooDeep";
  readonly token: IToken;
  constructor(token: IToken) {
    super("too deeply nested");
    this.token = token;
  }
}

export abstract class GrammarBase extends EmbeddedActionsParser {
  private file = "";
  private lineStarts: ReadonlySet<number> = new Set();
  private depth = 0;

  // What a rule gives where the parser recovered from an error.
  private readonly nowhere: Span = { file: "", start: 0, end: 0, line: 1, column: 1, endLine: 1, endColumn: 1 };
  private readonly hole: Expr = { kind: "error", span: this.nowhere };
  protected readonly anExpr = { recoveryValueFunc: (): Expr => this.hole };
  protected readonly aType = { recoveryValueFunc: (): TypeExpr => ({ kind: "error", span: this.nowhere }) };
  protected readonly aBlock = { recoveryValueFunc: (): Block => ({ statements: [], span: this.nowhere }) };
  protected readonly aPattern = { recoveryValueFunc: (): Pattern => ({ kind: "name", name: "_", span: this.nowhere }) };
  protected readonly aSubscript = { recoveryValueFunc: (): Subscript => ({ kind: "slice", span: this.nowhere }) };
  protected readonly aDim = { recoveryValueFunc: (): DimExpr => ({ value: this.hole, ragged: false, span: this.nowhere }) };
  protected readonly aClause = { recoveryValueFunc: (): Clause => ({ kind: "if", condition: this.hole, span: this.nowhere }) };
  protected readonly aList = { recoveryValueFunc: (): [] => [] };

  constructor(config: IParserConfig) {
    super([...T.allTokens], { maxLookahead: 2, recoveryEnabled: true, nodeLocationTracking: "none", ...config });
  }

  /** Makes a file the one that the rules read. */
  protected open(file: string, tokens: IToken[], lineStarts: ReadonlySet<number>): void {
    this.file = file;
    this.lineStarts = lineStarts;
    this.depth = 0;
    this.input = tokens;
  }

  // ---- Spans ----

  protected spanOf(first: IToken, last: IToken): Span {
    return T.spanOfTokens(this.file, first, last);
  }

  protected join(a: Span, b: Span): Span {
    return { file: a.file, start: a.start, end: b.end, line: a.line, column: a.column, endLine: b.endLine, endColumn: b.endColumn };
  }

  /** From `first` to the token consumed last. */
  protected since(first: IToken): Span {
    return this.spanOf(first, this.LA(0));
  }

  protected sinceSpan(first: Span): Span {
    return this.join(first, this.spanOf(this.LA(0), this.LA(0)));
  }

  protected startsLine(): boolean {
    return this.lineStarts.has(this.LA(1).startOffset);
  }

  protected ident(token: IToken): Ident {
    return { name: token.image, span: this.spanOf(token, token) };
  }

  protected nested<R>(run: () => R): R {
    this.depth++;
    this.ACTION(() => {
      if (this.depth > maximumNesting) throw new TooDeep(this.LA(1));
    });
    const result = run();
    this.depth--;
    return result;
  }

  /** At least one `rule`, with commas between. */
  protected commaSeparated<R>(rule: ParserMethod<[], R>): R[] {
    const items: R[] = [];
    this.AT_LEAST_ONE_SEP({
      SEP: T.Comma,
      DEF: () => {
        const item = this.SUBRULE(rule);
        this.ACTION(() => items.push(item));
      },
    });
    return items;
  }
}
