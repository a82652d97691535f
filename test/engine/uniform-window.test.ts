import { expect, it } from "vitest";
import { uniformWindow } from "../../lib/engine/create-engine.js";
import { loadGolden } from "../support/golden.js";

it.each([
  ["hf-tiny/mistral-swa", 16],
  ["hf-tiny/llama", 0],
  ["hf-tiny/gemma3", 0], // only some of its layers have a window
])("of %s is %i", async (name, window) => {
  expect(uniformWindow((await loadGolden(name)).plan)).toBe(window);
});
