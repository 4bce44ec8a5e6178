// Photos in: what a pixel is, and files that are not what they say. Made with sharp itself where that proves
// something, byte by byte where it would not.

import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { afterAll, describe, expect, test } from "vitest";
import { ImageError } from "../runtime/errors.ts";
import { contactSheet, pixelsOfPatches, type SheetPicture } from "../runtime/images/contact-sheet.ts";
import { decodeImage, defaultMaxPixels } from "../runtime/images/decode.ts";
import type { Tensor } from "../runtime/tensor.ts";

const photos = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../examples/photos");
const folder = mkdtempSync(path.join(tmpdir(), "uhd-images-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const raw = (
  width: number,
  height: number,
  channels: 1 | 2 | 3 | 4,
): { raw: { width: number; height: number; channels: 1 | 2 | 3 | 4 } } => ({ raw: { width, height, channels } });

/** The checksum of PNG chunks; node:zlib has it only from Node 20.15 on. */
function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) * 0xedb88320);
  }
  return ~crc >>> 0;
}

/** A PNG of any stated size whose pixels are `data`, compressed: sharp would refuse to write a false one. */
function png(width: number, height: number, data: Uint8Array): Uint8Array {
  const chunk = (type: string, body: Uint8Array): Buffer => {
    const named = Buffer.concat([Buffer.from(type, "latin1"), body]);
    const frame = Buffer.alloc(4);
    frame.writeUInt32BE(body.length);
    const check = Buffer.alloc(4);
    check.writeUInt32BE(crc32(named));
    return Buffer.concat([frame, named, check]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10]),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(data)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

describe("decoding", () => {
  test("reads every example photo as u8[height, width, 3]", async () => {
    const sizes: Record<string, string> = {};
    for (const name of readdirSync(photos).filter((n) => !n.endsWith(".md") && n !== "contact-sheet.png")) {
      const photo = await decodeImage(path.join(photos, name));
      expect(photo.data.length).toBe(photo.width * photo.height * 3);
      expect(photo.shape).toEqual([photo.height, photo.width, 3]);
      sizes[name] = `${photo.format} ${photo.width}×${photo.height}`;
    }
    expect(sizes).toEqual({
      "astronaut-portrait.jpg": "jpeg 330×512",
      "chelsea.png": "png 451×300",
      "coffee.webp": "webp 600×400",
      "hubble-wide.jpg": "jpeg 1000×240",
      "hubble.jpg": "jpeg 1000×872",
      "rocket.jpg": "jpeg 640×427",
    });
  });

  test("keeps the pixels of a lossless file", async () => {
    const data = Uint8Array.from({ length: 5 * 4 * 3 }, (_, i) => (i * 37) % 256);
    for (const file of [
      await sharp(data, raw(5, 4, 3))
        .png()
        .toBuffer(),
      await sharp(data, raw(5, 4, 3))
        .webp({ lossless: true })
        .toBuffer(),
    ]) {
      expect((await decodeImage(file)).data).toEqual(data);
    }
  });

  test("applies each of the eight EXIF orientations", async () => {
    // Left to right 1 2 3 / 4 5 6, and what a viewer shows for each orientation.
    const shown: Readonly<Record<number, readonly (readonly number[])[]>> = {
      1: [
        [1, 2, 3],
        [4, 5, 6],
      ],
      2: [
        [3, 2, 1],
        [6, 5, 4],
      ],
      3: [
        [6, 5, 4],
        [3, 2, 1],
      ],
      4: [
        [4, 5, 6],
        [1, 2, 3],
      ],
      5: [
        [1, 4],
        [2, 5],
        [3, 6],
      ],
      6: [
        [4, 1],
        [5, 2],
        [6, 3],
      ],
      7: [
        [6, 3],
        [5, 2],
        [4, 1],
      ],
      8: [
        [3, 6],
        [2, 5],
        [1, 4],
      ],
    };
    const data = Uint8Array.from([1, 2, 3, 4, 5, 6].flatMap((v) => [v * 40, v * 40, v * 40]));
    for (const [orientation, rows] of Object.entries(shown)) {
      const file = await sharp(data, raw(3, 2, 3))
        .withMetadata({ orientation: Number(orientation) })
        .png()
        .toBuffer();
      const photo = await decodeImage(file);
      expect(photo.shape).toEqual([rows.length, rows[0]?.length, 3]);
      expect([...photo.data].filter((_, i) => i % 3 === 0).map((v) => v / 40)).toEqual(rows.flat());
    }
  });

  test("repeats grey in all channels, in 8 and in 16 bits, and drops the low byte", async () => {
    const grey = await sharp(Uint8Array.from([0, 7, 255]), raw(3, 1, 1))
      .png()
      .toBuffer();
    expect([...(await decodeImage(grey)).data]).toEqual([0, 0, 0, 7, 7, 7, 255, 255, 255]);
    const deep = Uint16Array.from([0, 255, 256, 32767, 32768, 65535]);
    const grey16 = await sharp(deep, raw(6, 1, 1))
      .toColourspace("grey16")
      .png()
      .toBuffer();
    expect((await sharp(grey16).metadata()).depth).toBe("ushort");
    expect([...(await decodeImage(grey16)).data]).toEqual([0, 0, 1, 127, 128, 255].flatMap((v) => [v, v, v]));
    const rgb16 = await sharp(deep, raw(2, 1, 3))
      .toColourspace("rgb16")
      .png()
      .toBuffer();
    expect([...(await decodeImage(rgb16)).data]).toEqual([0, 0, 1, 127, 128, 255]);
  });

  test("lays transparency over white, over a colour, or takes the stored colours", async () => {
    const file = await sharp(Uint8Array.from([10, 20, 30, 0, 40, 50, 60, 255, 100, 100, 100, 128]), raw(3, 1, 4))
      .png()
      .toBuffer();
    const over = async (alpha?: "drop" | readonly [number, number, number]): Promise<number[]> => [
      ...(await decodeImage(file, { alpha })).data,
    ];
    expect(await over()).toEqual([255, 255, 255, 40, 50, 60, 177, 177, 177]);
    expect((await over([0, 0, 255])).slice(0, 6)).toEqual([0, 0, 255, 40, 50, 60]);
    expect(await over("drop")).toEqual([10, 20, 30, 40, 50, 60, 100, 100, 100]);
    const greyAlpha = await sharp(Uint8Array.from([10, 0, 20, 255]), raw(2, 1, 2))
      .png()
      .toBuffer();
    expect([...(await decodeImage(greyAlpha)).data]).toEqual([255, 255, 255, 20, 20, 20]);
  });

  test("turns CMYK into three channels", async () => {
    const file = await sharp(new Uint8Array(16 * 16 * 3).fill(128), raw(16, 16, 3))
      .toColourspace("cmyk")
      .jpeg()
      .toBuffer();
    expect((await decodeImage(file)).shape).toEqual([16, 16, 3]);
  });

  test("takes the first picture of an animation", async () => {
    const frames = Uint8Array.from({ length: 4 * 8 * 3 }, (_, i) => (i < 4 * 4 * 3 ? 10 : 240));
    const file = await sharp(frames, { raw: { width: 4, height: 8, channels: 3, pageHeight: 4 } })
      .webp({ lossless: true })
      .toBuffer();
    const photo = await decodeImage(file);
    expect(photo.shape).toEqual([4, 4, 3]);
    expect(photo.data.every((v) => v === 10)).toBe(true);
  });

  test("takes the smallest and the thinnest images", async () => {
    for (const [width, height] of [
      [1, 1],
      [1, 10_000],
      [10_000, 1],
    ] as const) {
      const file = await sharp(new Uint8Array(width * height * 3).fill(9), raw(width, height, 3))
        .png()
        .toBuffer();
      expect((await decodeImage(file)).shape).toEqual([height, width, 3]);
    }
  });
});

describe("bad files", () => {
  const refused = async (from: string | Uint8Array, message: string | RegExp, options = {}): Promise<void> => {
    const error: unknown = await decodeImage(from, options).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ImageError);
    expect((error as ImageError).message).toMatch(message);
  };

  test("empty, missing and non-image files each say what they are", async () => {
    const empty = path.join(folder, "empty.jpg");
    writeFileSync(empty, "");
    await refused(empty, /empty\.jpg: the file is empty/);
    await refused(new Uint8Array(), "image: the file is empty");
    await refused(path.join(folder, "missing.jpg"), /missing\.jpg: cannot be read: no such file or directory/);
    await refused(folder, /cannot be read: .*(not a file|illegal operation)/);
    await refused(
      new TextEncoder().encode("<svg xmlns='http://www.w3.org/2000/svg'/>"),
      /not a JPEG, PNG or WebP file \(it begins with 3c 73 76 67/,
    );
    await refused(new Uint8Array([0xff]), /not a JPEG, PNG or WebP file \(it begins with ff\)/);
  });

  test("files cut short anywhere are refused, not completed with grey", async () => {
    const data = Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => (i * i) % 251);
    const encoded = {
      jpeg: await sharp(data, raw(64, 64, 3))
        .jpeg()
        .toBuffer(),
      png: await sharp(data, raw(64, 64, 3))
        .png()
        .toBuffer(),
      webp: await sharp(data, raw(64, 64, 3))
        .webp()
        .toBuffer(),
    };
    for (const [format, file] of Object.entries(encoded)) {
      for (const share of [0.02, 0.3, 0.7, 0.95]) {
        const cut = path.join(folder, `cut.${format}`);
        writeFileSync(cut, file);
        truncateSync(cut, Math.max(13, Math.floor(file.length * share)));
        await refused(cut, /cut\.\w+: the (jpeg|png|webp) file is damaged/);
      }
    }
  });

  test("bytes that were changed give an error or an image, never a crash", async () => {
    const file = await sharp(new Uint8Array(32 * 32 * 3).fill(77), raw(32, 32, 3))
      .jpeg()
      .toBuffer();
    for (let i = 3; i < file.length; i += 7) {
      const damaged = new Uint8Array(file);
      damaged[i] = (damaged[i] ?? 0) ^ 0x5a;
      const result = await decodeImage(damaged, { maxPixels: 1e6 }).catch((e: unknown) => e);
      if (result instanceof Error) expect(result).toBeInstanceOf(ImageError);
    }
  });

  test("a decompression bomb is refused by its header, quickly, and the limit is said", async () => {
    const bomb = png(60_000, 60_000, new Uint8Array(1 << 20));
    const before = process.memoryUsage().rss;
    const start = performance.now();
    await refused(bomb, new RegExp(`60000×60000 are 3600000000 pixels, over the limit of ${defaultMaxPixels}`));
    expect(performance.now() - start).toBeLessThan(2000);
    expect(process.memoryUsage().rss - before).toBeLessThan(100 * 2 ** 20);
    await refused(png(20_000, 20_000, new Uint8Array(1 << 20)), /20000×20000 are 400000000 pixels, over the limit/);
    await refused(png(10, 10, new Uint8Array(310)), /over the limit of 99/, { maxPixels: 99 });
  });

  test("a header that promises more pixels than the file has is refused", async () => {
    await refused(png(2000, 2000, new Uint8Array(100)), /the png file is damaged/);
  });
});

