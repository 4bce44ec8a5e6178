// The grammar: tokens to tree, in one pass, with chevrotain's error recovery so that several mistakes are
// found in one run. The tree of a file with syntax errors is not checked further, so its holes do no harm.

import { EmbeddedActionsParser, type IParserConfig, type IToken } from "chevrotain";
import type { Span } from "../ir/loc.ts";
import type {
  Argument,
  BinaryOperator,
  Block,
  Clause,
  DimExpr,
  Expr,
  FileAst,
  Ident,
  Item,
  ModuleMember,
  Parameter,
  Pattern,
  Result,
  Setting,
  Statement,
  Subscript,
  TypeExpr,
  UseItem,
  StateItem,
  ForwardItem,
  ParamItem,
} from "./ast.ts";
import * as T from "./tokens.ts";

/** Nesting of expressions and blocks beyond which a file is refused: far above any program, far below the stack. */
export const maximumNesting = 200;
/** Operators in a row at one level, for the same reason: `a + b + …` nests to the left. */
const maximumChain = 400;

export class TooDeep extends Error {
  override readonly name = "TooDeep";
  readonly token: IToken;
  constructor(token: IToken) {
    super("too deeply nested");
    this.token = token;
  }
}

type LetStatement = Extract<Statement, { kind: "let" }>;

export class UhdParser extends EmbeddedActionsParser {
  private file = "";
  private lineStarts: ReadonlySet<number> = new Set();
  private depth = 0;

  // What a rule gives where the parser recovered from an error.
  private readonly nowhere: Span = { file: "", start: 0, end: 0, line: 1, column: 1, endLine: 1, endColumn: 1 };
  private readonly hole: Expr = { kind: "error", span: this.nowhere };
  private readonly anExpr = { recoveryValueFunc: (): Expr => this.hole };
  private readonly aType = { recoveryValueFunc: (): TypeExpr => ({ kind: "error", span: this.nowhere }) };
  private readonly aBlock = { recoveryValueFunc: (): Block => ({ statements: [], span: this.nowhere }) };
  private readonly aPattern = { recoveryValueFunc: (): Pattern => ({ kind: "name", name: "_", span: this.nowhere }) };
  private readonly aSubscript = { recoveryValueFunc: (): Subscript => ({ kind: "slice", span: this.nowhere }) };
  private readonly aDim = { recoveryValueFunc: (): DimExpr => ({ value: this.hole, ragged: false, span: this.nowhere }) };
  private readonly aClause = { recoveryValueFunc: (): Clause => ({ kind: "if", condition: this.hole, span: this.nowhere }) };
  private readonly aList = { recoveryValueFunc: (): [] => [] };

  constructor(config: IParserConfig) {
    super([...T.allTokens], { maxLookahead: 2, recoveryEnabled: true, nodeLocationTracking: "none", ...config });
    this.performSelfAnalysis();
  }

  /** Parses one file. `lineStarts` has the start offset of every token that is the first of its line outside brackets. */
  parse(file: string, tokens: IToken[], lineStarts: ReadonlySet<number>, whole: Span): FileAst {
    this.file = file;
    this.lineStarts = lineStarts;
    this.depth = 0;
    this.input = tokens;
    const items = this.items();
    return { file, items: items ?? [], comments: [], span: whole };
  }

  // ---- Spans ----

  private spanOf(first: IToken, last: IToken): Span {
    return {
      file: this.file,
      start: first.startOffset,
      end: (last.endOffset ?? last.startOffset) + 1,
      line: first.startLine ?? 1,
      column: first.startColumn ?? 1,
      endLine: last.endLine ?? last.startLine ?? 1,
      endColumn: (last.endColumn ?? last.startColumn ?? 1) + 1,
    };
  }

  private join(a: Span, b: Span): Span {
    return { file: a.file, start: a.start, end: b.end, line: a.line, column: a.column, endLine: b.endLine, endColumn: b.endColumn };
  }

  /** From `first` to the token consumed last. */
  private since(first: IToken): Span {
    return this.spanOf(first, this.LA(0));
  }

  private sinceSpan(first: Span): Span {
    return this.join(first, this.spanOf(this.LA(0), this.LA(0)));
  }

  private startsLine(): boolean {
    return this.lineStarts.has(this.LA(1).startOffset);
  }

  private ident(token: IToken): Ident {
    return { name: token.image, span: this.spanOf(token, token) };
  }

  private nested<R>(run: () => R): R {
    this.depth++;
    this.ACTION(() => {
      if (this.depth > maximumNesting) throw new TooDeep(this.LA(1));
    });
    const result = run();
    this.depth--;
    return result;
  }

  // ---- File ----

  private items = this.RULE("items", (): Item[] => {
    const items: Item[] = [];
    this.MANY(() => {
      const item = this.SUBRULE(this.item);
      this.OPTION(() => this.CONSUME(T.Semicolon));
      this.ACTION(() => item !== undefined && items.push(item));
    });
    return items;
  });

