import { describe, expect, it } from "vitest";
import {
  neutralSampling,
  resolveSamplingParams,
  samplingDefaults,
} from "../../lib/sampling/sampling-params.js";

const seed = 7;

describe("resolveSamplingParams", () => {
  it("takes vLLM's defaults where nothing else is set", () => {
    expect(resolveSamplingParams({ seed })).toEqual({
      temperature: 1,
      topK: 0,
      topP: 1,
      minP: 0,
      seed: [7, 0],
    });
  });

  it("prefers the request over the model's defaults", () => {
    const defaults = { ...neutralSampling, temperature: 0.6, topK: 50, topP: 0.9, minP: 0.05 };
    const params = resolveSamplingParams({ topK: 3, topP: undefined, seed }, defaults);
    expect(params).toMatchObject({ temperature: 0.6, topK: 3, topP: 0.9, minP: 0.05 });
  });

  it.each([0, -0, 1e-300, 9.9e-6])(
    "is greedy at temperature %s, whatever else is set",
    (temperature) => {
      expect(resolveSamplingParams({ temperature, topK: 5, topP: 0.5, minP: 0.1, seed })).toEqual({
        temperature: 0,
        topK: 0,
        topP: 1,
        minP: 0,
        seed: [7, 0],
      });
    },
  );

  it.each([
    [1e-5, 0.01],
    [0.0099, 0.01],
    [0.01, 0.01],
    [100, 100],
  ])("raises temperature %s to %s", (temperature, expected) => {
    expect(resolveSamplingParams({ temperature, seed }).temperature).toBe(expected);
  });

  it("splits the seed into two words", () => {
    const words = (seed: number) => resolveSamplingParams({ seed }).seed;
    expect(words(0)).toEqual([0, 0]);
    expect(words(2 ** 32 - 1)).toEqual([0xffffffff, 0]);
    expect(words(2 ** 32 + 5)).toEqual([5, 1]);
    expect(words(Number.MAX_SAFE_INTEGER)).toEqual([0xffffffff, 0x1fffff]);
    expect(Object.is(words(-0)[0], 0)).toBe(true);
  });

  it("draws another seed for each request without one", () => {
    const seeds = new Set(Array.from({ length: 50 }, () => String(resolveSamplingParams({}).seed)));
    expect(seeds.size).toBe(50);
  });

  it("keeps topP above 0 in float32", () => {
    expect(Math.fround(resolveSamplingParams({ topP: 1e-300, seed }).topP)).toBeGreaterThan(0);
  });

  const bad = [
    NaN,
    Infinity,
    -Infinity,
    -1,
    -1e-9,
    1e300,
    "0.5",
    "",
    null,
    true,
    {},
    [],
    1n,
    () => 1,
  ];
  it.each(["temperature", "topK", "topP", "minP", "seed"])("refuses a bad %s", (parameter) => {
    for (const value of bad) {
      const options = { [parameter]: value };
      expect(() => resolveSamplingParams(options), String(value)).toThrow(
        expect.objectContaining({
          code: "ERR_ARGUMENT",
          details: expect.objectContaining({ parameter }),
          message: expect.stringContaining(`\`${parameter}\``),
        }),
      );
    }
  });

  it.each([
    ["temperature", 100.001],
    ["topK", 2 ** 31],
    ["topK", 1.5],
    ["topP", 0],
    ["topP", -0],
    ["topP", 1.0000001],
    ["minP", 1.0000001],
    ["seed", 2 ** 53],
    ["seed", 0.5],
  ])("refuses %s = %s", (parameter, value) => {
    expect(() => resolveSamplingParams({ [parameter]: value })).toThrow(`\`${parameter}\``);
  });
});

describe("samplingDefaults", () => {
  const eosTokenIds = [2];

  it("ignores do_sample, as vLLM does", () => {
    const generation = { eosTokenIds, doSample: false, temperature: 0.7, topK: 20 };
    expect(samplingDefaults(generation)).toEqual({
      ...neutralSampling,
      temperature: 0.7,
      topK: 20,
    });
  });

  it("names the field of generation_config.json that is out of range", () => {
    expect(() => samplingDefaults({ eosTokenIds, topP: 0 })).toThrow(
      expect.objectContaining({
        code: "ERR_CONFIG_INVALID",
        details: expect.objectContaining({ field: "topP" }),
      }),
    );
  });
});
