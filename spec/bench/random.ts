// Random inputs for the benches: every page touched, no zeros, the same in every run.

import { seededElements } from "../../runtime/weights/init.ts";

/** `count` normal numbers. `name` makes them independent of others. */
export function normals(name: string, count: number, deviation = 1, mean = 0): Float32Array {
  const out = new Float32Array(count);
  seededElements(1, name, { kind: "normal", std: deviation }, 0, out);
  if (mean !== 0) for (let i = 0; i < count; i++) out[i] = mean + (out[i] ?? 0);
  return out;
}

/** Something like a photo: smooth colour with texture and grain, opaque. u8[height, width, channels] */
export function photo(width: number, height: number, channels: 3 | 4): Uint8Array {
  const out = new Uint8Array(width * height * channels);
  const grain = normals("grain", width * height, 12);
  for (let y = 0, at = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++, at += channels) {
      const texture = 30 * Math.sin(x * 0.31) * Math.cos(y * 0.23) + (grain[i] ?? 0);
      for (let c = 0; c < 3; c++) {
        const value = 128 + 60 * Math.sin((x * (c + 1)) / 173 + y / 211) + texture;
        out[at + c] = Math.max(0, Math.min(255, Math.round(value)));
      }
      if (channels === 4) out[at + 3] = 255;
    }
  }
  return out;
}
