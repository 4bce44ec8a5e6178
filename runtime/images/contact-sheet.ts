// Draws what a model sees: the overview on the left, the slices on the right in their grid, apart from
// each other and framed. Pictures are cut from the photo, or assembled from the patches a graph made of
// it. Does not decide where slices lie.

import { ImageError, messageOf } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { typeText } from "../tensor.ts";
import { loadSharp } from "./decode.ts";

/** u8[height, width, 3] */
export type Pixels = Tensor<"u8">;

/** One picture: the part of the photo it shows, or its own pixels; and its size as the model sees it. */
export type SheetPicture =
  | {
      readonly k: "crop";
      /** Pixels of the photo: left, top, right, bottom; the last two are one past the end. */
      readonly box: readonly [number, number, number, number];
      readonly width: number;
      readonly height: number;
    }
  | { readonly k: "pixels"; readonly pixels: Pixels };

export interface ContactSheet {
  readonly photo: Pixels;
  readonly grid: { readonly columns: number; readonly rows: number };
  /** In row-major order, columns · rows of them; empty when the photo is not sliced. */
  readonly slices: readonly SheetPicture[];
  readonly overview?: SheetPicture | undefined;
  /** Longest side of the sheet in pixels; pictures shrink together to keep it. Default 1600. */
  readonly maxSide?: number | undefined;
}

const gap = 12;
const frame = 2;
const paper = { r: 250, g: 250, b: 248 };
const ink = { r: 214, g: 76, b: 46 };

