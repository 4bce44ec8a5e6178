// Operators and scalar constants as text, for Kernel IR and Imp IR: writing, and reading what was written.

import type { Cursor } from "./cursor.ts";
import { numberText } from "./text.ts";

/** Operations that give a truth value for each pair of operands. */
export const comparisons: ReadonlySet<string> = new Set(["eq", "ne", "lt", "le", "gt", "ge"]);

/** How an operation between its operands is written, and how tightly it binds. All associate to the left. */
interface Infix {
  readonly sign: string;
  /** Of levels 0 and 1 there is one in a row at most. */
  readonly level: 0 | 1 | 2 | 3;
}

/** Operations that are not here are written like calls. */
const infix = {
  mul: { sign: "*", level: 3 },
  div: { sign: "/", level: 3 },
  add: { sign: "+", level: 2 },
  sub: { sign: "-", level: 2 },
  eq: { sign: "==", level: 1 },
  ne: { sign: "!=", level: 1 },
  lt: { sign: "<", level: 1 },
  le: { sign: "<=", level: 1 },
  gt: { sign: ">", level: 1 },
  ge: { sign: ">=", level: 1 },
  and: { sign: "&&", level: 0 },
  or: { sign: "||", level: 0 },
  bitand: { sign: "&", level: 0 },
  bitor: { sign: "|", level: 0 },
  bitxor: { sign: "^", level: 0 },
  shl: { sign: "<<", level: 0 },
  shr: { sign: ">>", level: 0 },
  shru: { sign: ">>>", level: 0 },
} as const satisfies Readonly<Record<string, Infix>>;

type InfixOp = keyof typeof infix;

function isInfix(op: string): op is InfixOp {
  return Object.hasOwn(infix, op);
}

/**
 * The text of a binary operation where `level` and above may stand without parentheses (0: anything). `operand`
 * writes an operand for a place of the given level.
 */
export function binaryText<E>(op: string, a: E, b: E, level: number, operand: (e: E, level: number) => string): string {
  if (!isInfix(op)) return `${op}(${operand(a, 0)}, ${operand(b, 0)})`;
  const form: Infix = infix[op];
  const text = `${operand(a, form.level >= 2 ? form.level : form.level + 1)} ${form.sign} ${operand(b, form.level + 1)}`;
  return form.level < level ? `(${text})` : text;
}

const signs = Object.entries(infix)
  .map(([op, { sign, level }]) => ({ op: op as InfixOp, sign, level, pattern: new RegExp(sign.replace(/[*+|^]/g, "\\$&"), "y") }))
  // `<<` and `<=` before `<`.
  .sort((a, b) => b.sign.length - a.sign.length);

/** Operands joined by operators of `level` and above. */
export function readBinary<E>(c: Cursor, level: number, operand: () => E, join: (op: InfixOp, a: E, b: E) => E): E {
  let left = operand();
  let atMost = 3;
  for (;;) {
    const next = signs.find(({ pattern }) => c.sees(pattern));
    if (next === undefined || next.level < level) return left;
    if (next.level > atMost) c.fail("parentheses around one of the operations");
    c.need(next.sign);
    left = join(next.op, left, readBinary(c, next.level + 1, operand, join));
    atMost = next.level < 2 ? next.level - 1 : next.level;
  }
}

/** `true`, `4` (i32), `4.0` (f32), or with the type before it where it is none of these: `i32#0.5`. */
export function constantText(type: string, value: number): string {
  const text = numberText(value);
  if (type === "bool" && (Object.is(value, 0) || value === 1)) return value === 1 ? "true" : "false";
  if (type === "f32") return /^-?\d+$/.test(text) ? `${text}.0` : text;
  return type === "i32" && /^-?\d+$/.test(text) && text !== "-0" ? text : `${type}#${text}`;
}

export const constantStart = /-?\d|-?Infinity\b|NaN\b|true\b|false\b/y;

/** A constant without its type before it. */
export function readConstant(c: Cursor): { readonly type: "f32" | "i32" | "bool"; readonly value: number } {
  if (c.take("true")) return { type: "bool", value: 1 };
  if (c.take("false")) return { type: "bool", value: 0 };
  const integer = c.match(/-?\d+(?![\d.e])|-?\d+(?=\.\.)/y);
  return integer === undefined ? { type: "f32", value: c.number() } : { type: "i32", value: Number(integer) };
}
