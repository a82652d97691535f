import {
  blockFormat,
  rowBytes,
  type FileDtype,
  type QuantizedDtype,
} from "../../lib/graph/dtypes.js";
import { halfToNumber } from "../../lib/reference/half.js";
import { dequantize } from "../../lib/reference/dequantize.js";
import type { createRandom } from "../support/random.js";
import type { CaseWeight } from "./op-case.js";

type Random = ReturnType<typeof createRandom>;

/** Where a block has its factors: all other bytes may be any. They are f16, that of MXFP4 is an exponent. */
const halves: Readonly<Record<QuantizedDtype, readonly number[]>> = {
  q8_0: [0],
  q4_0: [0],
  q4_1: [0, 2],
  q5_0: [0],
  q5_1: [0, 2],
  q4_k: [0, 2],
  q5_k: [0, 2],
  q6_k: [208],
  mxfp4: [0],
};
export const quantizedDtypes = Object.keys(halves) as QuantizedDtype[];

/** Random blocks as a file holds them, their factors 2^-e or its negative. */
export function randomWeight(
  random: Random,
  kind: "matrix" | "table",
  dtype: QuantizedDtype,
  rows: number,
  cols: number,
): CaseWeight {
  const bytes = Uint8Array.from({ length: rows * rowBytes(dtype, cols) }, () =>
    random.integer(256),
  );
  // So that values are below 1 or 2.
  const least = dtype === "q6_k" ? 1 : dtype === "q8_0" || dtype.endsWith("k") ? 3 : 8;
  for (let block = 0; block < bytes.length; block += blockFormat(dtype).bytes) {
    for (const at of halves[dtype]) {
      const exponent = least + random.integer(3);
      if (dtype === "mxfp4") bytes[block] = 127 + 4 - exponent;
      else bytes.set([0, 4 * exponent + 128 * random.integer(2)], block + at);
    }
  }
  const data = dequantize(new DataView(bytes.buffer), dtype);
  return { kind, rows, cols, data, file: { dtype: dtype.toUpperCase() as FileDtype, bytes } };
}

/** Random f16 numbers below 1/8 as a file holds them. */
export function randomHalves(random: Random, rows: number, cols: number): CaseWeight {
  const halves = Uint16Array.from({ length: rows * cols }, () => {
    return 0x8000 * random.integer(2) + 0x0400 * random.integer(12) + random.integer(0x0400);
  });
  const data = Float32Array.from(halves, halfToNumber);
  const file = { dtype: "F16" as const, bytes: new Uint8Array(halves.buffer) };
  return { kind: "matrix", rows, cols, data, file };
}