interface Placed {
  readonly picture: SheetPicture;
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** A PNG file. Throws ImageError when a box leaves the photo or the number of slices is not that of the grid. */
export async function contactSheet(sheet: ContactSheet): Promise<Uint8Array> {
  const { photo, grid, slices, overview } = sheet;
  const [photoHeight, photoWidth] = sizeOf(photo);
  if (slices.length > 0 && slices.length !== grid.columns * grid.rows) {
    throw new ImageError(`a grid of ${grid.columns}×${grid.rows} has ${grid.columns * grid.rows} slices, not ${slices.length}`);
  }
  const sharp = await loadSharp();
  const raw = { raw: { width: photoWidth, height: photoHeight, channels: 3 as const }, limitInputPixels: false as const };
  const { placed, width, height } = arrange(sheet.maxSide ?? 1600, grid, slices, overview);
  const layers: { input: Buffer; raw: { width: number; height: number; channels: 3 }; left: number; top: number }[] = [];
  try {
    for (const p of placed) {
      const { picture } = p;
      let source: import("sharp").Sharp;
      if (picture.k === "crop") {
        const [left, top, right, bottom] = picture.box;
        if (!(left >= 0 && top >= 0 && left < right && top < bottom && right <= photoWidth && bottom <= photoHeight)) {
          throw new ImageError(`the box ${picture.box.join(", ")} is not inside the photo of ${photoWidth}×${photoHeight}`);
        }
        source = sharp(photo.data, raw).extract({ left, top, width: right - left, height: bottom - top });
      } else {
        const [h, w] = sizeOf(picture.pixels);
        source = sharp(picture.pixels.data, { raw: { width: w, height: h, channels: 3 } });
      }
      const border = { top: frame, bottom: frame, left: frame, right: frame };
      // Two steps: sharp would otherwise extend before it resizes.
      const inner = await source.resize(p.width, p.height, { fit: "fill" }).raw().toBuffer();
      const input = await sharp(inner, { raw: { width: p.width, height: p.height, channels: 3 } })
        .extend({ ...border, background: ink })
        .raw()
        .toBuffer();
      layers.push({
        input,
        raw: { width: p.width + 2 * frame, height: p.height + 2 * frame, channels: 3 },
        left: p.left - frame,
        top: p.top - frame,
      });
    }
    return await sharp({ create: { width, height, channels: 3, background: paper } })
      .composite(layers)
      .png({ compressionLevel: 9 })
      .toBuffer();
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    throw new ImageError(`the contact sheet cannot be drawn: ${messageOf(cause)}`, { cause });
  }
}

/** Places every picture at one common scale, never enlarged. */
function arrange(
  maxSide: number,
  grid: ContactSheet["grid"],
  slices: readonly SheetPicture[],
  overview: SheetPicture | undefined,
): { readonly placed: readonly Placed[]; readonly width: number; readonly height: number } {
  const columns = slices.length > 0 ? grid.columns : 0;
  const rows = slices.length > 0 ? grid.rows : 0;
  const cell = slices
    .map(pictureSize)
    .reduce((a, b) => ({ width: Math.max(a.width, b.width), height: Math.max(a.height, b.height) }), { width: 0, height: 0 });
  const side = overview === undefined ? { width: 0, height: 0 } : pictureSize(overview);
  const apart = overview !== undefined && slices.length > 0 ? 2 * (frame + gap) : 0;
  const between = (n: number): number => Math.max(0, n - 1) * (2 * frame + gap) + 2 * (frame + gap);
  const scale = Math.min(
    1,
    (maxSide - between(columns) - apart) / (side.width + columns * cell.width),
    (maxSide - between(rows)) / Math.max(side.height, rows * cell.height),
  );
  const scaled = (n: number): number => Math.max(1, Math.floor(n * scale));
  const placed: Placed[] = [];
  let left = gap + frame;
  const top = gap + frame;
  let bottom = top;
  const place = (picture: SheetPicture, x: number, y: number): void => {
    const size = pictureSize(picture);
    const p = { picture, left: x, top: y, width: scaled(size.width), height: scaled(size.height) };
    placed.push(p);
    bottom = Math.max(bottom, p.top + p.height);
  };
  if (overview !== undefined) {
    place(overview, left, top);
    left += scaled(side.width) + apart;
  }
  const stepX = scaled(cell.width) + 2 * frame + gap;
  const stepY = scaled(cell.height) + 2 * frame + gap;
  for (const [i, slice] of slices.entries()) place(slice, left + (i % columns) * stepX, top + Math.floor(i / columns) * stepY);
  const right = Math.max(left, ...placed.map((p) => p.left + p.width));
  return { placed, width: right + frame + gap, height: bottom + frame + gap };
}

function pictureSize(picture: SheetPicture): { readonly width: number; readonly height: number } {
  if (picture.k === "crop") return picture;
  const [height, width] = sizeOf(picture.pixels);
  return { width, height };
}

function sizeOf(pixels: Pixels): readonly [height: number, width: number] {
  const [height, width, channels] = pixels.shape;
  if (height === undefined || width === undefined || channels !== 3 || pixels.shape.length !== 3) {
    throw new ImageError(`pixels must be u8[height, width, 3], found ${typeText(pixels.dtype, pixels.shape)}`);
  }
  return [height, width];
}

/**
 * The picture that `columns`·`rows` patches from number `first` show. Patches are u8[T, 3, p, p], or f32 of the same
 * shape: then mean and standard deviation, per channel, are those they were normalised with.
 */
export function pixelsOfPatches(
  patches: Tensor<"u8"> | Tensor<"f32">,
  place: { readonly first: number; readonly columns: number; readonly rows: number },
  normalised?: { readonly mean: readonly [number, number, number]; readonly std: readonly [number, number, number] },
): Pixels {
  const [count, channels, p, q] = patches.shape;
  const { first, columns, rows } = place;
  if (count === undefined || channels !== 3 || p === undefined || p !== q || patches.shape.length !== 4) {
    throw new ImageError(`patches must be [T, 3, p, p], found ${typeText(patches.dtype, patches.shape)}`);
  }
  if (first < 0 || first + columns * rows > count)
    throw new ImageError(`patches ${first}…${first + columns * rows} are not among ${count}`);
  const width = columns * p;
  const data = new Uint8Array(rows * p * width * 3);
  for (let patch = 0; patch < columns * rows; patch++) {
    const x0 = (patch % columns) * p;
    const y0 = Math.floor(patch / columns) * p;
    for (let c = 0; c < 3; c++) {
      const std = normalised?.std[c] ?? 1;
      const mean = normalised?.mean[c] ?? 0;
      const from = ((first + patch) * 3 + c) * p * p;
      for (let i = 0; i < p * p; i++) {
        const value = patches.data[from + i] ?? 0;
        const at = ((y0 + Math.floor(i / p)) * width + x0 + (i % p)) * 3 + c;
        data[at] = patches.dtype === "u8" ? value : Math.min(255, Math.max(0, Math.round((value * std + mean) * 255)));
      }
    }
  }
  return { dtype: "u8", shape: [rows * p, width, 3], data };
}
