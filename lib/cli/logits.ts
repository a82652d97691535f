import { writeFile } from "node:fs/promises";
import { endianness } from "node:os";
import { defineCommand, type Command } from "./command.js";
import { interruptible } from "./console.js";
import { engineOptions, loadEngine } from "./engine-options.js";
import { integers, required, text } from "./option.js";

export const logits: Command = defineCommand({
  name: "logits",
  about: "Write the logits of every position of a token sequence to a file",
  usage: "logits --model DIR --ids 1,2,3 --out FILE [options]",
  options: {
    model: engineOptions.model,
    ids: required(
      integers(
        { value: "IDS", about: "Token ids, separated by commas" },
        { min: 0, max: 2 ** 31 - 1 },
      ),
    ),
    out: required(
      text({ value: "FILE", about: "Gets float32 [ids, vocabulary], little-endian, row by row" }),
    ),
    device: engineOptions.device,
    dtype: engineOptions.dtype,
    kvCacheDtype: engineOptions.kvCacheDtype,
    threads: engineOptions.threads,
  },
  run: (values, console) =>
    interruptible(console, async (signal) => {
      const engine = await loadEngine(values, console, signal);
      try {
        const result = await engine.logits(values.ids, { signal });
        await writeFile(values.out, littleEndian(result));
        const shape = `[${values.ids.length}, ${engine.info.model.vocabSize}]`;
        await console.write(`Wrote float32 ${shape} to ${values.out}\n`);
        return 0;
      } finally {
        await engine.close();
      }
    }),
});

function littleEndian(values: Float32Array): Uint8Array {
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  return endianness() === "LE" ? bytes : Buffer.from(bytes).swap32();
}
