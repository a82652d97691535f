import { activations, type Activation } from "../graph/ops.js";
import { assert } from "../errors.js";
import { erf } from "./erf.js";
import { at, rowOf, type Matrix } from "./matrix.js";

const functions: Record<Activation, (x: number) => number> = {
  /** x * sigmoid(x) */
  silu: (x) => x / (1 + Math.exp(-x)),
  /** Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415), tanh approximation. */
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  /** x times the normal distribution's cumulative function. */
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
};

/** out = activation(gate) * up */
export function gatedActivation(
  out: Matrix, // [rows, width]
  gate: Matrix, // [rows, width]
  up: Matrix, // [rows, width]
  { activation }: { activation: number },
): void {
  const apply = Object.entries(activations).find(([, value]) => value === activation);
  assert(apply !== undefined, `activation ${activation} is one of lib/graph/ops.ts`);
  const f = functions[apply[0] as Activation];
  for (let row = 0; row < out.rows; row++) {
    const [g, u, target] = [rowOf(gate, row), rowOf(up, row), rowOf(out, row)];
    for (let i = 0; i < out.width; i++) target[i] = f(at(g, i)) * at(u, i);
  }
}
