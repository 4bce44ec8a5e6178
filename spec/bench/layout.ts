// The layout that a slicing policy gives, as the benches read it.

import type { HostValue } from "../../compiler/ir/plan/host.ts";
import { shapeFunction } from "./ours.ts";

export type Pair = readonly [number, number];

export interface Picture {
  /** Columns, rows. */
  readonly patches: Pair;
  /** x0, y0, x1, y1 in the photo. */
  readonly box: readonly [number, number, number, number];
  /** Width, height after resizing. */
  readonly px: Pair;
}

/** Pictures of the `paper` policy, in the order of the visual sequence. */
export function paperPictures(width: number, height: number): readonly Picture[] {
  return list(field(shapeFunction("graphs/slicing.uhd", "paper", [width, height]), "pictures")).map((picture) => {
    const [x0, y0, x1, y1] = numbers(field(picture, "box"));
    return { patches: pair(field(picture, "patches")), px: pair(field(picture, "px")), box: [x0 ?? NaN, y0 ?? NaN, x1 ?? NaN, y1 ?? NaN] };
  });
}

function field(value: HostValue, name: string): HostValue {
  const found = typeof value === "object" && !Array.isArray(value) ? (value as Readonly<Record<string, HostValue>>)[name] : undefined;
  if (found === undefined) throw new Error(`the layout has no ${name}`);
  return found;
}

function list(value: HostValue): readonly HostValue[] {
  if (!Array.isArray(value)) throw new Error("the layout's pictures are no list");
  return value as readonly HostValue[];
}

function numbers(value: HostValue): readonly number[] {
  return list(value).map(Number);
}

function pair(value: HostValue): Pair {
  const [a, b] = numbers(value);
  return [a ?? NaN, b ?? NaN];
}
