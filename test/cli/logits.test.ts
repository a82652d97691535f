import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEngine } from "pagoda-llm";
import { expect, onTestFinished, test } from "vitest";
import { runCli } from "../support/cli.js";
import { demoModel } from "../support/demo.js";

test.each(["auto", "f32"] as const)("writes the engine's logits as float32 (%s)", async (dtype) => {
  const folder = await mkdtemp(join(tmpdir(), "pagoda-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const out = join(folder, "logits.bin");
  const ids = [434, 435, 260, 423, 15];
  const words = ["logits", "--model", demoModel, "--ids", ids.join(","), "--out", out];
  const result = await runCli([...words, "--dtype", dtype]);
  expect(result).toEqual({
    code: 0,
    signal: null,
    stdout: `Wrote float32 [5, 1536] to ${out}\n`,
    stderr: "",
  });
  const bytes = await readFile(out);
  expect(bytes.length).toBe(5 * 1536 * 4);
  const engine = await createEngine({ model: demoModel, dtype });
  const expected = await engine.logits(ids);
  await engine.close();
  for (let i = 0; i < expected.length; i++) {
    if (bytes.readFloatLE(4 * i) !== expected[i]) throw new Error(`Logit ${i} differs`);
  }
});
