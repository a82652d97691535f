import { philox4x32 } from "../../lib/reference/philox.js";

/** Numbers that depend on the seed alone. */
export interface Random {
  /** In (0, 1). */
  uniform(): number;
  /** In [0, below). */
  integer(below: number): number;
  /** Normally distributed float32. */
  normals(count: number, scale?: number): Float32Array;
}

export function createRandom(seed: number): Random {
  let counter = 0;
  const uniform = (): number => {
    const words = philox4x32([counter++, 0, 0, 0], [seed >>> 0, 0]);
    return ((words[0] >>> 8) + 0.5) / 2 ** 24;
  };
  const normal = (): number =>
    Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return {
    uniform,
    integer: (below) => Math.floor(uniform() * below),
    normals: (count, scale = 1) => Float32Array.from({ length: count }, () => scale * normal()),
  };
}
