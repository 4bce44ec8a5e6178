// The error function in float64 to a relative error near 1e-15: its Taylor series where that converges without
// cancellation, the continued fraction of erfc elsewhere.

const twoOverRootPi = 2 / Math.sqrt(Math.PI);

/** erf(x) = 2/√π · ∫₀ˣ exp(-t²) dt. NaN gives NaN; ±infinity gives ±1; -0 gives -0. */
export function erf(x: number): number {
  if (Number.isNaN(x) || x === 0) return x;
  const magnitude = Math.abs(x);
  if (magnitude > 6) return Math.sign(x);
  return magnitude < 2.5 ? series(x) : Math.sign(x) * (1 - complement(magnitude));
}

/** exp(-x²)·2x/√π · Σ (2x²)ⁿ / (1·3·5…(2n+1)): every term is positive, so nothing cancels. */
function series(x: number): number {
  const square = x * x;
  let term = 1;
  let sum = 1;
  for (let n = 1; term > sum * 1e-18; n++) {
    term *= (2 * square) / (2 * n + 1);
    sum += term;
  }
  return twoOverRootPi * x * Math.exp(-square) * sum;
}

/** erfc(x) for x ≥ 2.5: exp(-x²)/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …)))), from the tail forward. */
function complement(x: number): number {
  let fraction = 0;
  for (let n = 80; n >= 1; n--) fraction = n / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}
