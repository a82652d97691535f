import { expect, it } from "vitest";
import { planToString } from "../../lib/graph/plan-to-string.js";
import { readConfig } from "../../lib/loading/config.js";
import { compileModel } from "../../lib/models/model-definition.js";
import { defineModel } from "../../lib/models/registry.js";
import { goldenDirectory } from "../support/golden.js";

/** One of each family, as text: a change of a model or of the compiler shows as a reviewable difference. */
const models = [
  "hf-extra/llama-tied-bias",
  "hf-tiny/mistral-swa",
  "hf-extra/qwen2-window",
  "hf-tiny/qwen3",
  "hf-extra/phi3-partial",
  "hf-extra/gemma3-old-keys",
  "hf-tiny/mixtral",
  "hf-tiny/qwen3-moe",
  "hf-tiny/gpt-oss",
  "hf-extra/deepseek-v2-groups",
  "hf-tiny/deepseek-v3-yarn",
];

it.each(models)("the plan of %s", async (name) => {
  const config = await readConfig(goldenDirectory(name));
  const plan = compileModel(defineModel(config), { maxTokens: 32, maxOutputs: 8, dtype: "bf16" });
  await expect(planToString(plan)).toMatchFileSnapshot(`plans/${name.split("/")[1]}.txt`);
});

it("plans are data", async () => {
  const config = await readConfig(goldenDirectory("hf-tiny/llama"));
  const compile = (): unknown =>
    compileModel(defineModel(config), { maxTokens: 8, maxOutputs: 8, dtype: "f32" });
  expect(structuredClone(compile())).toEqual(compile());
});
