// The rules of expressions that bind tightest: literals, names, brackets, `if`, `choose`, and what follows a value (calls,
// subscripts, fields). Operators are in operators.ts.

import type { ParserMethod } from "chevrotain";
import type { Argument, Block, Clause, Expr, Ident, Pattern, Subscript } from "../ast.ts";
import * as T from "../tokens.ts";
import { GrammarBase, maximumChain, TooDeep } from "./base.ts";

export abstract class PrimaryGrammar extends GrammarBase {
  protected abstract expression: ParserMethod<[], Expr>;
  protected abstract block: ParserMethod<[], Block>;
  protected abstract pattern: ParserMethod<[], Pattern>;

  protected postfix = this.RULE(
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
                this.CONSUME(T.LeftBracket);
                const at = this.commaSeparated(this.subscript);
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

  protected arguments = this.RULE(
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
              return this.ACTION(() => ({ kind: "string", value: T.unquote(t.image), span: this.spanOf(t, t) }));
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
      const first = this.CONSUME(T.LeftParen);
      const items = this.commaSeparated(this.expression);
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
}
