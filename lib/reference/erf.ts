/**
 * The error function 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x, to about 1e-15: its Taylor series for small x (all
 * terms of 2 / sqrt(pi) * x * exp(-x^2) * sum (2 x^2)^n / (1 * 3 * ... * (2 n + 1)) are positive), else the continued
 * fraction of its complement. Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.6 and 7.1.14.
 */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (Number.isNaN(x)) return NaN;
  const magnitude = a < 2.5 ? series(a) : 1 - complement(a);
  return x < 0 ? -magnitude : magnitude;
}

function series(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

function complement(x: number): number {
  if (x > 6) return 0; // below 2^-53
  let fraction = x;
  for (let n = 120; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / (Math.sqrt(Math.PI) * fraction);
}
