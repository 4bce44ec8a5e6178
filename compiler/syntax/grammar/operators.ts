// The rules of operators, loosest first, down to the values of primary.ts.

import type { IToken, ParserMethod, TokenType } from "chevrotain";
import type { BinaryOperator, Expr } from "../ast.ts";
import * as T from "../tokens.ts";
import { maximumChain, TooDeep } from "./base.ts";
import { PrimaryGrammar } from "./primary.ts";

export abstract class OperatorGrammar extends PrimaryGrammar {
  protected expression = this.RULE("expression", (): Expr => this.nested(() => this.SUBRULE(this.disjunction)), this.anExpr);

  private disjunction = this.RULE("disjunction", (): Expr => this.leftToRight(this.conjunction, () => this.CONSUME(T.Or)), this.anExpr);

  private conjunction = this.RULE("conjunction", (): Expr => this.leftToRight(this.negation, () => this.CONSUME(T.And)), this.anExpr);

  private negation = this.RULE("negation", (): Expr => this.prefixed(T.Not, "not", this.negation, this.comparison), this.anExpr);

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

  protected range = this.RULE(
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

  protected additive = this.RULE(
    "additive",
    (): Expr =>
      this.leftToRight(
        this.multiplicative,
        () => this.OR([{ ALT: () => this.CONSUME(T.Plus) }, { ALT: () => this.CONSUME(T.Minus) }]),
        () => !(this.LA(1).tokenType === T.Minus && this.startsLine()),
      ),
    this.anExpr,
  );

  private multiplicative = this.RULE(
    "multiplicative",
    (): Expr =>
      this.leftToRight(this.unary, () =>
        this.OR([
          { ALT: () => this.CONSUME(T.Times) },
          { ALT: () => this.CONSUME(T.FloorDivide) },
          { ALT: () => this.CONSUME(T.Divide) },
          { ALT: () => this.CONSUME(T.Percent) },
          { ALT: () => this.CONSUME(T.MatMul) },
        ]),
      ),
    this.anExpr,
  );

  private unary = this.RULE("unary", (): Expr => this.prefixed(T.Minus, "-", this.unary, this.power), this.anExpr);

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

  /** Operators of one strength, nested to the left; `gate` says where one does not begin a new statement. */
  private leftToRight(operand: ParserMethod<[], Expr>, operator: () => IToken, gate?: () => boolean): Expr {
    let left = this.SUBRULE(operand);
    let chain = 0;
    const more = (): void => {
      const sign = operator();
      const right = this.SUBRULE2(operand);
      this.ACTION(() => (left = this.binary(sign, left, right, ++chain)));
    };
    // Not a spread of options: that made all parsing slower by half.
    this.MANY(gate === undefined ? more : { GATE: gate, DEF: more });
    return left;
  }

  /** An operator before its operand, which is the rule `self` again; without the operator, what binds tighter. */
  private prefixed(token: TokenType, operator: "not" | "-", self: ParserMethod<[], Expr>, tighter: ParserMethod<[], Expr>): Expr {
    return this.nested(() =>
      this.OR([
        {
          ALT: (): Expr => {
            const first = this.CONSUME(token);
            const operand = this.SUBRULE(self);
            return this.ACTION(() => ({ kind: "unary", operator, operand, span: this.since(first) }));
          },
        },
        { ALT: () => this.SUBRULE(tighter) },
      ]),
    );
  }

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