  private item = this.RULE("item", (): Item | undefined =>
    this.OR({
      DEF: [
        { ALT: () => this.SUBRULE(this.importItem) },
        { ALT: () => this.SUBRULE(this.valueItem) },
        { ALT: () => this.SUBRULE(this.typeItem) },
        { ALT: () => this.SUBRULE(this.fnItem) },
        { ALT: () => this.SUBRULE(this.moduleItem) },
        { ALT: () => this.SUBRULE(this.graphItem) },
        { ALT: () => this.SUBRULE(this.trainItem) },
      ],
      ERR_MSG: "an item: import, config, const, type, fn, module, graph or train",
    }),
  );

  private importItem = this.RULE("importItem", (): Item => {
    const first = this.CONSUME(T.Import);
    const names: { name: Ident; as: Ident }[] = [];
    this.CONSUME(T.LeftBrace);
    this.MANY_SEP({
      SEP: T.Comma,
      DEF: () => {
        const name = this.CONSUME(T.Identifier);
        let as = name;
        this.OPTION(() => {
          this.CONSUME(T.As);
          as = this.CONSUME2(T.Identifier);
        });
        this.ACTION(() => names.push({ name: this.ident(name), as: this.ident(as) }));
      },
    });
    this.CONSUME(T.RightBrace);
    this.CONSUME(T.From);
    const path = this.CONSUME(T.Text);
    return this.ACTION(() => ({
      kind: "import",
      names,
      path: unquote(path.image),
      pathSpan: this.spanOf(path, path),
      span: this.since(first),
    }));
  });

  private valueItem = this.RULE("valueItem", (): Item => {
    const first = this.OR([{ ALT: () => this.CONSUME(T.Config) }, { ALT: () => this.CONSUME(T.Const) }]);
    const name = this.CONSUME(T.Identifier);
    const type = this.OPTION(() => {
      this.CONSUME(T.Colon);
      return this.SUBRULE(this.type);
    });
    this.CONSUME(T.Assign);
    const value = this.SUBRULE(this.expression);
    return this.ACTION(() => ({
      kind: first.tokenType === T.Config ? "config" : "const",
      name: this.ident(name),
      ...(type === undefined ? {} : { type }),
      value,
      span: this.since(first),
    }));
  });

