import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { blockFormat, type QuantizedDtype } from "../../lib/graph/dtypes.js";
import { dequantize } from "../../lib/reference/dequantize.js";

/** Random blocks and what the `gguf` package of Python (0.19) makes of them, base64 of bytes and of float32. */
type Fixture = Record<QuantizedDtype, { blocks: string; values: string }>;
const fixture = JSON.parse(
  readFileSync(new URL("../fixtures/quantized/blocks.json", import.meta.url), "utf8"),
) as Fixture;

const bytesOf = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, "base64"));

describe("dequantize", () => {
  it.each(Object.keys(fixture) as QuantizedDtype[])("%s: as the gguf package", (dtype) => {
    const blocks = bytesOf(fixture[dtype].blocks);
    const expected = new Float32Array(bytesOf(fixture[dtype].values).buffer);
    const actual = dequantize(new DataView(blocks.buffer), dtype);
    expect(actual.length).toBe(
      (blocks.length / blockFormat(dtype).bytes) * blockFormat(dtype).columns,
    );
    const differing = actual.findIndex((value, i) => Math.abs(value - expected[i]!) > 1e-7);
    expect(differing, `${actual[differing]}, expected ${expected[differing]}`).toBe(-1);
  });

  it("keeps infinities and NaN", () => {
    const block = new Uint8Array(34).fill(1);
    block.set([0x00, 0x7c]);
    expect([...dequantize(new DataView(block.buffer), "q8_0")]).toEqual(Array(32).fill(Infinity));
    block.set([0x01, 0x7c]);
    expect(dequantize(new DataView(block.buffer), "q8_0").every(Number.isNaN)).toBe(true);
  });
});
