// A picture as an application has it, and as a graph takes it. Files are decoded by decode.ts.

import { ImageError } from "../errors.ts";
import type { Tensor } from "../tensor.ts";
import { decodeImage } from "./decode.ts";

/** A file's path (Node), its bytes or Blob, or pixels: u8[height, width, 3]. */
export type Picture = string | Uint8Array | Blob | Tensor<"u8">;

/** Throws ImageError for a file that is not a photo, and for anything that is no picture. */
export async function pixelsOf(picture: unknown): Promise<Tensor<"u8">> {
  if (typeof picture === "string" || picture instanceof Uint8Array || picture instanceof Blob) return decodeImage(picture);
  if (!isPixels(picture)) throw new ImageError("a picture is a path, bytes, a Blob, or pixels as a tensor, u8[height, width, 3]");
  return picture;
}

function isPixels(picture: unknown): picture is Tensor<"u8"> {
  if (typeof picture !== "object" || picture === null || !("data" in picture) || !("shape" in picture)) return false;
  return picture.data instanceof Uint8Array && Array.isArray(picture.shape) && picture.shape.length === 3;
}

/** RGB as it is, or with an opaque fourth channel. */
export function withChannels({ dtype, shape, data }: Tensor<"u8">, channels: number): Tensor<"u8"> {
  const [height = 0, width = 0, own = 0] = shape;
  if (own === channels) return { dtype, shape, data };
  if (own !== 3 || channels !== 4) throw new ImageError(`a photo of ${own} channels was given to a graph that takes ${channels}`);
  const opaque = new Uint8Array(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) opaque.set(data.subarray(3 * i, 3 * i + 3), 4 * i);
  return { dtype, shape: [height, width, 4], data: opaque };
}
