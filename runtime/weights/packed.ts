// Numbers to the packed form that a plan asks for, a part at a time: values, scales or minima. Blocks of a GGUF file that
// have the form already are taken apart byte for byte; everything else is read as f32 and rounded here.
//
// Note [Error of packing], for a number x of a block, with u = 2⁻¹¹, half of f16's unit, and e = 2⁻²⁵, half its smallest
// number. Scales and minima are rounded to f16 first, and the values are the nearest for them.
//   q8_0  scale d = max|x|/127                 |x - d·q| ≤ d/2 + 127·(d·u + e)
//   q4_0  scale d = -x/8 of the largest |x|    |x - d·(q - 8)| ≤ |d| + 8·(|d|·u + e): the other sign ends at 7
//   q4_1  m = min x, d = (max x - m)/15        |x - (d·q + m)| ≤ d/2 + 15·(d·u + e) + |m|·u + e
// What has no f16 scale (NaN, infinities, beyond 65504 steps) is refused.

import { blockElements, hasMinima, packedBits, type Packed, type PackedFormat, type PackedPart } from "../../compiler/ir/plan/packed.ts";
import { WeightsError } from "../errors.ts";
import { floatOfHalf, halfOfFloat } from "./convert.ts";
import { readAs, type StoredTensor } from "./stored.ts";

/** Blocks at once: half a million numbers. */
const piece = 2 ** 14;

/** Fills `target` with numbers from `first` on. */
type ReadFloats = (first: number, target: Float32Array) => Promise<void>;

/** Bytes of a part that a block has. */
function partBytes(part: PackedPart, format: PackedFormat): number {
  return part === "values" ? packedBits(format) * 4 : 2;
}

/** Fills `target` with elements first, first + 1, … of the part that `packed` names; both are of whole blocks. */
export async function readPart(stored: StoredTensor, packed: Packed, first: number, target: Uint8Array): Promise<void> {
  const { blocks } = stored;
  if (blocks === undefined || stored.type !== packed.format.toUpperCase()) {
    const floats: ReadFloats = (at, into) =>
      readAs(stored, "f32", at, new Uint8Array(into.buffer, into.byteOffset, into.byteLength), packed.of);
    return packPart(floats, packed, first, target);
  }
  const { format, part } = packed;
  const bytes = partBytes(part, format);
  const from = part === "values" ? (hasMinima(format) ? 4 : 2) : part === "scales" ? 0 : 2;
  // One for all of the call: garbage counts too, while it is there.
  const space = new Uint8Array(Math.min(piece, target.byteLength / bytes) * blocks.bytes);
  await eachPiece(packed, first, target, async (block, count, into) => {
    const raw = space.subarray(0, count * blocks.bytes);
    await blocks.read(block, raw);
    for (let b = 0, at = from, to = 0; b < count; b++, at += blocks.bytes, to += bytes)
      for (let i = 0; i < bytes; i++) into[to + i] = raw[at + i] as number;
  });
}

/** As `readPart`, from numbers. Throws WeightsError for numbers that cannot be packed. */
export async function packPart(read: ReadFloats, packed: Packed, first: number, target: Uint8Array): Promise<void> {
  const { format, part } = packed;
  const bytes = partBytes(part, format);
  const space = new Float32Array(Math.min(piece, target.byteLength / bytes) * blockElements);
  await eachPiece(packed, first, target, async (block, count, into) => {
    const floats = space.subarray(0, count * blockElements);
    await read(block * blockElements, floats);
    const scale = { half: 0, d: 0, minimum: 0, m: 0 };
    for (let b = 0; b < count; b++) {
      measure(format, floats, b * blockElements, scale);
      if (!Number.isFinite(scale.d) || !Number.isFinite(scale.m)) throw cannot(packed, block + b);
      if (part === "values") fillValues(format, floats, b * blockElements, scale, into, b * bytes);
      else {
        const half = part === "scales" ? scale.half : scale.minimum;
        into[b * bytes] = half & 255;
        into[b * bytes + 1] = half >> 8;
      }
    }
  });
}

function cannot({ of, format }: Packed, block: number): WeightsError {
  const message = `tensor ${of}: numbers ${block * blockElements} to ${(block + 1) * blockElements - 1} cannot be packed as ${format}: they are not all finite, or too large for an f16 scale`;
  return new WeightsError(message, { missing: [], extra: [], misshapen: [of] });
}

/** Goes over the blocks that elements from `first` on belong to, a piece at a time. */
async function eachPiece(
  { part, format }: Packed,
  first: number,
  target: Uint8Array,
  fill: (block: number, count: number, into: Uint8Array) => Promise<void>,
): Promise<void> {
  const bytes = partBytes(part, format);
  const elements = part === "values" ? packedBits(format) : 1;
  const [start, count] = [first / elements, target.byteLength / bytes];
  if (!Number.isInteger(start) || !Number.isInteger(count)) throw new RangeError("packed weights are read by whole blocks");
  for (let done = 0; done < count; done += piece) {
    const now = Math.min(piece, count - done);
    await fill(start + done, now, target.subarray(done * bytes, (done + now) * bytes));
  }
}

interface Scale {
  /** f16's bits, and what they are. */
  half: number;
  d: number;
  minimum: number;
  m: number;
}

/** The scale and the minimum of the block at `at`; NaN where it holds one. */
function measure(format: PackedFormat, x: Float32Array, at: number, scale: Scale): void {
  let [least, most, total] = [Infinity, -Infinity, 0];
  const end = at + blockElements;
  for (let i = at; i < end; i++) {
    const v = x[i] as number;
    if (v < least) least = v;
    if (v > most) most = v;
    // Comparisons pass over a NaN.
    total += v;
  }
  scale.minimum = format === "q4_1" ? halfOfFloat(least) : 0;
  scale.m = floatOfHalf(scale.minimum);
  const exact =
    format === "q8_0" ? Math.max(-least, most) / 127 : format === "q4_0" ? (-least >= most ? least : most) / -8 : (most - scale.m) / 15;
  scale.half = halfOfFloat(exact);
  scale.d = total === total ? floatOfHalf(scale.half) : NaN;
}

/** The nearest whole number from 0 to `most`. */
const within = (x: number, most: number): number => (x <= 0 ? 0 : x >= most ? most : (x + 0.5) | 0);

function fillValues(format: PackedFormat, x: Float32Array, at: number, { d, m }: Scale, into: Uint8Array, to: number): void {
  const inverse = d === 0 ? 0 : 1 / d;
  if (format === "q8_0") {
    const size = blockElements;
    for (let i = 0; i < size; i++) into[to + i] = within((x[at + i] as number) * inverse + 127, 254) - 127;
    return;
  }
  const offset = format === "q4_0" ? 8 : 0;
  for (let i = 0; i < 16; i++) {
    const low = within(((x[at + i] as number) - m) * inverse + offset, 15);
    into[to + i] = low | (within(((x[at + i + 16] as number) - m) * inverse + offset, 15) << 4);
  }
}
