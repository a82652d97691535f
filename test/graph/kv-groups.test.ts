import { describe, expect, it } from "vitest";
import {
  elementsPerToken,
  groupKvLayers,
  kvSlots,
  shapeText,
  type WindowedLayer,
} from "../../lib/graph/kv-groups.js";
import { loadGolden } from "../support/golden.js";

const shape = { numKvHeads: 2, headDim: 8 };

/** Layers with these windows, 0: none. */
function layers(...windows: readonly number[]): WindowedLayer[] {
  const { numKvHeads, headDim } = shape;
  return windows.map((slidingWindow) => ({ numKvHeads, headDim, slidingWindow }));
}

/** `count` layers of which each `period`-th sees all tokens. */
function pattern(count: number, period: number): WindowedLayer[] {
  return layers(...Array.from({ length: count }, (_, i) => ((i + 1) % period === 0 ? 0 : 512)));
}

describe("layers of one window", () => {
  it.each([0, 4096])("are one group with a slot each (window %i)", (window) => {
    const { kvGroups, kvLayers } = groupKvLayers(layers(window, window, window));
    expect(kvGroups).toEqual([{ slidingWindow: window }]);
    const { numKvHeads, headDim } = shape;
    expect(kvLayers).toEqual(
      [0, 1, 2].map((slot) => {
        return { numKvHeads, headDim, group: 0, slot };
      }),
    );
  });

  it("may differ in shape", () => {
    const [one, other] = layers(64, 64);
    const { kvGroups, kvLayers } = groupKvLayers([one!, { ...other!, headDim: 16 }]);
    expect(kvGroups).toEqual([{ slidingWindow: 64 }]);
    expect(kvSlots({ kvLayers })).toEqual([shape, { ...shape, headDim: 16 }]);
  });

  it("may be latent caches, which take a row a token", () => {
    const latent = { numKvHeads: 1, headDim: 576, latentDim: 512 };
    const { kvLayers } = groupKvLayers([{ ...latent, slidingWindow: 0 }]);
    expect(kvLayers).toEqual([{ ...latent, group: 0, slot: 0 }]);
    expect(kvSlots({ kvLayers })).toEqual([latent]);
    expect(elementsPerToken(latent)).toBe(576);
    expect(elementsPerToken(shape)).toBe(2 * 2 * 8);
    expect([latent, shape].map(shapeText)).toEqual(["512+64", "2x8"]);
  });

  it("may be none", () => {
    expect(groupKvLayers([])).toEqual({ kvGroups: [{ slidingWindow: 0 }], kvLayers: [] });
  });
});

describe("layers of several windows", () => {
  it.each([
    // layers, of which each n-th sees all; slots; groups; slots that no layer uses
    [6, 6, 1, 6, 0], // the gemma3 of the tests
    [26, 6, 4, 7, 2], // gemma3 1B: 4 full layers, 22 with a window
    [34, 6, 5, 7, 1], // 4B
    [48, 6, 8, 6, 0], // 12B
    [62, 6, 10, 7, 8], // 27B
    [24, 2, 12, 2, 0], // as many of both
    [21, 2, 11, 2, 1], // 10 and 11: one group each
    [5, 5, 1, 5, 0],
  ])("%i, each %i. full: %i slots, %i groups", (count, period, slots, groups, unused) => {
    const { kvGroups, kvLayers } = groupKvLayers(pattern(count, period));
    expect(kvSlots({ kvLayers })).toEqual(Array.from({ length: slots }, () => shape));
    expect(kvGroups).toHaveLength(groups);
    expect(slots * groups - kvLayers.length).toBe(unused);
    const places = kvLayers.map(({ group, slot }) => group * slots + slot);
    expect(new Set(places).size).toBe(count);
    for (const [i, { group }] of kvLayers.entries()) {
      expect(kvGroups[group]!.slidingWindow).toBe((i + 1) % period === 0 ? 0 : 512);
    }
  });

  it("may be more than two", () => {
    const { kvGroups, kvLayers } = groupKvLayers(layers(0, 8, 8, 32, 0, 32));
    expect(kvGroups).toEqual([0, 8, 32].map((slidingWindow) => ({ slidingWindow })));
    expect(kvLayers.map(({ group, slot }) => [group, slot])).toEqual([
      [0, 0],
      [1, 0],
      [1, 1],
      [2, 0],
      [0, 1],
      [2, 1],
    ]);
  });

  it("keep all tokens where their shapes differ", () => {
    const [full, windowed] = layers(0, 16);
    const { kvGroups, kvLayers } = groupKvLayers([full!, { ...windowed!, numKvHeads: 4 }]);
    expect(kvGroups).toEqual([{ slidingWindow: 0 }]);
    expect(kvLayers.map(({ group, slot }) => [group, slot])).toEqual([
      [0, 0],
      [0, 1],
    ]);
  });
});

it.each([
  ["hf-tiny/mistral-swa", [16]],
  ["hf-tiny/llama", [0]],
  ["hf-tiny/deepseek-v3", [0]],
  ["hf-tiny/gemma3", [16, 16, 16, 16, 16, 0]],
])("the windows of %s are %j", async (name, windows) => {
  const { kvGroups } = (await loadGolden(name)).plan;
  expect(kvGroups.map(({ slidingWindow }) => slidingWindow)).toEqual(windows);
});
