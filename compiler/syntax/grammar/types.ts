// The rules of types and of the dimensions of tensors.

import type { DimExpr, Ident, TypeExpr } from "../ast.ts";
import * as T from "../tokens.ts";
import { OperatorGrammar } from "./operators.ts";

export abstract class TypeGrammar extends OperatorGrammar {
  protected type = this.RULE(
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
                const element = this.SUBRULE2(this.type);
                this.CONSUME2(T.RightBracket);
                return this.ACTION(() => ({ kind: "list", element, span: this.since(first) }));
              },
            },
            {
              ALT: (): TypeExpr => {
                const first = this.CONSUME(T.LeftParen);
                const items = this.commaSeparated(this.type);
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
}
