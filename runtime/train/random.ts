// The random numbers of training: what they are depends on a seed, a purpose and a count alone, so that a run that is
// resumed has nothing to restore but the seed. Does not make weights (weights/init.ts).

/** Numbers of one purpose. `next` is an integer of 0…2³² − 1. */
export interface RandomStream {
  next(): number;
  /** An integer of 0…n − 1, each as likely as the others; n is at most 2³². */
  below(n: number): number;
}

function mix(x: number): number {
  let h = x ^ (x >>> 16);
  h = Math.imul(h, 0x7feb352d);
  h ^= h >>> 15;
  h = Math.imul(h, 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}

function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return mix(h);
}

/** The stream of `purpose`, e.g. "order:3": other purposes and seeds have other numbers. */
export function randomStream(seed: number, purpose: string): RandomStream {
  const [a, b] = [hash(`${seed}/${purpose}`), hash(`${purpose}/${seed}`)];
  let count = 0;
  const next = (): number => mix(mix((count++ + a) | 0) ^ b);
  return {
    next,
    below(n) {
      // The part of the range that is no multiple of n would favour small numbers.
      const most = 2 ** 32 - (2 ** 32 % n);
      for (;;) {
        const value = next();
        if (value < most) return value % n;
      }
    },
  };
}

/** 0…n − 1 in an order that the stream decides (Fisher and Yates). */
export function permutation(n: number, random: RandomStream): number[] {
  const list = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [list[i], list[j]] = [list[j] ?? 0, list[i] ?? 0];
  }
  return list;
}