  private typeItem = this.RULE("typeItem", (): Item => {
    const first = this.CONSUME(T.Type);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Assign);
    const type = this.SUBRULE(this.type);
    return this.ACTION(() => ({ kind: "type", name: this.ident(name), type, span: this.since(first) }));
  });

  private fnItem = this.RULE("fnItem", (): Item => {
    const first = this.CONSUME(T.Fn);
    const name = this.CONSUME(T.Identifier);
    const params = this.SUBRULE(this.parameters);
    const result = this.OPTION(() => {
      this.CONSUME(T.Arrow);
      return this.SUBRULE(this.type);
    });
    const body = this.OR([
      { ALT: () => this.SUBRULE(this.block) },
      {
        ALT: (): Block => {
          this.CONSUME(T.Assign);
          const value = this.SUBRULE(this.expression);
          return this.ACTION(() => ({ statements: [], value, span: value.span }));
        },
      },
    ]);
    return this.ACTION(() => ({
      kind: "fn",
      name: this.ident(name),
      params,
      ...(result === undefined ? {} : { result }),
      body,
      span: this.since(first),
    }));
  });

  private moduleItem = this.RULE("moduleItem", (): Item => {
    const first = this.CONSUME(T.Module);
    const name = this.CONSUME(T.Identifier);
    const params = this.SUBRULE(this.parameters);
    const members: ModuleMember[] = [];
    this.CONSUME(T.LeftBrace);
    this.MANY(() => {
      const member = this.SUBRULE(this.member);
      this.SUBRULE(this.separator);
      this.ACTION(() => member !== undefined && members.push(member));
    });
    this.CONSUME(T.RightBrace);
    return this.ACTION(() => ({ kind: "module", name: this.ident(name), params, members, span: this.since(first) }));
  });

  private member = this.RULE("member", (): ModuleMember | undefined =>
    this.OR({
      DEF: [
        { ALT: () => this.SUBRULE(this.paramItem) },
        { ALT: () => this.SUBRULE(this.useItem) },
        { ALT: () => this.SUBRULE(this.forwardItem) },
        { ALT: () => this.SUBRULE(this.letStatement) },
      ],
      ERR_MSG: "a member of a module: param, use, let or forward",
    }),
  );

  private graphItem = this.RULE("graphItem", (): Item => {
    const first = this.CONSUME(T.Graph);
    const name = this.CONSUME(T.Identifier);
    const params = this.SUBRULE(this.parameters);
    this.CONSUME(T.Arrow);
    const results = this.SUBRULE(this.results);
    const body = this.SUBRULE(this.block);
    return this.ACTION(() => ({ kind: "graph", name: this.ident(name), params, results, body, span: this.since(first) }));
  });

  private trainItem = this.RULE("trainItem", (): Item => {
    const first = this.CONSUME(T.Train);
    const settings = this.SUBRULE(this.settings);
    return this.ACTION(() => ({ kind: "train", settings, span: this.since(first) }));
  });

  private settings = this.RULE(
    "settings",
    (): readonly Setting[] =>
      this.nested(() => {
        const settings: Setting[] = [];
        this.CONSUME(T.LeftBrace);
        this.MANY(() => {
          const name = this.CONSUME(T.Identifier);
          const value = this.OR([
            {
              ALT: () => {
                this.CONSUME(T.Colon);
                return this.SUBRULE(this.expression);
              },
            },
            {
              ALT: () => {
                const inner = this.SUBRULE(this.settings);
                return { kind: "settings" as const, settings: inner };
              },
            },
          ]);
          this.OPTION(() => this.OR2([{ ALT: () => this.CONSUME(T.Comma) }, { ALT: () => this.CONSUME(T.Semicolon) }]));
          this.ACTION(() => settings.push({ name: this.ident(name), value, span: this.since(name) }));
        });
        this.CONSUME(T.RightBrace);
        return settings;
      }),
    this.aList,
  );

  // ---- Module members and signatures ----

  private parameters = this.RULE(
    "parameters",
    (): readonly Parameter[] => {
      const params: Parameter[] = [];
      this.CONSUME(T.LeftParen);
      this.MANY_SEP({
        SEP: T.Comma,
        DEF: () => {
          const name = this.CONSUME(T.Identifier);
          this.CONSUME(T.Colon);
          const type = this.SUBRULE(this.type);
          const bounds = this.OPTION(() => {
            this.CONSUME(T.In);
            return this.SUBRULE(this.range);
          });
          const value = this.OPTION2(() => {
            this.CONSUME(T.Assign);
            return this.SUBRULE(this.expression);
          });
          this.ACTION(() => {
            const more = { ...(bounds === undefined ? {} : { bounds }), ...(value === undefined ? {} : { value }) };
            params.push({ name: this.ident(name), type, ...more, span: this.since(name) });
          });
        },
      });
      this.CONSUME(T.RightParen);
      return params;
    },
    this.aList,
  );

  private results = this.RULE(
    "results",
    (): readonly Result[] =>
      this.OR({
        // `(` always starts a list of results: no output is a tuple.
        IGNORE_AMBIGUITIES: true,
        DEF: [
          {
            ALT: () => {
              const results: Result[] = [];
              this.CONSUME(T.LeftParen);
              this.AT_LEAST_ONE_SEP({
                SEP: T.Comma,
                DEF: () => {
                  const one = this.SUBRULE(this.result);
                  this.ACTION(() => one !== undefined && results.push(one));
                },
              });
              this.CONSUME(T.RightParen);
              return results;
            },
          },
          {
            ALT: () => {
              const one = this.SUBRULE2(this.result);
              return this.ACTION(() => (one === undefined ? [] : [one]));
            },
          },
        ],
      }),
    this.aList,
  );

  private result = this.RULE("result", (): Result | undefined => {
    const first = this.LA(1);
    const name = this.OPTION(() => {
      const token = this.CONSUME(T.Identifier);
      this.CONSUME(T.Colon);
      return token;
    });
    const type = this.SUBRULE(this.type);
    return this.ACTION(() => ({ ...(name === undefined ? {} : { name: this.ident(name) }), type, span: this.since(first) }));
  });

  private paramItem = this.RULE("paramItem", (): ParamItem => {
    const first = this.CONSUME(T.Param);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Colon);
    const type = this.SUBRULE(this.type);
    const path = this.OPTION(() => {
      this.CONSUME(T.At);
      return this.SUBRULE(this.expression);
    });
    const init = this.OPTION2(() => {
      this.CONSUME(T.Tilde);
      return this.SUBRULE2(this.expression);
    });
    return this.ACTION(() => ({
      kind: "param",
      name: this.ident(name),
      type,
      ...(path === undefined ? {} : { path }),
      ...(init === undefined ? {} : { init }),
      span: this.since(first),
    }));
  });

  private useItem = this.RULE("useItem", (): UseItem => {
    const first = this.CONSUME(T.Use);
    const name = this.CONSUME(T.Identifier);
    const count = this.OPTION(() => {
      this.CONSUME(T.LeftBracket);
      const value = this.SUBRULE(this.expression);
      this.CONSUME(T.RightBracket);
      return value;
    });
    this.CONSUME(T.Assign);
    const module = this.CONSUME2(T.Identifier);
    const args = this.SUBRULE(this.arguments);
    const path = this.OPTION2(() => {
      this.CONSUME(T.At);
      return this.SUBRULE2(this.expression);
    });
    return this.ACTION(() => ({
      kind: "use",
      name: this.ident(name),
      ...(count === undefined ? {} : { count }),
      module: this.ident(module),
      args,
      ...(path === undefined ? {} : { path }),
      span: this.since(first),
    }));
  });

  private stateItem = this.RULE("stateItem", (): StateItem => {
    const first = this.CONSUME(T.State);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Colon);
    const type = this.SUBRULE(this.type);
    return this.ACTION(() => ({ kind: "state", name: this.ident(name), type, span: this.since(first) }));
  });

  private forwardItem = this.RULE("forwardItem", (): ForwardItem => {
    const first = this.CONSUME(T.Forward);
    const name = this.OPTION(() => this.CONSUME(T.Identifier));
    const params = this.SUBRULE(this.parameters);
    this.CONSUME(T.Arrow);
    const results = this.SUBRULE(this.results);
    const body = this.SUBRULE(this.block);
    return this.ACTION(() => ({
      kind: "forward",
      name: name === undefined ? { ...this.ident(first), name: "forward" } : this.ident(name),
      params,
      results,
      body,
      span: this.since(first),
    }));
  });

  // ---- Blocks and statements ----

  /** After a statement: `;`, a new line, or the end of the block. */
  private separator = this.RULE("separator", (): void => {
    this.OPTION({
      GATE: () => !this.startsLine() && this.LA(1).tokenType !== T.RightBrace,
      DEF: () => this.CONSUME(T.Semicolon),
    });
  });

  private block = this.RULE(
    "block",
    (): Block =>
      this.nested(() => {
        const statements: Statement[] = [];
        let value: Expr | undefined;
        // An expression that is not the last of its block is evaluated for nothing; the checker reports it.
        const discard = (): void => {
          if (value !== undefined)
            statements.push({
              kind: "let",
              mutable: false,
              pattern: { kind: "name", name: "_", span: value.span },
              value,
              span: value.span,
            });
          value = undefined;
        };
        const first = this.CONSUME(T.LeftBrace);
        this.MANY({
          // A statement needs a new line or a semicolon before it.
          GATE: () => (statements.length === 0 && value === undefined) || this.separated(),
          DEF: () => {
            this.OR([
              { ALT: () => this.CONSUME(T.Semicolon) },
              {
                ALT: () => {
                  const statement = this.SUBRULE(this.statement);
                  this.ACTION(() => {
                    discard();
                    if (statement !== undefined) statements.push(statement);
                  });
                },
              },
              {
                GATE: () => this.LA(2).tokenType !== T.Assign,
                ALT: () => {
                  const expression = this.SUBRULE(this.expression);
                  this.ACTION(() => {
                    discard();
                    value = expression;
                  });
                },
              },
            ]);
          },
        });
        this.CONSUME(T.RightBrace);
        return this.ACTION(() => ({ statements, ...(value === undefined ? {} : { value }), span: this.since(first) }));
      }),
    this.aBlock,
  );

  private separated(): boolean {
    return this.startsLine() || this.LA(1).tokenType === T.Semicolon || this.LA(0).tokenType === T.Semicolon;
  }

  private statement = this.RULE("statement", (): Statement | undefined =>
    this.OR([
      { ALT: () => this.SUBRULE(this.letStatement) },
      { ALT: () => this.SUBRULE(this.repeatStatement) },
      { ALT: () => this.SUBRULE(this.dimStatement) },
      { ALT: () => this.SUBRULE(this.raggedStatement) },
      { ALT: () => this.SUBRULE(this.tableStatement) },
      { ALT: () => this.SUBRULE(this.useItem) },
      { ALT: () => this.SUBRULE(this.stateItem) },
      {
        GATE: () => this.LA(2).tokenType === T.Assign,
        ALT: (): Statement => {
          const name = this.CONSUME(T.Identifier);
          this.CONSUME(T.Assign);
          const value = this.SUBRULE(this.expression);
          return this.ACTION(() => ({ kind: "assign", name: this.ident(name), value, span: this.since(name) }));
        },
      },
    ]),
  );

  private letStatement = this.RULE("letStatement", (): LetStatement => {
    const first = this.OR([{ ALT: () => this.CONSUME(T.Let) }, { ALT: () => this.CONSUME(T.Var) }]);
    const pattern = this.SUBRULE(this.pattern);
    const type = this.OPTION(() => {
      this.CONSUME(T.Colon);
      return this.SUBRULE(this.type);
    });
    this.CONSUME(T.Assign);
    const value = this.SUBRULE(this.expression);
    return this.ACTION(() => ({
      kind: "let",
      mutable: first.tokenType === T.Var,
      pattern,
      ...(type === undefined ? {} : { type }),
      value,
      span: this.since(first),
    }));
  });

  private repeatStatement = this.RULE("repeatStatement", (): Statement => {
    const first = this.CONSUME(T.Repeat);
    const variable = this.CONSUME(T.Identifier);
    this.CONSUME(T.In);
    const from = this.SUBRULE(this.expression);
    const body = this.SUBRULE(this.block);
    return this.ACTION(() => ({ kind: "repeat", variable: this.ident(variable), from, body, span: this.since(first) }));
  });

  private dimStatement = this.RULE("dimStatement", (): Statement => {
    const first = this.CONSUME(T.Dim);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Assign);
    const value = this.SUBRULE(this.expression);
    return this.ACTION(() => ({ kind: "dim", name: this.ident(name), value, span: this.since(first) }));
  });

  private raggedStatement = this.RULE("raggedStatement", (): Statement => {
    const first = this.CONSUME(T.Ragged);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Over);
    const over = this.CONSUME2(T.Identifier);
    this.CONSUME(T.Assign);
    const value = this.SUBRULE(this.expression);
    return this.ACTION(() => ({ kind: "ragged", name: this.ident(name), over: this.ident(over), value, span: this.since(first) }));
  });

  private tableStatement = this.RULE("tableStatement", (): Statement => {
    const first = this.CONSUME(T.Table);
    const name = this.CONSUME(T.Identifier);
    this.CONSUME(T.Colon);
    const type = this.SUBRULE(this.type);
    this.CONSUME(T.Assign);
    const value = this.SUBRULE(this.expression);
    return this.ACTION(() => ({ kind: "table", name: this.ident(name), type, value, span: this.since(first) }));
  });

  private pattern = this.RULE(
    "pattern",
    (): Pattern =>
      this.nested(() =>
        this.OR([
          {
            ALT: (): Pattern => {
              const name = this.CONSUME(T.Identifier);
              return this.ACTION(() => ({ kind: "name", name: name.image, span: this.spanOf(name, name) }));
            },
          },
          {
            ALT: (): Pattern => {
              const items: Pattern[] = [];
              const first = this.CONSUME(T.LeftParen);
              this.AT_LEAST_ONE_SEP({
                SEP: T.Comma,
                DEF: () => {
                  const item = this.SUBRULE(this.pattern);
                  this.ACTION(() => items.push(item));
                },
              });
              this.CONSUME(T.RightParen);
              return this.ACTION(() => ({ kind: "tuple", items, span: this.since(first) }));
            },
          },
        ]),
      ),
    this.aPattern,
  );

  // ---- Types ----

  private type = this.RULE(
    "type",
    (): TypeExpr =>
      this.nested(() =>
        this.OR({
          DEF: [
            {
              ALT: (): TypeExpr => {
                const name = this.CONSUME(T.Identifier);
                const dims = this.OPTION({
                  GATE: () => !this.startsLine(),
                  DEF: () => {
                    const list: DimExpr[] = [];
                    this.CONSUME(T.LeftBracket);
                    this.MANY_SEP({
                      SEP: T.Comma,
                      DEF: () => {
                        const d = this.SUBRULE(this.dimension);
                        this.ACTION(() => list.push(d));
                      },
                    });
                    this.CONSUME(T.RightBracket);
                    return list;
                  },
                });
                return this.ACTION(() =>
                  dims === undefined
                    ? { kind: "name", name: name.image, span: this.since(name) }
                    : { kind: "tensor", dtype: this.ident(name), dims, span: this.since(name) },
                );
              },
            },
            {
              ALT: (): TypeExpr => {
                const first = this.CONSUME2(T.LeftBracket);
                const element = this.SUBRULE(this.type);
                this.CONSUME2(T.RightBracket);
                return this.ACTION(() => ({ kind: "list", element, span: this.since(first) }));
              },
            },
            {
              ALT: (): TypeExpr => {
                const items: TypeExpr[] = [];
                const first = this.CONSUME(T.LeftParen);
                this.AT_LEAST_ONE_SEP({
                  SEP: T.Comma,
                  DEF: () => {
                    const item = this.SUBRULE2(this.type);
                    this.ACTION(() => items.push(item));
                  },
                });
                this.CONSUME(T.RightParen);
                return this.ACTION(() => ({ kind: "tuple", items, span: this.since(first) }));
              },
            },
            {
              ALT: (): TypeExpr => {
                const fields: { name: Ident; type: TypeExpr }[] = [];
                const first = this.CONSUME(T.LeftBrace);
                this.MANY_SEP2({
                  SEP: T.Comma,
                  DEF: () => {
                    const name = this.CONSUME2(T.Identifier);
                    this.CONSUME(T.Colon);
                    const type = this.SUBRULE3(this.type);
                    this.ACTION(() => fields.push({ name: this.ident(name), type }));
                  },
                });
                this.CONSUME(T.RightBrace);
                return this.ACTION(() => ({ kind: "record", fields, span: this.since(first) }));
              },
            },
          ],
          ERR_MSG: "a type",
        }),
      ),
    this.aType,
  );

  private dimension = this.RULE(
    "dimension",
    (): DimExpr => {
      const first = this.LA(1);
      const value = this.SUBRULE(this.additive);
      const ragged = this.OPTION(() => this.CONSUME(T.Tilde)) !== undefined;
      const bounds = this.OPTION2(() => {
        this.CONSUME(T.In);
        return this.SUBRULE(this.range);
      });
      return this.ACTION(() => ({ value, ragged, ...(bounds === undefined ? {} : { bounds }), span: this.since(first) }));
    },
    this.aDim,
  );

  // ---- Expressions, loosest first ----

  private expression = this.RULE("expression", (): Expr => this.nested(() => this.SUBRULE(this.disjunction)), this.anExpr);

  private disjunction = this.RULE(
    "disjunction",
    (): Expr => {
      let left = this.SUBRULE(this.conjunction);
      let chain = 0;
      this.MANY(() => {
        const operator = this.CONSUME(T.Or);
        const right = this.SUBRULE2(this.conjunction);
        this.ACTION(() => (left = this.binary(operator, left, right, ++chain)));
      });
      return left;
    },
    this.anExpr,
  );

  private conjunction = this.RULE(
    "conjunction",
    (): Expr => {
      let left = this.SUBRULE(this.negation);
      let chain = 0;
      this.MANY(() => {
        const operator = this.CONSUME(T.And);
        const right = this.SUBRULE2(this.negation);
        this.ACTION(() => (left = this.binary(operator, left, right, ++chain)));
      });
      return left;
    },
    this.anExpr,
  );

  private negation = this.RULE(
    "negation",
    (): Expr =>
      this.nested(() =>
        this.OR([
          {
            ALT: (): Expr => {
              const first = this.CONSUME(T.Not);
              const operand = this.SUBRULE(this.negation);
              return this.ACTION(() => ({ kind: "unary", operator: "not", operand, span: this.since(first) }));
            },
          },
          { ALT: () => this.SUBRULE(this.comparison) },
        ]),
      ),
    this.anExpr,
  );

  private comparison = this.RULE(
    "comparison",
    (): Expr => {
      let left = this.SUBRULE(this.range);
      this.OPTION(() => {
        const operator = this.OR([
          { ALT: () => this.CONSUME(T.Equal) },
          { ALT: () => this.CONSUME(T.NotEqual) },
          { ALT: () => this.CONSUME(T.LessEqual) },
          { ALT: () => this.CONSUME(T.GreaterEqual) },
          { ALT: () => this.CONSUME(T.Less) },
          { ALT: () => this.CONSUME(T.Greater) },
        ]);
        const right = this.SUBRULE2(this.range);
        this.ACTION(() => (left = this.binary(operator, left, right, 1)));
      });
      return left;
    },
    this.anExpr,
  );

  private range = this.RULE(
    "range",
    (): Expr => {
      const from = this.SUBRULE(this.additive);
      const rest = this.OPTION(() => {
        const operator = this.OR([{ ALT: () => this.CONSUME(T.RangeInclusive) }, { ALT: () => this.CONSUME(T.Range) }]);
        const to = this.SUBRULE2(this.additive);
        return { inclusive: operator.tokenType === T.RangeInclusive, to };
      });
      return this.ACTION(() =>
        rest === undefined ? from : { kind: "range", from, to: rest.to, inclusive: rest.inclusive, span: this.sinceSpan(from.span) },
      );
    },
    this.anExpr,
  );

  private additive = this.RULE(
    "additive",
    (): Expr => {
      let left = this.SUBRULE(this.multiplicative);
      let chain = 0;
      this.MANY({
        GATE: () => !(this.LA(1).tokenType === T.Minus && this.startsLine()),
        DEF: () => {
          const operator = this.OR([{ ALT: () => this.CONSUME(T.Plus) }, { ALT: () => this.CONSUME(T.Minus) }]);
          const right = this.SUBRULE2(this.multiplicative);
          this.ACTION(() => (left = this.binary(operator, left, right, ++chain)));
        },
      });
      return left;
    },
    this.anExpr,
  );

  private multiplicative = this.RULE(
    "multiplicative",
    (): Expr => {
      let left = this.SUBRULE(this.unary);
      let chain = 0;
      this.MANY(() => {
        const operator = this.OR([
          { ALT: () => this.CONSUME(T.Times) },
          { ALT: () => this.CONSUME(T.FloorDivide) },
          { ALT: () => this.CONSUME(T.Divide) },
          { ALT: () => this.CONSUME(T.Percent) },
          { ALT: () => this.CONSUME(T.MatMul) },
        ]);
        const right = this.SUBRULE2(this.unary);
        this.ACTION(() => (left = this.binary(operator, left, right, ++chain)));
      });
      return left;
    },
    this.anExpr,
  );

  private unary = this.RULE(
    "unary",
    (): Expr =>
      this.nested(() =>
        this.OR([
          {
            ALT: (): Expr => {
              const first = this.CONSUME(T.Minus);
              const operand = this.SUBRULE(this.unary);
              return this.ACTION(() => ({ kind: "unary", operator: "-", operand, span: this.since(first) }));
            },
          },
          { ALT: () => this.SUBRULE(this.power) },
        ]),
      ),
    this.anExpr,
  );

  private power = this.RULE(
    "power",
    (): Expr => {
      const base = this.SUBRULE(this.postfix);
      const exponent = this.OPTION(() => {
        const operator = this.CONSUME(T.Power);
        const value = this.SUBRULE(this.unary);
        return { operator, value };
      });
      return this.ACTION(() => (exponent === undefined ? base : this.binary(exponent.operator, base, exponent.value, 1)));
    },
    this.anExpr,
  );

  private postfix = this.RULE(
    "postfix",
    (): Expr => {
      let value = this.SUBRULE(this.primary);
      let chain = 0;
      this.MANY({
        GATE: () => !this.startsLine() || this.LA(1).tokenType === T.Dot,
        DEF: () => {
          this.OR([
            {
              ALT: () => {
                const args = this.SUBRULE(this.arguments);
                this.ACTION(() => (value = { kind: "call", callee: value, args, span: this.sinceSpan(value.span) }));
              },
            },
            {
              ALT: () => {
                const at: Subscript[] = [];
                this.CONSUME(T.LeftBracket);
                this.AT_LEAST_ONE_SEP({
                  SEP: T.Comma,
                  DEF: () => {
                    const one = this.SUBRULE(this.subscript);
                    this.ACTION(() => at.push(one));
                  },
                });
                this.CONSUME(T.RightBracket);
                this.ACTION(() => (value = { kind: "subscript", of: value, at, span: this.sinceSpan(value.span) }));
              },
            },
            {
              ALT: () => {
                this.CONSUME(T.Dot);
                const name = this.OR2([
                  { ALT: () => this.CONSUME(T.Identifier) },
                  { ALT: () => this.CONSUME(T.Forward) },
                  { ALT: () => this.CONSUME(T.Int) },
                  { ALT: () => this.CONSUME(T.Float) },
                ]);
                this.ACTION(() => {
                  // `.0.1` reaches us as the number 0.1.
                  for (const part of name.image.split(".")) {
                    value = {
                      kind: "field",
                      of: value,
                      name: { name: part, span: this.spanOf(name, name) },
                      span: this.sinceSpan(value.span),
                    };
                  }
                });
              },
            },
          ]);
          this.ACTION(() => {
            if (++chain > maximumChain) throw new TooDeep(this.LA(0));
          });
        },
      });
      return value;
    },
    this.anExpr,
  );

  private arguments = this.RULE(
    "arguments",
    (): readonly Argument[] => {
      const args: Argument[] = [];
      this.CONSUME(T.LeftParen);
      this.MANY_SEP({
        SEP: T.Comma,
        DEF: () => {
          const first = this.LA(1);
          const name = this.OPTION(() => {
            const token = this.CONSUME(T.Identifier);
            this.CONSUME(T.Colon);
            return token;
          });
          const value = this.SUBRULE(this.expression);
          this.ACTION(() => args.push({ ...(name === undefined ? {} : { name: this.ident(name) }), value, span: this.since(first) }));
        },
      });
      this.CONSUME(T.RightParen);
      return args;
    },
    this.aList,
  );

  private subscript = this.RULE(
    "subscript",
    (): Subscript => {
      const first = this.LA(1);
      const from = this.OPTION(() => this.SUBRULE(this.expression));
      const slice = this.OPTION2(() => {
        this.CONSUME(T.Colon);
        const to = this.OPTION3(() => this.SUBRULE2(this.expression));
        const step = this.OPTION4(() => {
          this.CONSUME2(T.Colon);
          return this.SUBRULE3(this.expression);
        });
        return { to, step };
      });
      return this.ACTION((): Subscript => {
        const span = this.since(first);
        if (slice === undefined && from !== undefined) return { kind: "index", value: from, span };
        return {
          kind: "slice",
          ...(from === undefined ? {} : { from }),
          ...(slice?.to === undefined ? {} : { to: slice.to }),
          ...(slice?.step === undefined ? {} : { step: slice.step }),
          span,
        };
      });
    },
    this.aSubscript,
  );

  private primary = this.RULE(
    "primary",
    (): Expr =>
      this.OR({
        DEF: [
          {
            ALT: (): Expr => {
              const t = this.CONSUME(T.Int);
              return this.ACTION(() => ({ kind: "int", value: Number(t.image.replaceAll("_", "")), span: this.spanOf(t, t) }));
            },
          },
          {
            ALT: (): Expr => {
              const t = this.CONSUME(T.Float);
              return this.ACTION(() => ({ kind: "float", value: Number(t.image.replaceAll("_", "")), span: this.spanOf(t, t) }));
            },
          },
          {
            ALT: (): Expr => {
              const t = this.CONSUME(T.Text);
              return this.ACTION(() => ({ kind: "string", value: unquote(t.image), span: this.spanOf(t, t) }));
            },
          },
          {
            ALT: (): Expr => {
              const t = this.OR2([{ ALT: () => this.CONSUME(T.True) }, { ALT: () => this.CONSUME(T.False) }]);
              return this.ACTION(() => ({ kind: "bool", value: t.tokenType === T.True, span: this.spanOf(t, t) }));
            },
          },
          {
            ALT: (): Expr => {
              const t = this.CONSUME(T.Identifier);
              return this.ACTION(() => ({ kind: "name", name: t.image, span: this.spanOf(t, t) }));
            },
          },
          { ALT: () => this.SUBRULE(this.parenthesised) },
          { ALT: () => this.SUBRULE(this.bracketed) },
          { ALT: () => this.SUBRULE(this.record) },
          { ALT: () => this.SUBRULE(this.conditional) },
          { ALT: () => this.SUBRULE(this.choose) },
        ],
        ERR_MSG: "an expression",
      }),
    this.anExpr,
  );

  private parenthesised = this.RULE(
    "parenthesised",
    (): Expr => {
      const items: Expr[] = [];
      const first = this.CONSUME(T.LeftParen);
      this.AT_LEAST_ONE_SEP({
        SEP: T.Comma,
        DEF: () => {
          const item = this.SUBRULE(this.expression);
          this.ACTION(() => items.push(item));
        },
      });
      this.CONSUME(T.RightParen);
      return this.ACTION(() =>
        items.length === 1 && items[0] !== undefined
          ? { ...items[0], span: this.since(first) }
          : { kind: "tuple", items, span: this.since(first) },
      );
    },
    this.anExpr,
  );

  private bracketed = this.RULE(
    "bracketed",
    (): Expr => {
      const items: Expr[] = [];
      const clauses: Clause[] = [];
      const first = this.CONSUME(T.LeftBracket);
      this.OPTION(() => {
        const head = this.SUBRULE(this.expression);
        this.ACTION(() => items.push(head));
        this.OR([
          {
            ALT: () =>
              this.AT_LEAST_ONE(() => {
                const clause = this.SUBRULE(this.clause);
                this.ACTION(() => clauses.push(clause));
              }),
          },
          {
            ALT: () =>
              this.MANY(() => {
                this.CONSUME(T.Comma);
                const item = this.SUBRULE2(this.expression);
                this.ACTION(() => items.push(item));
              }),
          },
        ]);
      });
      this.CONSUME(T.RightBracket);
      return this.ACTION((): Expr => {
        const span = this.since(first);
        const body = items[0];
        return clauses.length > 0 && body !== undefined ? { kind: "comprehension", body, clauses, span } : { kind: "list", items, span };
      });
    },
    this.anExpr,
  );

  private clause = this.RULE(
    "clause",
    (): Clause =>
      this.OR([
        {
          ALT: (): Clause => {
            const first = this.CONSUME(T.For);
            const pattern = this.SUBRULE(this.pattern);
            this.CONSUME(T.In);
            const from = this.SUBRULE(this.expression);
            return this.ACTION(() => ({ kind: "for", pattern, from, span: this.since(first) }));
          },
        },
        {
          ALT: (): Clause => {
            const first = this.CONSUME(T.If);
            const condition = this.SUBRULE2(this.expression);
            return this.ACTION(() => ({ kind: "if", condition, span: this.since(first) }));
          },
        },
      ]),
    this.aClause,
  );

  private record = this.RULE(
    "record",
    (): Expr => {
      const fields: { name: Ident; value: Expr }[] = [];
      const first = this.CONSUME(T.LeftBrace);
      this.AT_LEAST_ONE_SEP({
        SEP: T.Comma,
        DEF: () => {
          const name = this.CONSUME(T.Identifier);
          this.CONSUME(T.Colon);
          const value = this.SUBRULE(this.expression);
          this.ACTION(() => fields.push({ name: this.ident(name), value }));
        },
      });
      this.CONSUME(T.RightBrace);
      return this.ACTION(() => ({ kind: "record", fields, span: this.since(first) }));
    },
    this.anExpr,
  );

  private conditional = this.RULE(
    "conditional",
    (): Expr =>
      this.nested(() => {
        const first = this.CONSUME(T.If);
        const condition = this.SUBRULE(this.expression);
        const then = this.SUBRULE(this.block);
        this.CONSUME(T.Else);
        const otherwise = this.OR([
          { ALT: () => this.SUBRULE2(this.block) },
          {
            ALT: (): Block => {
              const value = this.SUBRULE(this.conditional);
              return this.ACTION(() => ({ statements: [], value, span: value.span }));
            },
          },
        ]);
        return this.ACTION(() => ({ kind: "if", condition, then, otherwise, span: this.since(first) }));
      }),
    this.anExpr,
  );

  private choose = this.RULE(
    "choose",
    (): Expr => {
      const first = this.CONSUME(T.Choose);
      const pattern = this.SUBRULE(this.pattern);
      this.CONSUME(T.In);
      const from = this.SUBRULE(this.expression);
      const where = this.OPTION(() => {
        this.CONSUME(T.Where);
        return this.SUBRULE2(this.expression);
      });
      this.CONSUME(T.Minimizing);
      const cost = this.SUBRULE3(this.expression);
      return this.ACTION(() => ({
        kind: "choose",
        pattern,
        from,
        ...(where === undefined ? {} : { where }),
        cost,
        span: this.since(first),
      }));
    },
    this.anExpr,
  );

  private binary(operator: IToken, left: Expr, right: Expr, chain: number): Expr {
    if (chain > maximumChain) throw new TooDeep(operator);
    return {
      kind: "binary",
      operator: operator.image as BinaryOperator,
      operatorSpan: this.spanOf(operator, operator),
      left,
      right,
      span: this.join(left.span, right.span),
    };
  }
}

const escapes: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" };

function unquote(image: string): string {
  return image.slice(1, -1).replace(/\\(.)/g, (_, c: string) => escapes[c] ?? c);
}
