// Whether a device's result is what the reference says, within an op's tolerance. Integers, bools, NaN and
// infinities are compared exactly.

import type { RefTensor, Tolerance } from "../../ops/define.ts";

/** Half the distance of neighbouring numbers near 1: what storing a result in the dtype may add. */
const storing: Readonly<Partial<Record<RefTensor["dtype"], number>>> = { f16: 2 ** -11, bf16: 2 ** -8 };
const largest: Readonly<Partial<Record<RefTensor["dtype"], number>>> = {
  f32: 3.4028235677973366e38,
  f16: 65520,
  bf16: 3.3961775292304957e38,
};

const text = (x: number): string => (Object.is(x, -0) ? "-0" : String(x));

/**
 * The first element where `found` is not `expected`, in words; undefined when there is none. `signedZero`: where the
 * reference is exactly 0 or -0, the sign must agree too.
 */
export function difference(expected: RefTensor, found: RefTensor, tolerance: Tolerance, signedZero: boolean): string | undefined {
  if (found.dtype !== expected.dtype) return `the dtype is ${found.dtype}, not ${expected.dtype}`;
  if (found.shape.join() !== expected.shape.join()) return `the shape is [${found.shape.join(", ")}], not [${expected.shape.join(", ")}]`;
  const float = expected.dtype in largest;
  let scale = 0;
  for (const x of expected.data) if (Number.isFinite(x)) scale = Math.max(scale, Math.abs(x));
  for (const [i, want] of expected.data.entries()) {
    const got = found.data[i] ?? NaN;
    const allowed = float
      ? tolerance.absolute +
        tolerance.relative * (tolerance.ofMax === true ? scale : Math.abs(want)) +
        (storing[expected.dtype] ?? 0) * Math.abs(want) +
        (expected.dtype === "f16" ? 2 ** -25 : 0)
      : 0;
    if (!agrees(want, got, allowed, largest[expected.dtype] ?? Infinity, signedZero && float)) {
      return `element ${i} is ${text(got)}, the reference says ${text(want)} ± ${allowed.toPrecision(2)}`;
    }
  }
  return undefined;
}

function agrees(want: number, got: number, allowed: number, overflow: number, signedZero: boolean): boolean {
  if (Number.isNaN(want) || Number.isNaN(got)) return Number.isNaN(want) && Number.isNaN(got);
  if (want === 0 && got === 0) return !signedZero || Object.is(want, got);
  if (!Number.isFinite(want)) return want === got;
  // Where the exact result is too large for the dtype, or so near that its error may carry it over, infinity is right.
  if (!Number.isFinite(got)) return Math.sign(got) === Math.sign(want) && Math.abs(want) + allowed >= overflow;
  return Math.abs(got - want) <= allowed || Math.abs(got - Math.fround(want)) <= allowed;
}
