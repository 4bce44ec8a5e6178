// What other languages' habits look like to the grammar, and how the same is written here: helps of syntax errors.
// Looks at the words around the error alone; knows no names.

import type { IToken } from "chevrotain";
import {
  Arrow,
  Assign,
  Colon,
  Comma,
  Divide,
  FloorDivide,
  For,
  Identifier,
  LeftBrace,
  LeftParen,
  Minus,
  Plus,
  RightBrace,
  Semicolon,
  Times,
} from "./tokens.ts";

/** For characters that no word of the language has. */
export function lexicalSlip(found: string): string {
  if (found.startsWith("'") || found.startsWith("`")) return 'strings are written with "';
  return meant.find(([start]) => found.startsWith(start))?.[1] ?? "remove it";
}

const meant: readonly (readonly [start: string, help: string])[] = [
  ["&&", "write and"],
  ["||", "write or"],
  ["!", "write not"],
  ["^", "a power is written **"],
  ["?", "a choice is written if condition { a } else { b }"],
];

/** The help for an error at a word; undefined where no habit is known. `open` is the bracket it stands in. */
export function grammarSlip(tokens: readonly IToken[], at: number, open: IToken | undefined): string | undefined {
  const found = tokens[at];
  if (found === undefined) return undefined;
  const [previous, next] = [tokens[at - 1], tokens[at + 1]];
  const isFirst = (found.startLine ?? 0) > (previous?.endLine ?? 0);
  const inCall = open?.tokenType === LeftParen;
  const { tokenType } = found;
  if (isFirst && (tokenType === FloorDivide || (tokenType === Divide && next?.tokenType === Times))) return "comments begin with #";
  for (const i of [at, at - 1]) {
    const word = tokens[i];
    const help = word?.tokenType === Identifier && startsStatement(tokens, i) ? words.get(word.image) : undefined;
    if (help !== undefined) return help;
  }
  if (tokenType === For && !inCall) return words.get("for");
  if (tokenType === Assign && isAdjacent(previous, found) && [Plus, Minus, Times, Divide].includes(previous?.tokenType ?? Assign))
    return `there is no ${previous?.image ?? ""}=: write x = x ${previous?.image ?? ""} …, where var x`;
  if (tokenType === Assign && inCall && previous?.tokenType === Identifier) return `an argument's name has a colon: ${previous.image}: …`;
  if (isKeyword(found) && inCall && next?.tokenType === Colon)
    return `${found.image} is a word of the language and names no argument; dimensions of operations are axis and axes`;
  if (isKeyword(found) && next?.tokenType === Assign) return `${found.image} is a word of the language: take another name`;
  if (tokenType === Comma && open === undefined && isAfterArrow(tokens, at)) return "several results stand in parentheses: -> (a: …, b: …)";
  if (tokenType === Colon && open?.tokenType !== LeftParen) return "a block stands in { }";
  return undefined;
}

/** Words of other languages, which are names here. */
const words: ReadonlyMap<string, string> = new Map([
  ["return", "the last expression of a block is its value: leave return out"],
  ["for", "statements are repeated by repeat i in 0..n { … }; [f(x) for x in list] makes a list"],
  ["while", "statements are repeated by repeat i in 0..n { … }"],
  ["elif", "write else if"],
  ["def", functions()],
  ["function", functions()],
  ["func", functions()],
  ["class", "what has parameters is a module"],
  ["struct", "what has fields is type Name = { a: int, … }"],
]);

function functions(): string {
  return "shape code is fn name(a: int) -> int { … }; what computes with tensors is a module with a forward";
}

function startsStatement(tokens: readonly IToken[], at: number): boolean {
  const before = tokens[at - 1];
  const ends = [LeftBrace, RightBrace, Semicolon];
  return before === undefined || ends.includes(before.tokenType) || (before.endLine ?? 0) < (tokens[at]?.startLine ?? 0);
}

function isAdjacent(a: IToken | undefined, b: IToken): boolean {
  return a?.endOffset !== undefined && a.endOffset + 1 === b.startOffset;
}

const isKeyword = (token: IToken): boolean => token.tokenType.name.startsWith("Keyword_");

/** Whether a signature's arrow came before a word, with neither its block nor its value begun since. */
function isAfterArrow(tokens: readonly IToken[], at: number): boolean {
  const arrow = tokens.findLastIndex((t, i) => i < at && t.tokenType === Arrow);
  return arrow >= 0 && !tokens.slice(arrow, at).some((t) => t.tokenType === LeftBrace || t.tokenType === Assign);
}