describe("the contact sheet", () => {
  test("shows the slices in their grid, apart from each other", async () => {
    // Four quarters of one colour each, so that the sheet shows where every slice went.
    const colours = [
      [200, 10, 10],
      [10, 200, 10],
      [10, 10, 200],
      [200, 200, 10],
    ] as const;
    const side = 40;
    const data = new Uint8Array(side * side * 3);
    for (let i = 0; i < side * side; i++) data.set(colours[(i % side < 20 ? 0 : 1) + (i < (side * side) / 2 ? 0 : 2)] ?? [], i * 3);
    const crop = (x: number, y: number): SheetPicture => ({ k: "crop", box: [x, y, x + 20, y + 20], width: 30, height: 30 });
    const file = await contactSheet({
      photo: { dtype: "u8", shape: [side, side, 3], data },
      grid: { columns: 2, rows: 2 },
      slices: [crop(0, 0), crop(20, 0), crop(0, 20), crop(20, 20)],
      overview: { k: "crop", box: [0, 0, 40, 40], width: 30, height: 30 },
    });
    const { data: out, info } = await sharp(file).raw().toBuffer({ resolveWithObject: true });
    const at = (x: number, y: number): readonly number[] => [
      ...out.subarray((y * info.width + x) * info.channels, (y * info.width + x) * info.channels + 3),
    ];
    const left = 14 + 30 + 4 + 24;
    const step = 30 + 4 + 12;
    expect([at(left + 15, 29), at(left + step + 15, 29), at(left + 15, 29 + step), at(left + step + 15, 29 + step)]).toEqual(colours);
    expect(at(left + 30 + 8, 29)).toEqual([250, 250, 248]);
    expect(at(18, 18)).toEqual(colours[0]);
    expect(info.width).toBe(left + step + 30 + 14);
  });

  test("shrinks to the longest side, and works without slices or for one thin picture", async () => {
    const photo: Tensor<"u8"> = { dtype: "u8", shape: [10, 4000, 3], data: new Uint8Array(120_000) };
    const file = await contactSheet({
      photo,
      grid: { columns: 1, rows: 1 },
      slices: [],
      overview: { k: "crop", box: [0, 0, 4000, 10], width: 4000, height: 10 },
      maxSide: 500,
    });
    const { width, height } = await sharp(file).metadata();
    expect(width).toBeLessThanOrEqual(500);
    expect(width).toBeGreaterThan(400);
    expect(height).toBeGreaterThan(1);
  });

  test("refuses boxes outside the photo and the wrong number of slices", async () => {
    const photo: Tensor<"u8"> = { dtype: "u8", shape: [4, 4, 3], data: new Uint8Array(48) };
    const slice: SheetPicture = { k: "crop", box: [0, 0, 5, 4], width: 4, height: 4 };
    await expect(contactSheet({ photo, grid: { columns: 1, rows: 1 }, slices: [slice] })).rejects.toThrow("not inside the photo of 4×4");
    await expect(contactSheet({ photo, grid: { columns: 2, rows: 1 }, slices: [slice] })).rejects.toThrow(
      "a grid of 2×1 has 2 slices, not 1",
    );
  });

  test("puts patches back together, u8 and normalised", () => {
    // 2×1 patches of 2×2 pixels; channel values tell patch, channel, y and x.
    const value = (t: number, c: number, y: number, x: number): number => t * 100 + c * 10 + y * 2 + x;
    const u8 = new Uint8Array(24);
    for (let t = 0; t < 2; t++) for (let c = 0; c < 3; c++) for (let i = 0; i < 4; i++) u8[t * 12 + c * 4 + i] = value(t, c, i >> 1, i & 1);
    const pixels = pixelsOfPatches({ dtype: "u8", shape: [2, 3, 2, 2], data: u8 }, { first: 0, columns: 2, rows: 1 });
    expect(pixels.shape).toEqual([2, 4, 3]);
    for (let y = 0; y < 2; y++)
      for (let x = 0; x < 4; x++) for (let c = 0; c < 3; c++) expect(pixels.data[(y * 4 + x) * 3 + c]).toBe(value(x >> 1, c, y, x & 1));
    const mean = [0.48, 0.46, 0.41] as const;
    const std = [0.27, 0.26, 0.28] as const;
    const f32 = Float32Array.from(u8, (v, i) => (v / 255 - (mean[Math.floor(i / 4) % 3] ?? 0)) / (std[Math.floor(i / 4) % 3] ?? 1));
    expect(
      pixelsOfPatches({ dtype: "f32", shape: [2, 3, 2, 2], data: f32 }, { first: 0, columns: 2, rows: 1 }, { mean, std }).data,
    ).toEqual(pixels.data);
    expect(() => pixelsOfPatches({ dtype: "u8", shape: [2, 3, 2, 2], data: u8 }, { first: 1, columns: 2, rows: 1 })).toThrow(ImageError);
  });
});
