import { createHash } from "node:crypto";

/**
 * Makes the rows of a tensor: uniform around its mean with its standard deviation. A row depends on the seed, the tensor's
 * name (of a stack of experts, that in GGUF) and its number alone, so that rows may be written in any order and every format
 * holds the same model.
 */
export function randomRows(seed, { name, gguf, mean, std }) {
  const seeded = `${seed} ${typeof name === "string" ? name : gguf}`;
  const hash = createHash("sha256").update(seeded).digest();
  const [start, step] = [hash.readInt32LE(0), hash.readInt32LE(4) | 1];
  const scale = (std * Math.sqrt(12)) / 2 ** 32;
  return (row, out) => {
    let counter = (start + Math.imul(row, step)) | 0;
    for (let i = 0; i < out.length; i++) {
      counter = (counter + 0x6d2b79f5) | 0;
      let z = counter ^ row;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      out[i] = mean + (z ^ (z >>> 15)) * scale;
    }
  };
}
