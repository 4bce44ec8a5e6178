// Letters and digits as strokes, in several styles, so that pictures of text need no font of the machine and are the same
// everywhere. A glyph is drawn on a grid 4 wide and 6 high; y goes down.

/** Straight strokes, as an SVG path's commands. */
const plain: Readonly<Record<string, string>> = {
  A: "M0 6L2 0L4 6M0.8 4H3.2",
  B: "M0 0V6H3L4 5V4L3 3H0M3 3L3.7 2V1L3 0H0",
  C: "M4 1L3 0H1L0 1V5L1 6H3L4 5",
  D: "M0 0V6H2.5L4 4.5V1.5L2.5 0Z",
  E: "M4 0H0V6H4M0 3H3",
  F: "M4 0H0V6M0 3H3",
  G: "M4 1L3 0H1L0 1V5L1 6H3L4 5V3H2.5",
  H: "M0 0V6M4 0V6M0 3H4",
  I: "M1 0H3M2 0V6M1 6H3",
  J: "M4 0V5L3 6H1L0 5",
  K: "M0 0V6M4 0L0 3.2L4 6",
  L: "M0 0V6H4",
  M: "M0 6V0L2 3L4 0V6",
  N: "M0 6V0L4 6V0",
  O: "M1 0H3L4 1V5L3 6H1L0 5V1Z",
  P: "M0 6V0H3L4 1V2.3L3 3.3H0",
  Q: "M1 0H3L4 1V5L3 6H1L0 5V1ZM2.4 4.4L4.2 6.4",
  R: "M0 6V0H3L4 1V2.3L3 3.3H0M2 3.3L4 6",
  S: "M4 1L3 0H1L0 1V2L1 3H3L4 4V5L3 6H1L0 5",
  T: "M0 0H4M2 0V6",
  U: "M0 0V5L1 6H3L4 5V0",
  V: "M0 0L2 6L4 0",
  W: "M0 0L1 6L2 3L3 6L4 0",
  X: "M0 0L4 6M4 0L0 6",
  Y: "M0 0L2 3L4 0M2 3V6",
  Z: "M0 0H4L0 6H4",
  "0": "M1 0H3L4 1V5L3 6H1L0 5V1ZM0.6 5.2L3.4 0.8",
  "1": "M0.7 1.2L2.2 0V6M0.7 6H3.7",
  "2": "M0 1L1 0H3L4 1V2.2L0 6H4",
  "3": "M0 0H4L1.9 2.4H3L4 3.4V5L3 6H1L0 5",
  "4": "M3 6V0L0 4.2H4",
  "5": "M4 0H0.4L0 2.6H3L4 3.6V5L3 6H1L0 5",
  "6": "M3.6 0H2L0 2.5V5L1 6H3L4 5V3.6L3 2.7H0",
  "7": "M0 0H4L1.4 6",
  "8": "M1 0H3L3.8 0.8V2.2L3 3H1L0.2 2.2V0.8ZM1 3L0 4V5L1 6H3L4 5V4L3 3",
  "9": "M4 3.3H1L0 2.4V1L1 0H3L4 1V3.5L2 6H0.4",
};

