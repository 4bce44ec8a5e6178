// Deterministic test data that spec/oracle/generator.py makes alike: weights by name, images by size. That file says
// which numbers and why. Does not know any graph.

function mix(x: number): number {
  let h = x ^ (x >>> 16);
  h = Math.imul(h, 0x7feb352d);
  h ^= h >>> 15;
  h = Math.imul(h, 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

function fnv1a(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

/** What the elements in [-1, 1) of a tensor are multiplied by, and what is added. */
function scaling(name: string, shape: readonly number[]): { readonly by: number; readonly plus: number } {
  if (name.endsWith("bias")) return { by: 0.1, plus: 0 };
  if (name.includes("norm") || name.includes("layrnorm") || name.includes(".ln_")) return { by: 0.2, plus: 1 };
  const table = (name.includes("embedding") && !name.includes("patch")) || name.includes("separators") || name.endsWith("query");
  if (table) return { by: 0.5, plus: 0 };
  return { by: Math.sqrt(3 / shape.slice(1).reduce((a, b) => a * b, 1)), plus: 0 };
}

/** The elements of the parameter `name`, as f32. */
export function weight(name: string, shape: readonly number[]): Float32Array {
  const { by, plus } = scaling(name, shape);
  const base = fnv1a(name);
  const out = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < out.length; i++) out[i] = plus + by * ((2 * (mix((i + base) | 0) >>> 8)) / 2 ** 24 - 1);
  return out;
}

/** u8[height, width, channels]: blocks of 4×4 random colours, with a gradient. A fourth channel is noise. */
export function image(width: number, height: number, channels = 3, seed = 1): Uint8Array {
  const out = new Uint8Array(width * height * channels);
  let next = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        const block = mix((((y >> 2) * 4099 + (x >> 2)) * 3 + c + seed * 7919) | 0) >>> 24;
        out[next++] = c === 3 ? block : Math.floor((block * 3 + Math.floor((x * 255) / width)) / 4);
      }
    }
  }
  return out;
}
