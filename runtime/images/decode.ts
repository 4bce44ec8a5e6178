// Decodes a photo to u8 RGB with sharp (libvips), which is loaded when the first photo is. A file is not
// trusted: its format is taken from its first bytes, its size from its header, and both are checked before
// any pixel is decoded. Does not resize or slice: graphs do that.
//
// Note [What a pixel is]
//   EXIF orientation is applied. Grey becomes R = G = B; 16 bits become 8 by dropping the low byte, and CMYK
//   becomes sRGB. Colour profiles are ignored, as in the pipelines that vision models are trained with. Under
//   transparency the stored colours are arbitrary (often black), so pictures are laid over white;
//   `alpha: "drop"` takes the stored colours instead, as Pillow's convert("RGB") does. Of an animation, the
//   first picture counts.

import { ImageError, messageOf } from "../errors.ts";
import { importNode } from "../platform.ts";
import type { Tensor } from "../tensor.ts";
import { readAll, withBytes, type ByteSource } from "../weights/bytes.ts";

export type ImageFormat = "jpeg" | "png" | "webp";

export interface DecodeOptions {
  /** Most pixels (width · height) that are decoded; default 178,956,970, the limit of Pillow. */
  readonly maxPixels?: number | undefined;
  /** What lies under transparency: a colour (default white), or the stored colours. */
  readonly alpha?: "drop" | readonly [red: number, green: number, blue: number] | undefined;
}

export const defaultMaxPixels = 178_956_970;
/** Bytes of a file, at most. */
const maximumFile = 2 ** 29;

/** u8[height, width, 3] */
export interface Photo extends Tensor<"u8"> {
  readonly width: number;
  readonly height: number;
  readonly format: ImageFormat;
}

type Sharp = typeof import("sharp").default;

/** sharp, on first use. Throws ImageError where it is not installed or cannot run. */
export async function loadSharp(): Promise<Sharp> {
  try {
    // Through a variable, so that a browser bundle does not try to contain it.
    const specifier = "sharp";
    const { default: sharp } = (await import(/* @vite-ignore */ specifier)) as { readonly default: Sharp };
    return sharp;
  } catch (cause) {
    throw new ImageError(`photos are decoded with the package "sharp", which cannot be loaded: ${messageOf(cause)}`, { cause });
  }
}

const signatures: readonly (readonly [ImageFormat, (b: Uint8Array) => boolean])[] = [
  ["jpeg", (b) => starts(b, 0, [0xff, 0xd8, 0xff])],
  ["png", (b) => starts(b, 0, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])],
  ["webp", (b) => starts(b, 0, [0x52, 0x49, 0x46, 0x46]) && starts(b, 8, [0x57, 0x45, 0x42, 0x50])],
];

function starts(bytes: Uint8Array, at: number, expected: readonly number[]): boolean {
  return expected.every((b, i) => bytes[at + i] === b);
}

/** The format that a file's first 12 bytes tell. */
function imageFormat(head: Uint8Array): ImageFormat | undefined {
  return signatures.find(([, matches]) => matches(head))?.[0];
}

/** Decodes a path, bytes or a Blob. Throws ImageError that says what is wrong with the file. */
export async function decodeImage(from: string | Uint8Array | Blob, options: DecodeOptions = {}): Promise<Photo> {
  const { name, bytes, format } = await readImage(from);
  const fail = (what: string, options?: ErrorOptions): never => {
    throw new ImageError(`${name}: ${what}`, options);
  };
  const sharp = await loadSharp();
  const maxPixels = options.maxPixels ?? defaultMaxPixels;
  // The header alone is read here, whatever size it states.
  const header = await sharp(bytes, { limitInputPixels: false, pages: 1 })
    .metadata()
    .catch((cause: unknown) => fail(`the ${format} file is damaged: ${messageOf(cause)}`, { cause }));
  if (header.width * header.height > maxPixels) {
    fail(`${header.width}×${header.height} are ${header.width * header.height} pixels, over the limit of ${maxPixels}`);
  }
  const image = sharp(bytes, { limitInputPixels: maxPixels, failOn: "error", ignoreIcc: true, pages: 1 }).autoOrient();
  if (options.alpha === "drop") image.removeAlpha();
  else {
    const [r, g, b] = options.alpha ?? [255, 255, 255];
    image.flatten({ background: { r, g, b } });
  }
  const { data, info } = await image
    .toColourspace("srgb")
    .raw({ depth: "uchar" })
    .toBuffer({ resolveWithObject: true })
    .catch((cause: unknown) => fail(`the ${format} file is damaged or cut short: ${messageOf(cause)}`, { cause }));
  if (info.channels !== 3) fail(`it decoded to ${info.channels} channels instead of 3`);
  const pixels = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { dtype: "u8", shape: [info.height, info.width, 3], data: pixels, width: info.width, height: info.height, format };
}

async function readImage(
  from: string | Uint8Array | Blob,
): Promise<{ readonly name: string; readonly bytes: Uint8Array; readonly format: ImageFormat }> {
  const label = typeof from === "string" ? from : "image";
  try {
    return await withBytes(from, (source) => checked(source, label), label);
  } catch (cause) {
    if (cause instanceof ImageError) throw cause;
    throw new ImageError(`${label}: cannot be read: ${await reasonOf(cause)}`, { cause });
  }
}

/** The whole file, after its first bytes have told that it is an image. */
async function checked(
  source: ByteSource,
  name: string,
): Promise<{ readonly name: string; readonly bytes: Uint8Array; readonly format: ImageFormat }> {
  if (source.size === 0) throw new ImageError(`${name}: the file is empty`);
  const head = new Uint8Array(Math.min(12, source.size));
  await source.read(0, head);
  const format = imageFormat(head);
  if (format === undefined) {
    const found = Array.from(head, (b) => b.toString(16).padStart(2, "0")).join(" ");
    throw new ImageError(`${name}: not a JPEG, PNG or WebP file (it begins with ${found})`);
  }
  if (source.size > maximumFile) throw new ImageError(`${name}: its ${source.size} bytes are over the limit of ${maximumFile}`);
  return { name, bytes: await readAll(source), format };
}

/** "no such file or directory" rather than "ENOENT: no such file or directory, open 'x'". */
async function reasonOf(cause: unknown): Promise<string> {
  if (!(cause instanceof Error) || !("errno" in cause) || typeof cause.errno !== "number") return messageOf(cause);
  const { getSystemErrorMap } = await importNode<typeof import("node:util")>("util");
  return getSystemErrorMap().get(cause.errno)?.[1] ?? cause.message;
}
