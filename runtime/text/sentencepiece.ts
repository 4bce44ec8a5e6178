// Reads a SentencePiece model (tokenizer.model), as LLaMA and Vicuna have it: a protocol buffer with pieces, scores and a
// few settings. Only pair-merging models without a normalisation of their own are known. A file is not trusted: lengths
// are compared with what is left.

import { TextError } from "../errors.ts";
import { isRecord } from "../json.ts";
import { chatTemplateOf, isId, type Definition, type Fail } from "./definition.ts";
import { addedTokens, pieceType, scoredModel, scoredParts, type Piece } from "./scored.ts";

type Field = { readonly wire: "varint"; readonly value: number } | { readonly wire: "bytes"; readonly value: Uint8Array };

/** Numbers of the fields that are read (sentencepiece_model.proto). */
const modelField = { piece: 1, trainer: 2, normalizer: 3 } as const;
const pieceField = { text: 1, score: 2, type: 3 } as const;
const trainerField = { modelType: 3, suffixSpaces: 24, unk: 40, bos: 41, eos: 42, pad: 43 } as const;
const normalizerField = { charsmap: 2, dummyPrefix: 3, removeSpaces: 4, escapeSpaces: 5 } as const;
const pairMerging = 2;

/** `config` is a parsed tokenizer_config.json: BOS and EOS around a text, and the chat template. Throws TextError. */
export function fromSentencePiece(model: Uint8Array, config: unknown, name = "tokenizer.model"): Definition {
  const fail = (what: string): never => {
    throw new TextError(`${name}: ${what}`);
  };
  if (config !== undefined && !isRecord(config)) return fail("its configuration is not an object");
  const pieces: Piece[] = [];
  let trainer = new Map<number, Field>();
  let normalizer = new Map<number, Field>();
  for (const [number, field] of fields(model, fail)) {
    if (field.wire !== "bytes") continue;
    if (number === modelField.piece) pieces.push(pieceOf(field.value, fail));
    if (number === modelField.trainer) trainer = new Map(fields(field.value, fail));
    if (number === modelField.normalizer) normalizer = new Map(fields(field.value, fail));
  }
  if (pieces.length === 0) fail("is not a SentencePiece model: it has no pieces");
  if (integer(trainer, trainerField.modelType, 1) !== pairMerging) fail("only models that merge pairs (BPE) are known here");
  checkNormalizer(trainer, normalizer, fail);

  const id = (field: number, byDefault: number): number | undefined => {
    const value = integer(trainer, field, byDefault);
    if (value < 0) return undefined;
    return isId(value) && value < pieces.length
      ? value
      : fail(`a special token has the id ${value}, and there are ${pieces.length} pieces`);
  };
  const { unk: unkField, bos: bosField, eos: eosField, pad: padField } = trainerField;
  const [unk, bos, eos] = [id(unkField, 0), id(bosField, 1), id(eosField, 2)];
  const tokens = pieces.map(({ token }) => token);
  if (new Set(tokens).size !== tokens.length) fail("a piece is there twice");
  return {
    model: scoredModel(pieces, unk === undefined ? undefined : tokens[unk], fail),
    ...scoredParts(integer(normalizer, normalizerField.dummyPrefix, 1) !== 0),
    added: addedTokens(
      tokens,
      pieces.map(({ type }) => type),
    ),
    prefix: config?.add_bos_token === false || bos === undefined ? [] : [bos],
    suffix: config?.add_eos_token !== true ? [] : [eos ?? fail("its configuration adds an EOS, and there is none")],
    size: pieces.length,
    ...{ bos, eos, unk },
    pad: id(padField, -1) ?? unk,
    ends: eos === undefined ? [] : [eos],
    chatTemplate: chatTemplateOf(config?.chat_template, fail),
  };
}

function checkNormalizer(trainer: ReadonlyMap<number, Field>, normalizer: ReadonlyMap<number, Field>, fail: Fail): void {
  const charsmap = normalizer.get(normalizerField.charsmap);
  if (charsmap?.wire === "bytes" && charsmap.value.byteLength > 0) fail("it has a normalisation of characters, which is not known here");
  if (integer(normalizer, normalizerField.removeSpaces, 1) !== 0) fail("it removes repeated spaces, which is not known here");
  if (integer(normalizer, normalizerField.escapeSpaces, 1) === 0) fail("it does not write spaces as ▁");
  if (integer(trainer, trainerField.suffixSpaces, 0) !== 0) fail("it puts spaces behind words, which is not known here");
}

function pieceOf(bytes: Uint8Array, fail: Fail): Piece {
  const found = new Map(fields(bytes, fail));
  const text = found.get(pieceField.text);
  const score = found.get(pieceField.score);
  if (text?.wire !== "bytes") return fail("a piece has no text");
  return {
    token: utf8(text.value, fail),
    score: score?.wire === "bytes" && score.value.byteLength === 4 ? new DataView(score.value.slice().buffer).getFloat32(0, true) : 0,
    type: integer(found, pieceField.type, pieceType.normal),
  };
}

function utf8(bytes: Uint8Array, fail: Fail): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return fail("a piece is not UTF-8");
  }
}

function integer(message: ReadonlyMap<number, Field>, field: number, byDefault: number): number {
  const found = message.get(field);
  return found?.wire === "varint" ? found.value : byDefault;
}

/** The fields of a message, in order. Numbers of fixed size are their bytes. */
function fields(bytes: Uint8Array, fail: Fail): (readonly [number, Field])[] {
  const found: (readonly [number, Field])[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) return fail("is damaged: it ends within a number");
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return Number(BigInt.asIntN(64, value));
    }
    return fail("is damaged: a number has too many bytes");
  };
  while (at < bytes.byteLength) {
    const tag = varint();
    const wire = tag & 7;
    if (wire === 0) {
      found.push([tag >>> 3, { wire: "varint", value: varint() }]);
      continue;
    }
    const length = wire === 2 ? varint() : wire === 5 ? 4 : wire === 1 ? 8 : fail("is damaged, or not a SentencePiece model");
    if (length < 0 || length > bytes.byteLength - at) fail("is damaged: a field goes past the end");
    found.push([tag >>> 3, { wire: "bytes", value: bytes.subarray(at, at + length) }]);
    at += length;
  }
  return found;
}
