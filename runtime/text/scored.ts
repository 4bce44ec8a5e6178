// SentencePiece vocabularies of the pair-merging kind, as LLaMA's: pieces have scores, and of all neighbours that make a
// piece together those with the best piece are merged first. As merges with ranks, which is what the library knows, that is
// every way to cut a piece into two pieces, in the order of the pieces' scores.
//
// Note [Pieces that can be cut in several ways]
//   Ranks are all different, so among two ways to make the same piece the rank decides, where SentencePiece takes the one
//   further left. Among cuts of one piece the order is that of transformers' conversion, by the ids of the two parts.

import { checkModel, sequence, type AddedToken, type BpeModel, type Definition, type Fail, type JsonPart } from "./definition.ts";

/** SentencePiece's kinds of pieces, which are also those of GGUF. */
export const pieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

export interface Piece {
  readonly token: string;
  readonly score: number;
  /** One of `pieceType`. */
  readonly type: number;
}

/** Of a piece of n characters there are n − 1 cuts; longer ones are damage. */
const longestPiece = 4096;

/** Throws through `fail`. */
export function scoredModel(pieces: readonly Piece[], unkToken: string | undefined, fail: Fail): BpeModel {
  const vocab = Object.fromEntries(pieces.map(({ token }, id) => [token, id]));
  const ids = new Map(pieces.map(({ token }, id) => [token, id]));
  const isText = (token: string): number | undefined => {
    const id = ids.get(token);
    // Normal and unused pieces are made by merging; the others stand apart from text.
    const type = id === undefined ? undefined : pieces[id]?.type;
    return type === pieceType.normal || type === pieceType.unused ? id : undefined;
  };
  const merges = pieces.flatMap(({ token, score }) => {
    if (isText(token) === undefined) return [];
    if (token.length > longestPiece) fail(`a token has ${token.length} characters`);
    return cuts(token, isText).map((cut) => ({ ...cut, score }));
  });
  merges.sort((a, b) => b.score - a.score);
  const byteFallback = pieces.some(({ type }) => type === pieceType.byte);
  if (!byteFallback && unkToken === undefined) fail("characters without a token have neither bytes nor an unknown token");
  const model: BpeModel = {
    ...{ vocab, merges: merges.map(({ pair }) => pair), unkToken },
    ...{ fuseUnk: true, byteFallback, ignoreMerges: false },
  };
  checkModel(model, fail);
  return model;
}

interface Cut {
  readonly pair: readonly [string, string];
  readonly ids: readonly [number, number];
}

/** The ways to make `token` of two pieces, by their ids. */
function cuts(token: string, idOf: (token: string) => number | undefined): readonly Cut[] {
  const found: Cut[] = [];
  for (let at = 1; at < token.length; at++) {
    const pair = [token.slice(0, at), token.slice(at)] as const;
    const [left, right] = [idOf(pair[0]), idOf(pair[1])];
    if (left !== undefined && right !== undefined) found.push({ pair, ids: [left, right] });
  }
  return found.sort((a, b) => a.ids[0] - b.ids[0] || a.ids[1] - b.ids[1]);
}

/** Spaces are "▁"; `prefix` puts one before each text. */
export function scoredParts(prefix: boolean): Pick<Definition, "normalizer" | "preTokenizer" | "decoder"> {
  const replace = (from: string, to: string): JsonPart => ({ type: "Replace", pattern: { String: from }, content: to });
  const strip = prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [];
  return {
    normalizer: sequence("normalizers", [...(prefix ? [{ type: "Prepend", prepend: "▁" }] : []), replace(" ", "▁")]),
    preTokenizer: undefined,
    decoder: sequence("decoders", [replace("▁", " "), { type: "ByteFallback" }, { type: "Fuse" }, ...strip]),
  };
}

/** Control and unknown tokens are special; user-defined ones are text that is never cut. */
export function addedTokens(tokens: readonly string[], types: readonly number[]): readonly AddedToken[] {
  return tokens.flatMap((content, id) => {
    const special = types[id] === pieceType.control || types[id] === pieceType.unknown;
    if (content === "" || (!special && types[id] !== pieceType.userDefined)) return [];
    return [{ id, content, special, normalized: false, lstrip: false, rstrip: false }];
  });
}
