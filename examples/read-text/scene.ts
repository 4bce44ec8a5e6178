// Pictures of text and questions about them, from a seed: textured scenes of many sizes and aspect ratios with numbers,
// codes and words in several styles, colours, sizes and places. Three splits share no string. Draws with sharp.

import sharp from "sharp";
import { randomStream, type RandomStream } from "../../runtime/train/random.ts";
import { drawText, styles, type Style } from "./glyphs.ts";

export type Split = "train" | "validation" | "test";
export type Kind = "number" | "code" | "word";

export interface PlacedText {
  readonly text: string;
  readonly kind: Kind;
  readonly colour: string;
  readonly style: Style;
  /** Of capitals, in pixels. */
  readonly height: number;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  /** The middle of each letter, from (x, y). */
  readonly centres: readonly (readonly [x: number, y: number])[];
}

export interface Question {
  readonly question: string;
  readonly answer: string;
  /** What it asks for: "read", "colour", "count", "place". */
  readonly about: string;
  /**
   * Height of the text it is about, in pixels, where the whole picture is shrunk by its longer side to a native one. The
   * picture of fixed size is a square: letters in a wide picture become as narrow as this says, though not as low.
   */
  readonly native: number | undefined;
}

export interface Scene {
  readonly width: number;
  readonly height: number;
  readonly texts: readonly PlacedText[];
  readonly questions: readonly Question[];
  readonly svg: string;
}

export const colours: Readonly<Record<string, string>> = {
  red: "#d81e1e",
  green: "#149a2e",
  blue: "#1f3fd0",
  yellow: "#f2d21b",
  white: "#fafafa",
  black: "#101010",
};
/** Pixels a side of a native picture. */
export const native = 112;
const little = [0.4, 1] as const;
/** Most pixels of a scene: six native pictures. */
const largest = 6 * native * native;

const pick = <T>(random: RandomStream, list: readonly T[]): T => {
  const found = list[random.below(list.length)];
  if (found === undefined) throw new RangeError("there is nothing to choose from");
  return found;
};
const between = (random: RandomStream, low: number, high: number): number => low + (random.next() / 2 ** 32) * (high - low);

const onsets = [..."BDFGHKLMNPRSTVZ"];
const vowels = [..."AEIOU"];
const codas = [..."LMNRST"];

function string(random: RandomStream, kind: Kind): string {
  const digit = (): string => String(random.below(10));
  switch (kind) {
    case "number":
      return String(1 + random.below(9)) + digit() + (random.below(2) === 0 ? digit() : "");
    case "code":
      return pick(random, onsets) + digit() + pick(random, onsets) + (random.below(2) === 0 ? digit() : "");
    case "word":
      return pick(random, onsets) + pick(random, vowels) + pick(random, codas) + (random.below(2) === 0 ? pick(random, vowels) : "");
    default:
      return kind satisfies never;
  }
}

/** The only split in which a string occurs: eight tenths are for training. */
export function splitOf(text: string): Split {
  const place = randomStream(1, `split/${text}`).below(10);
  return place < 8 ? "train" : place === 8 ? "validation" : "test";
}

function stringOf(random: RandomStream, kind: Kind, split: Split): string {
  for (;;) {
    const text = string(random, kind);
    if (splitOf(text) === split) return text;
  }
}

/**
 * What a scene is like. "small": one native picture at most with up to five texts, asked for all that is written there and in
 * which colours: every letter teaches something. "crowded": as many texts as fit, in all sizes that the encoder sees when a
 * picture is made larger or smaller for it; no good for questions, which would have several answers.
 */
export type Sort = "plain" | "small" | "crowded";

/** Scene number `index` of a split: the same for the same seed, everywhere. */
export function makeScene(split: Split, seed: number, index: number, sort: Sort = "plain"): Scene {
  const random = randomStream(seed, `${split}/${index}`);
  const aspect = Math.exp(between(random, -1.1, 1.1));
  // In native pictures: of five, one that fits into one, one of middling size, and three that need most of the slices.
  const [least, most] = sort === "small" ? little : pick(random, [little, [1, 4], [4, 6], [4, 6], [4, 6]] as const);
  const area = between(random, least, most) * native * native;
  const width = Math.floor(Math.sqrt(Math.min(area, largest) * aspect));
  const height = Math.floor(Math.sqrt(Math.min(area, largest) / aspect));
  const ground = between(random, 0.25, 0.75);
  const texts = place(random, split, width, height, sort);
  return {
    width,
    height,
    texts,
    questions: sort === "small" ? writtenIn(random, texts, width, height) : questionsOf(random, texts, width, height).slice(0, 6),
    svg: [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}">`,
      background(random, width, height, ground),
      ...texts.map((t) => {
        const drawn = drawText(t.text, t.style, t.height);
        const halo = ["white", "yellow"].includes(t.colour) ? "#202020" : "#f4f4f4";
        return `<g transform="translate(${t.x} ${t.y})">${drawn.svg(colours[t.colour] ?? "#000", halo)}</g>`;
      }),
      "</svg>",
    ].join(""),
  };
}

/** PNG. */
export async function renderScene(scene: Scene): Promise<Uint8Array> {
  return sharp(Buffer.from(scene.svg)).flatten({ background: "#808080" }).png({ compressionLevel: 3 }).toBuffer();
}

