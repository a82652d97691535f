import { activations, type Activation } from "../graph/ops.js";
import { assert } from "../errors.js";
import { erf } from "./erf.js";
import { at, rowOf, type Matrix } from "./matrix.js";

const functions: Record<Activation, (gate: number, up: number) => number> = {
  /** x * sigmoid(x) */
  silu: (x, up) => (x / (1 + Math.exp(-x))) * up,
  /** Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415), tanh approximation. */
  geluTanh: (x, up) =>
    0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))) * up,
  /** x times the normal distribution's cumulative function. */
  gelu: (x, up) => 0.5 * x * (1 + erf(x / Math.SQRT2)) * up,
  /** Of gpt-oss: both are limited, and up counts from -1. */
  clampedSwiglu: (x, up) => {
    const limited = Math.min(x, 7);
    const swish = limited / (1 + Math.exp(-1.702 * limited));
    return swish * (Math.max(-7, Math.min(up, 7)) + 1);
  },
};

/** The activation that an attribute names. */
export function activationOf(attribute: number): Activation {
  const entry = Object.entries(activations).find(([, value]) => value === attribute);
  assert(entry !== undefined, `activation ${attribute} is one of lib/graph/ops.ts`);
  return entry[0] as Activation;
}

/** activation(gate, up), which is activation(gate) * up but for `clampedSwiglu`. */
export function activate(activation: Activation, gate: number, up: number): number {
  return functions[activation](gate, up);
}

/** out = activation(gate) * up */
export function gatedActivation(
  out: Matrix, // [rows, width]
  gate: Matrix, // [rows, width]
  up: Matrix, // [rows, width]
  { activation }: { activation: number },
): void {
  const f = functions[activationOf(activation)];
  for (let row = 0; row < out.rows; row++) {
    const [g, u, target] = [rowOf(gate, row), rowOf(up, row), rowOf(out, row)];
    for (let i = 0; i < out.width; i++) target[i] = f(at(g, i), at(u, i));
  }
}
