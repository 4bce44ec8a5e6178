// Streams of text: pieces join to what decoding at once gives, characters come whole, and a stop string ends the text
// however it is cut into tokens.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { TextError } from "../runtime/errors.ts";
import { streamText, TextStream, type StreamOptions, type TokenBytes } from "../runtime/text/stream.ts";
import { tokenizerFromGguf } from "../runtime/text/tokenizer.ts";
import { property } from "./conformance/property.ts";
import { allBytes, fixture, llamaMetadata, llamaPieces } from "./text-support.ts";

/** Tokens with these bytes, or texts; ids are indices. */
function tokensOf(parts: readonly (string | Uint8Array)[], more: Partial<TokenBytes> = {}): TokenBytes {
  const bytes = parts.map((part) => (typeof part === "string" ? new TextEncoder().encode(part) : part));
  return {
    bytes(id) {
      const found = bytes[id];
      if (found === undefined) throw new TextError(`there is no token ${id}`);
      return found;
    },
    specials: new Set(),
    stripsSpace: false,
    ...more,
  };
}

/** What each token gives, and what the end gives. */
function pieces(parts: readonly (string | Uint8Array)[], options?: StreamOptions, more?: Partial<TokenBytes>): readonly string[] {
  const stream = new TextStream(tokensOf(parts, more), options);
  return [...parts.map((_, id) => stream.push(id)), stream.end()];
}

const bytesOf = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);

describe("characters", () => {
  test("come whole when tokens split them", () => {
    expect(pieces([bytesOf(0xf0), bytesOf(0x9f, 0x91), bytesOf(0x8d, 0x21)])).toEqual(["", "", "👍!", ""]);
  });

  test("that are never finished become U+FFFD at the end, or where another character begins", () => {
    expect(pieces(["a", bytesOf(0xf0, 0x9f)])).toEqual(["a", "", "�"]);
    expect(pieces([bytesOf(0xf0, 0x9f), "b"])).toEqual(["", "�b", ""]);
    expect(pieces([bytesOf(0x80), bytesOf(0xff)])).toEqual(["�", "�", ""]);
  });

  test("of a byte order mark are text, at the beginning too", () => {
    expect(pieces([bytesOf(0xef), bytesOf(0xbb, 0xbf), "x"])).toEqual(["", "\ufeff", "x", ""]);
  });

  test("of byte-fallback tokens come as soon as they are whole", async () => {
    const tokenizer = await tokenizerFromGguf(llamaMetadata(llamaPieces));
    const stream = new TextStream(tokenizer);
    const ids = tokenizer.encode("é👍\n");
    expect(ids.map((id) => stream.push(id))).toEqual(["", "", "", "é", "", "", "", "👍", "\n"]);
    expect(stream.end()).toBe("");
  });
});

describe("any tokens", () => {
  const tokenIds = fc.array(fc.nat(268), { maxLength: 24 });

  test("stream the text that decoding at once gives", async () => {
    const tokenizer = await allBytes();
    property(fc.tuple(tokenIds, fc.boolean()), ([ids, skipSpecials]) => {
      const stream = new TextStream(tokenizer, { skipSpecials });
      const text = ids.map((id) => stream.push(id)).join("") + stream.end();
      expect(text).toBe(tokenizer.decode(ids, { skipSpecials }));
      const kept = ids.filter((id) => !skipSpecials || !tokenizer.specials.has(id));
      expect(text).toBe(Buffer.concat(kept.map((id) => tokenizer.bytes(id))).toString("utf8"));
    });
  });

  test("stream pieces that are Unicode", async () => {
    const tokenizer = await allBytes();
    property(tokenIds, (ids) => {
      const stream = new TextStream(tokenizer, { stop: ["ab", "👍!"] });
      for (const piece of [...ids.map((id) => stream.push(id)), stream.end()]) expect(piece).not.toMatch(/\p{Surrogate}/u);
    });
  });

  /** A text, places to cut its UTF-8, and stop strings that are likely to be in it. */
  const cutText = fc.record({
    text: fc.string({ unit: fc.constantFrom("a", "b", "ab", "é", "👍", "👎", "\n"), maxLength: 20 }),
    cuts: fc.array(fc.nat(80), { maxLength: 30 }),
    stop: fc.array(fc.string({ unit: fc.constantFrom("a", "b", "é", "👍"), minLength: 1, maxLength: 4 }), { maxLength: 3 }),
  });

  test("stream the same text with stop strings, however they cut it", () => {
    property(cutText, ({ text, cuts, stop }) => {
      const bytes = new TextEncoder().encode(text);
      const places = [0, ...[...new Set(cuts.map((cut) => Math.min(cut, bytes.length)))].sort((a, b) => a - b), bytes.length];
      const parts = places.slice(1).map((end, i) => bytes.subarray(places[i], end));
      expect(pieces(parts, { stop }).join("")).toBe(endedByStop(text, stop));
    });
  });

  /** The text before the stop string that is complete after the fewest characters; of several, before the longest. */
  function endedByStop(text: string, stops: readonly string[]): string {
    for (let end = 1; end <= text.length; end++) {
      const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).map((stop) => stop.length);
      if (found.length > 0) return text.slice(0, end - Math.max(...found));
    }
    return text;
  }
});

