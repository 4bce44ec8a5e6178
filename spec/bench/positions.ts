// Position tables for the peers' padded batch, apart from the ones that graphs/positions.uhd makes: bicubic
// interpolation (a = -0.75, border clamped) of a square table, and the fixed sine-cosine table.

/** Four taps: places of the table and their weights. */
function taps(from: number, to: number, i: number): readonly (readonly [number, number])[] {
  const a = -0.75;
  const at = ((i + 0.5) * from) / to - 0.5;
  const first = Math.floor(at);
  return [-1, 0, 1, 2].map((offset) => {
    const x = Math.abs(at - first - offset);
    const weight = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    return [Math.min(Math.max(first + offset, 0), from - 1), weight] as const;
  });
}

/** Rows of `table` [side², width], resized to rows × columns, written to `out` from element `begin` on. */
export function interpolate(
  table: Float32Array,
  side: number,
  width: number,
  [columns, rows]: readonly [number, number],
  out: Float32Array,
  begin: number,
): void {
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const to = begin + (y * columns + x) * width;
      for (const [v, b] of taps(side, rows, y)) {
        for (const [u, a] of taps(side, columns, x)) {
          const from = (side * v + u) * width;
          for (let k = 0; k < width; k++) out[to + k] = (out[to + k] ?? 0) + a * b * (table[from + k] ?? 0);
        }
      }
    }
  }
}

/** [side², width]: sin and cos of the column, then of the row, a quarter of the width each. */
export function sineCosine(side: number, width: number): Float32Array {
  const quarter = width / 4;
  const out = new Float32Array(side * side * width);
  for (let i = 0; i < side * side; i++) {
    const [row, column] = [Math.floor(i / side), i % side];
    for (let k = 0; k < quarter; k++) {
      const omega = 10000 ** (-k / quarter);
      const values = [Math.sin(column * omega), Math.cos(column * omega), Math.sin(row * omega), Math.cos(row * omega)];
      values.forEach((value, part) => (out[i * width + part * quarter + k] = value));
    }
  }
  return out;
}