/** Another hand: what differs from `plain`. */
const curved: Readonly<Record<string, string>> = {
  A: "M0 6V2Q0 0 2 0Q4 0 4 2V6M0 3.6H4",
  C: "M4 1Q3.4 0 2 0Q0 0 0 3Q0 6 2 6Q3.4 6 4 5",
  D: "M0 0V6H1.6Q4 6 4 3Q4 0 1.6 0Z",
  E: "M3.8 0H1Q0 0 0 1V5Q0 6 1 6H3.8M0 3H3",
  G: "M4 1Q3.4 0 2 0Q0 0 0 3Q0 6 2 6Q4 6 4 3.4H2.4",
  J: "M1.4 0H4V4Q4 6 2 6Q0 6 0 4.4",
  M: "M0 6V1.2Q0 0 1 0Q2 0 2 1.2V4M2 1.2Q2 0 3 0Q4 0 4 1.2V6",
  N: "M0 6V0M0 2Q0.6 0 2 0Q4 0 4 2V6",
  O: "M2 0Q0 0 0 3Q0 6 2 6Q4 6 4 3Q4 0 2 0Z",
  P: "M0 6V0H2.4Q4 0 4 1.7Q4 3.4 2.4 3.4H0",
  Q: "M2 0Q0 0 0 3Q0 6 2 6Q4 6 4 3Q4 0 2 0ZM2.4 4.2L4.2 6.4",
  R: "M0 6V0H2.4Q4 0 4 1.7Q4 3.4 2.4 3.4H0M2 3.4L4 6",
  S: "M3.8 1Q3.4 0 2 0Q0.2 0 0.2 1.5Q0.2 3 2 3Q4 3 4 4.5Q4 6 2 6Q0.4 6 0 5",
  U: "M0 0V4Q0 6 2 6Q4 6 4 4V0",
  W: "M0 0V4.8Q0 6 1 6Q2 6 2 4.8V2M2 4.8Q2 6 3 6Q4 6 4 4.8V0",
  "0": "M2 0Q0 0 0 3Q0 6 2 6Q4 6 4 3Q4 0 2 0ZM0.8 5L3.2 1",
  "2": "M0 1.4Q0.2 0 2 0Q4 0 4 1.8Q4 3 0 6H4",
  "3": "M0.2 0.8Q0.8 0 2 0Q3.8 0 3.8 1.5Q3.8 2.9 1.6 2.9Q4 2.9 4 4.4Q4 6 2 6Q0.4 6 0 5",
  "6": "M3.4 0Q0 1.4 0 4Q0 6 2 6Q4 6 4 4.3Q4 2.7 2 2.7Q0.4 2.7 0 4",
  "7": "M0 0H4Q2 3 1.4 6M1 3H3.6",
  "8": "M2 0Q0.2 0 0.2 1.5Q0.2 2.9 2 2.9Q3.8 2.9 3.8 1.5Q3.8 0 2 0ZM2 2.9Q0 2.9 0 4.5Q0 6 2 6Q4 6 4 4.5Q4 2.9 2 2.9Z",
  "9": "M0.6 6Q4 4.6 4 2Q4 0 2 0Q0 0 0 1.7Q0 3.3 2 3.3Q3.6 3.3 4 2",
};

export interface Style {
  readonly name: string;
  readonly glyphs: "plain" | "curved";
  /** Width of a stroke, where a glyph is 6 high. */
  readonly stroke: number;
  /** Width of a glyph against its own. */
  readonly stretch: number;
  /** Degrees to the right. */
  readonly slant: number;
  readonly cap: "round" | "butt" | "square";
}

export const styles: readonly Style[] = [
  { name: "light", glyphs: "plain", stroke: 0.7, stretch: 1, slant: 0, cap: "round" },
  { name: "bold", glyphs: "plain", stroke: 1.25, stretch: 1.05, slant: 0, cap: "butt" },
  { name: "narrow", glyphs: "curved", stroke: 0.8, stretch: 0.8, slant: 0, cap: "round" },
  { name: "round", glyphs: "curved", stroke: 1.05, stretch: 1.1, slant: 0, cap: "round" },
  { name: "slanted", glyphs: "curved", stroke: 0.85, stretch: 0.95, slant: 12, cap: "square" },
];

/** Every character that can be drawn. */
export const letters = Object.keys(plain);

export interface Drawn {
  /** Pixels that it covers, strokes included. */
  readonly width: number;
  readonly height: number;
  /** The middle of each letter, from the upper left corner. */
  readonly centres: readonly (readonly [x: number, y: number])[];
  /** SVG, its upper left corner at the origin. */
  svg(ink: string, halo: string): string;
}

/** A text whose capitals are `height` pixels high. Throws for a character without a glyph. */
export function drawText(text: string, style: Style, height: number): Drawn {
  const unit = height / 6;
  const advance = 4 * style.stretch + style.stroke + 0.9;
  const lean = Math.tan((style.slant * Math.PI) / 180) * 6;
  const edge = style.stroke / 2 + 0.5;
  const paths = [...text].map((c, i) => {
    const d = (style.glyphs === "curved" ? curved[c] : undefined) ?? plain[c];
    if (d === undefined) throw new RangeError(`there is no glyph for ${JSON.stringify(c)}`);
    return `<path transform="translate(${i * advance} 0) scale(${style.stretch} 1)" d="${d}"/>`;
  });
  const place = `translate(${edge * unit} ${edge * unit}) scale(${unit}) translate(${lean} 0) skewX(${-style.slant})`;
  const layer = (colour: string, width: number): string =>
    `<g transform="${place}" fill="none" stroke="${colour}" stroke-width="${width}" stroke-linecap="${style.cap}" stroke-linejoin="round">${paths.join("")}</g>`;
  return {
    width: Math.ceil((text.length * advance - 0.9 + lean + 2 * edge) * unit),
    height: Math.ceil((6 + 2 * edge) * unit),
    // A slanted letter's middle is moved by half of what its foot is.
    centres: [...text].map((_, i) => [(edge + lean / 2 + i * advance + 2 * style.stretch) * unit, (edge + 3) * unit]),
    svg: (ink, halo) => layer(halo, style.stroke + 0.9) + layer(ink, style.stroke),
  };
}
