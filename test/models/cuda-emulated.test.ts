import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { openModel } from "../../lib/loading/model-directory.js";
import { readWeight } from "../../lib/loading/weights.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { defineModel } from "../../lib/models/registry.js";
import { emulatedDevices } from "../support/devices.js";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { executorKinds } from "../support/executors.js";

checkEnginesAfterEach();

const root = fileURLToPath(new URL("../../", import.meta.url));

interface GreedyCase {
  readonly promptTokenIds: readonly number[];
  readonly outputTokenIds: readonly number[];
}

/** The engine over the sources of the CUDA backend, which an emulator runs on the CPU. */
describe.each(emulatedDevices())("the demo model on $name", ({ name: device }) => {
  it("writes the tokens that Hugging Face code writes, several requests at a time", async () => {
    const { config, checkpoint } = await openModel(`${root}models/demo`);
    const limits = { maxTokens: 24, maxOutputs: 4, dtype: "bf16" } as const;
    const plan = compileModel(defineModel(config), limits);
    const weights = await Promise.all(plan.weights.map((weight) => readWeight(checkpoint, weight)));
    const kinds = await executorKinds({ emulatedGpus: 2 });
    const kind = kinds.find(({ name }) => name === device)!;
    const kv = { numBlocks: 40, blockSize: 16, dtype: "bf16" } as const;
    const executor = await kind.create({ plan, weights, kv, maxRequests: 4, checkpoint });
    const engine = testEngine(executor, { maxModelLen: 128, eosTokenIds: [] });
    const fixture = `${root}test/fixtures/demo-model/greedy.json`;
    const cases = (JSON.parse(await readFile(fixture, "utf8")) as GreedyCase[]).slice(0, 3);
    const maxTokens = 12;
    const texts = await Promise.all(
      cases.map(({ promptTokenIds }) => {
        return engine.generate({ prompt: promptTokenIds, maxTokens, temperature: 0 });
      }),
    );
    expect(texts.map(({ tokenIds }) => tokenIds)).toEqual(
      cases.map(({ outputTokenIds }) => outputTokenIds.slice(0, maxTokens)),
    );
  });
});