function place(random: RandomStream, split: Split, width: number, height: number, sort: Sort): readonly PlacedText[] {
  const most = { plain: 4, small: 5, crowded: 0 }[sort];
  const wanted = sort === "crowded" ? Math.ceil((8 * width * height) / native ** 2) : 1 + random.below(most);
  const placed: (PlacedText & { readonly bottom: number })[] = [];
  for (let tries = 0; placed.length < wanted && tries < 10 * wanted + 20; tries++) {
    const kind = pick<Kind>(random, ["number", "code", "word"]);
    const text = stringOf(random, kind, split);
    const style = pick(random, styles);
    const size = Math.round(between(random, 12, sort === "crowded" ? 24 : 20));
    const drawn = drawText(text, style, size);
    const [roomX, roomY] = [width - drawn.width - 4, height - drawn.height - 4];
    const colour = pick(random, Object.keys(colours));
    if (roomX < 0 || roomY < 0) continue;
    // One text of a kind and one of a string: a question has one answer, but for words, which are counted.
    const single = sort !== "plain" || kind === "word" || placed.every((p) => p.kind !== kind);
    if (!single || placed.some((p) => p.text === text)) continue;
    const free = (x: number, y: number): boolean =>
      placed.every((p) => x > p.x + p.width + 6 || p.x > x + drawn.width + 6 || y > p.bottom + 4 || p.y > y + drawn.height + 4);
    for (let places = 0; places < 16; places++) {
      const [x, y] = [2 + Math.floor(between(random, 0, roomX)), 2 + Math.floor(between(random, 0, roomY))];
      if (!free(x, y)) continue;
      placed.push({ text, kind, colour, style, height: size, x, y, width: drawn.width, centres: drawn.centres, bottom: y + drawn.height });
      break;
    }
  }
  return placed.map(({ bottom: _, ...text }) => text);
}

function background(random: RandomStream, width: number, height: number, ground: number): string {
  const shade = (): string => {
    const base = ground + between(random, -0.14, 0.14);
    const channel = (): number => Math.round(255 * Math.min(1, Math.max(0, base + between(random, -0.07, 0.07))));
    return `rgb(${channel()},${channel()},${channel()})`;
  };
  const at = (size: number): number => Math.round(between(random, -0.1, 1.1) * size);
  const shapes = Array.from({ length: 12 + random.below(18) }, () => {
    const [x, y] = [at(width), at(height)];
    const size = Math.round(between(random, 0.05, 0.4) * Math.max(width, height));
    switch (random.below(3)) {
      case 0:
        return `<circle cx="${x}" cy="${y}" r="${size / 2}" fill="${shade()}"/>`;
      case 1:
        return `<rect x="${x}" y="${y}" width="${size}" height="${Math.round(size * between(random, 0.2, 1.5))}" fill="${shade()}" transform="rotate(${random.below(90)} ${x} ${y})"/>`;
      default:
        return `<path d="M${x} ${y}L${at(width)} ${at(height)}" stroke="${shade()}" stroke-width="${1 + random.below(8)}"/>`;
    }
  });
  return `<rect width="100%" height="100%" fill="${shade()}"/>${shapes.join("")}`;
}

/** "top left" … "middle" … "bottom right", by thirds. */
export function placeName(x: number, y: number, width: number, height: number): string {
  const third = (value: number, size: number): number => Math.min(2, Math.max(0, Math.floor((3 * value) / size)));
  const [column, row] = [["left", "", "right"][third(x, width)] ?? "", ["top", "", "bottom"][third(y, height)] ?? ""];
  return [row, column].filter((w) => w !== "").join(" ") || "middle";
}

function questionsOf(random: RandomStream, texts: readonly PlacedText[], width: number, height: number): readonly Question[] {
  const shrink = Math.min(1, native / Math.max(width, height));
  const about = texts.flatMap((t): Question[] => {
    const only = texts.filter((o) => o.kind === t.kind).length === 1;
    const small = shrink * t.height;
    const where = placeName(t.x + t.width / 2, t.y + t.height / 2, width, height);
    const alone = texts.filter((o) => placeName(o.x + o.width / 2, o.y + o.height / 2, width, height) === where).length === 1;
    return [
      ...(only
        ? [
            { question: `what is the ${t.kind}?`, answer: t.text, about: "read", native: small },
            { question: `what colour is the ${t.kind}?`, answer: t.colour, about: "colour", native: small },
            { question: `where is the ${t.kind}?`, answer: where, about: "place", native: small },
          ]
        : []),
      ...(alone ? [{ question: `what is at the ${where}?`, answer: t.text, about: "place", native: small }] : []),
    ];
  });
  const words = texts.filter((t) => t.kind === "word").length;
  const all = [...about, { question: "how many words?", answer: String(words), about: "count", native: undefined }];
  // A few of them, in an order of chance; what is to be read comes up most.
  const shuffled = all.map((q) => ({ q, key: random.next() - (q.about === "read" ? 2 ** 31 : 0) })).sort((a, b) => a.key - b.key);
  return shuffled.map(({ q }) => q);
}

/**
 * All that is there, line by line, and the colours in the same order; then some of what pictures of every size are asked. A
 * colour and a place are few tokens among many letters: asked of a few pictures only, they are hardly learnt.
 */
function writtenIn(random: RandomStream, texts: readonly PlacedText[], width: number, height: number): readonly Question[] {
  const order = [...texts].sort((a, b) => a.y - b.y || a.x - b.x);
  if (order.length === 0) return [];
  const all = [
    { question: "what is written?", answer: order.map((t) => t.text).join(" "), about: "written", native: undefined },
    { question: "in which colours?", answer: order.map((t) => t.colour).join(" "), about: "written", native: undefined },
  ];
  const others = questionsOf(random, texts, width, height).filter(({ about }) => about !== "read");
  return [...(random.below(2) === 0 ? all : all.reverse()), ...others.slice(0, 2)];
}