describe("special tokens", () => {
  const more = { specials: new Set([1]) };
  test("are left out by default, and characters go on behind them", () => {
    expect(pieces(["a", "</s>", "b"], {}, more)).toEqual(["a", "", "b", ""]);
    expect(pieces([bytesOf(0xc3), "</s>", bytesOf(0xa9)], {}, more)).toEqual(["", "", "é", ""]);
  });

  test("are text on request", () => {
    expect(pieces(["a", "</s>", "b"], { skipSpecials: false }, more).join("")).toBe("a</s>b");
  });
});

describe("stop strings", () => {
  test("end the text where they begin, also across tokens", () => {
    const stream = new TextStream(tokensOf(["one ", "USE", "R", ": two", "three"]), { stop: ["USER:"] });
    expect([stream.push(0), stream.push(1), stream.push(2)]).toEqual(["one ", "", ""]);
    expect(stream.stopped).toBeUndefined();
    expect(stream.push(3)).toBe("");
    expect(stream.stopped).toBe("USER:");
    expect([stream.push(4), stream.end()]).toEqual(["", ""]);
  });

  test("hold back what may be their beginning, and let go of what is not", () => {
    expect(pieces(["a</", "s", "b"], { stop: ["</s>"] })).toEqual(["a", "", "</sb", ""]);
    expect(pieces(["a</s"], { stop: ["</s>"] })).toEqual(["a", "</s"]);
    expect(pieces(["aab"], { stop: ["aaab"] })).toEqual(["aab", ""]);
    expect(pieces(["xa", "a"], { stop: ["aaab"] })).toEqual(["x", "", "aa"]);
  });

  test("that are complete at the same place: the longest counts", () => {
    const stream = new TextStream(tokensOf(["xaby"]), { stop: ["b", "ab"] });
    expect([stream.push(0), stream.stopped]).toEqual(["x", "ab"]);
  });

  test("are found in an unfinished character that the end makes U+FFFD", () => {
    expect(pieces(["a", bytesOf(0xc3)], { stop: ["�"] })).toEqual(["a", "", ""]);
  });

  test("may not be empty, or half of a character", () => {
    expect(() => new TextStream(tokensOf([]), { stop: [""] })).toThrow(new TextError("a stop string is empty"));
    expect(() => new TextStream(tokensOf([]), { stop: ["\ud83d"] })).toThrow(TextError);
  });
});

describe("the space at the beginning of a SentencePiece text", () => {
  test("is left out once, unless the text continues another", () => {
    const more = { stripsSpace: true };
    expect(pieces(["", " ", " a"], {}, more)).toEqual(["", "", " a", ""]);
    expect(pieces([" a", " b"], { continues: true }, more)).toEqual([" a", " b", ""]);
    expect(pieces(["a", " b"], {}, more)).toEqual(["a", " b", ""]);
  });
});

describe("a stream", () => {
  test("refuses ids that are no tokens, and tokens after its end", async () => {
    const tokenizer = await tokenizerFromGguf(fixture.byteLevel.metadata);
    const stream = new TextStream(tokenizer);
    expect(() => stream.push(1452)).toThrow(new TextError("there is no token 1452: the vocabulary has 1452"));
    expect(stream.end()).toBe("");
    expect(() => stream.push(20)).toThrow(new TextError("the text has ended: no token can follow"));
    expect(stream.end()).toBe("");
  });
});

describe("a generator of text", () => {
  async function collect(texts: AsyncIterable<string>): Promise<string[]> {
    const all: string[] = [];
    for await (const text of texts) all.push(text);
    return all;
  }

  /** Counts what is taken of it, and remembers whether it was closed. */
  function source(count: number): { ids: AsyncGenerator<number>; taken: () => number; closed: () => boolean } {
    let taken = 0;
    let closed = false;
    async function* ids(): AsyncGenerator<number> {
      try {
        for (let id = 0; id < count; id++) {
          taken++;
          yield id;
        }
      } finally {
        closed = true;
      }
    }
    return { ids: ids(), taken: () => taken, closed: () => closed };
  }

  test("gives pieces that are not empty, and the rest at the end", async () => {
    const parts = ["a", bytesOf(0xc3), bytesOf(0xa9), "", "b<"];
    expect(await collect(streamText(tokensOf(parts), source(5).ids, { stop: ["</s>"] }))).toEqual(["a", "é", "b", "<"]);
    expect(await collect(streamText(tokensOf(parts), [0, 4]))).toEqual(["a", "b<"]);
    expect(await collect(streamText(tokensOf(parts), []))).toEqual([]);
  });

  test("takes no more ids after a stop string, and closes their source", async () => {
    const { ids, taken, closed } = source(10);
    expect(await collect(streamText(tokensOf(["a", "bSTOPc", "d"]), ids, { stop: ["STOP"] }))).toEqual(["a", "b"]);
    expect([taken(), closed()]).toEqual([2, true]);
  });

  test("closes the source when the reader leaves, and passes its errors on", async () => {
    const { ids, taken, closed } = source(10);
    for await (const piece of streamText(tokensOf(["a", "b"]), ids)) {
      expect(piece).toBe("a");
      break;
    }
    expect([taken(), closed()]).toEqual([1, true]);
    await expect(collect(streamText(tokensOf(["a"]), source(3).ids))).rejects.toThrow(new TextError("there is no token 1"));
  });
});
