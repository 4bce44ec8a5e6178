// A photo to the pictures of the `paper` policy: ours resizes as Pillow does, normalises and cuts into patches; sharp
// resizes the same regions to the same sizes (kernel "cubic") and gives raw pixels.

import type { LayoutPicture } from "../../../compiler/cli/layout.ts";
import { paperPictures } from "../layout.ts";
import { compileBench, openSession, outputOf, u8, variant } from "../ours.ts";
import { photo } from "../random.ts";
import { effort, versus, type Context, type Opened } from "../versus.ts";
import type { Case } from "./case.ts";

const [width, height] = [1920, 1080] as const;
const patch = 14;
const mean = [0.48145466, 0.4578275, 0.40821073] as const;
const deviation = [0.26862954, 0.26130258, 0.27577711] as const;

export const preprocesses: readonly Case[] = [preprocess(4), preprocess(3)];

function preprocess(channels: 3 | 4): Case {
  const name = `1920×1080 ${channels === 4 ? "RGBA" : "RGB"} to all pictures`;
  return {
    name,
    threads: [2],
    run: async (context: Context) => {
      const pixels = photo(width, height, channels);
      const image = u8([height, width, channels], pixels);
      const compiled = compileBench("graphs/preprocess.uhd", "preprocess", { channels, policy: "paper" });
      await using session = await openSession(compiled, context.threads);
      const ours = {
        name: "ours",
        run: () => session.run({ image }),
        result: await outputOf(session, { image }),
        variant: variant(),
      };
      const pictures = paperPictures(width, height);
      const peer = {
        name: "sharp",
        goal: 1,
        // Not Pillow's numbers: where the photo shrinks by more than 2, libvips averages whole pixels first.
        tolerance: 0.05,
        open: () => openSharp(pixels, channels, pictures, context.threads),
      };
      return await versus(name, context, ours, [peer], effort(context, 5));
    },
  };
}

/** Two threads can share each picture, or take pictures in turn: whichever is faster here stands for sharp. */
async function openSharp(pixels: Uint8Array, channels: 3 | 4, pictures: readonly LayoutPicture[], threads: number): Promise<Opened> {
  const { default: sharp } = await import("sharp");
  const resized = ({ box: [x0, y0, x1, y1], px }: LayoutPicture): Promise<Uint8Array> =>
    sharp(pixels, { raw: { width, height, channels } })
      .extract({ left: x0, top: y0, width: x1 - x0, height: y1 - y0 })
      .resize(px[0], px[1], { kernel: "cubic", fit: "fill" })
      .raw()
      .toBuffer();
  const together = async (): Promise<readonly Uint8Array[]> => {
    sharp.concurrency(1);
    return Promise.all(pictures.map(resized));
  };
  const inTurn = async (): Promise<readonly Uint8Array[]> => {
    sharp.concurrency(threads);
    const out: Uint8Array[] = [];
    for (const picture of pictures) out.push(await resized(picture));
    return out;
  };
  // Results must be made, not remembered.
  sharp.cache(false);
  const [fast, note] =
    (await best(together)) <= (await best(inTurn))
      ? ([together, "sharp: pictures side by side"] as const)
      : ([inTurn, "sharp: one picture after the other"] as const);
  return {
    name: `sharp ${sharp.versions.sharp ?? ""}`.trim(),
    note,
    run: fast,
    result: async () => normalised(await fast(), pictures, channels),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Milliseconds, after a first run. */
async function best(run: () => Promise<unknown>): Promise<number> {
  await run();
  let least = Infinity;
  for (let i = 0; i < 4; i++) {
    const begin = performance.now();
    await run();
    least = Math.min(least, performance.now() - begin);
  }
  return least;
}

/** What the graph makes of the pictures: patches in raster order, each (channel, y, x), normalised. */
function normalised(resized: readonly Uint8Array[], pictures: readonly LayoutPicture[], channels: number): Float32Array {
  const out = new Float32Array(pictures.reduce((n, { patches }) => n + patches[0] * patches[1], 0) * 3 * patch * patch);
  let at = 0;
  pictures.forEach(({ patches: [columns, rows], px }, p) => {
    const pixels = resized[p] ?? new Uint8Array();
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        for (let c = 0; c < 3; c++)
          for (let y = row * patch; y < (row + 1) * patch; y++)
            for (let x = column * patch; x < (column + 1) * patch; x++)
              out[at++] = ((pixels[(y * px[0] + x) * channels + c] ?? NaN) / 255 - (mean[c] ?? NaN)) / (deviation[c] ?? NaN);
  });
  return out;
}
