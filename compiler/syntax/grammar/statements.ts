// The rules of blocks, the statements in them, and patterns; `use` and `state` too, which stand among statements.

import type { Block, Expr, Pattern, StateItem, Statement, UseItem } from "../ast.ts";
import * as T from "../tokens.ts";
import { TypeGrammar } from "./types.ts";

type LetStatement = Extract<Statement, { kind: "let" }>;

export abstract class StatementGrammar extends TypeGrammar {
  /** After a statement: `;`, a new line, or the end of the block. */
  protected separator = this.RULE("separator", (): void => {
    this.OPTION({
      GATE: () => !this.startsLine() && this.LA(1).tokenType !== T.RightBrace,
      DEF: () => this.CONSUME(T.Semicolon),
    });
  });

  protected block = this.RULE(
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

  protected letStatement = this.RULE("letStatement", (): LetStatement => {
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

  protected useItem = this.RULE("useItem", (): UseItem => {
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

  protected pattern = this.RULE(
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
              const first = this.CONSUME(T.LeftParen);
              const items = this.commaSeparated(this.pattern);
              this.CONSUME(T.RightParen);
              return this.ACTION(() => ({ kind: "tuple", items, span: this.since(first) }));
            },
          },
        ]),
      ),
    this.aPattern,
  );
}
