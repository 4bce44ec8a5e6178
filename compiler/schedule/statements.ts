// A list of Imp statements that grows line by line, for builders that write their loops by hand. Decides nothing.

import { assign, bind, loop, typeOfImp } from "../ir/imp/build.ts";
import type { ImpExpr, ImpStmt } from "../ir/imp/types.ts";

export type Local = Extract<ImpExpr, { k: "var" }>;

export class Statements {
  readonly list: ImpStmt[] = [];
  readonly #fresh: (hint: string) => string;

  constructor(fresh: (hint: string) => string) {
    this.#fresh = fresh;
  }

  /** A list for the inside of a statement of this one. */
  nested(): Statements {
    return new Statements(this.#fresh);
  }

  push(...statements: readonly ImpStmt[]): void {
    this.list.push(...statements);
  }

  /** A name for a value. Constants and names stay what they are. */
  keep(hint: string, value: ImpExpr): ImpExpr {
    return value.k === "const" || value.k === "var" || value.k === "dim" ? value : this.#declare(hint, value, false);
  }

  mutable(hint: string, value: ImpExpr): Local {
    return this.#declare(hint, value, true);
  }

  set(to: Local, value: ImpExpr): void {
    this.list.push(assign(to.name, value));
  }

  loop(hint: string, from: ImpExpr, to: ImpExpr, step: number, body: (at: ImpExpr, inside: Statements) => void): void {
    const [name, inside] = [this.#fresh(hint), this.nested()];
    body({ k: "var", name, type: "i32" }, inside);
    this.list.push(loop(name, from, to, step, inside.list));
  }

  #declare(hint: string, value: ImpExpr, mutable: boolean): Local {
    const name = this.#fresh(hint);
    this.list.push(bind(name, value, mutable));
    return { k: "var", name, type: typeOfImp(value) };
  }
}
