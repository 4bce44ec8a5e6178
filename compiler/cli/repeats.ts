// Finds what repeats in a list, so that 23 equal layers are shown once. Pure; knows nothing of kernels.

/** `items` occurs `times` times in a row, first at index `at`. */
interface Run<T> {
  readonly at: number;
  readonly items: readonly T[];
  readonly times: number;
}

const longestBlock = 64;

/** Cuts `items` into runs of blocks with equal keys; at each place the block that covers most, the shortest of those. */
export function repeats<T>(items: readonly T[], keyOf: (item: T) => string): readonly Run<T>[] {
  const keys = items.map(keyOf);
  const runs: Run<T>[] = [];
  for (let at = 0; at < items.length;) {
    let best = { length: 1, times: 1 };
    for (let length = 1; length <= Math.min(longestBlock, (items.length - at) / 2); length++) {
      const times = timesOf(keys, at, length);
      if (times > 1 && times * length > best.times * best.length) best = { length, times };
    }
    runs.push({ at, items: items.slice(at, at + best.length), times: best.times });
    at += best.length * best.times;
  }
  return runs;
}

function timesOf(keys: readonly string[], at: number, length: number): number {
  let end = at + length;
  while (end < keys.length && keys[end] === keys[end - length]) end++;
  return Math.floor((end - at) / length);
}
