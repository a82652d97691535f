import { describe, expect, it } from "vitest";
import { resolveTexts, checkSampling, hasControlTexts } from "../../lib/sampling/check-sampling.js";
import { packOptional, type SampledSequence } from "../../lib/sampling/pack-controls.js";
import { neutralSampling } from "../../lib/sampling/sampling-params.js";
import type { SamplingOptions } from "../../lib/engine/types.js";

const limits = {
  vocabSize: 300,
  maxTokens: 100,
  eosTokenIds: new Set([9, 999]), // the model does not know 999
  stopTokenIds: new Set([4]),
  sampling: neutralSampling,
};

const params = (options: SamplingOptions) =>
  checkSampling({ temperature: 0, ...options }, limits).sampling;

/** Prompt 1, 2, 3, then the output. */
function row(options: SamplingOptions, output: readonly number[] = []): SampledSequence {
  const tokenIds = Int32Array.of(1, 2, 3, ...output);
  return { tokenIds, promptLength: 3, sampling: params(options) };
}

/** A tokenizer of bytes, with one token, 256, for a space and an `a`. */
async function encode(text: string): Promise<Int32Array> {
  const ids = [...Buffer.from(text.replaceAll(" a", "\u0000"))];
  return Int32Array.from(ids, (byte) => (byte === 0 ? 256 : byte));
}

async function withWords(
  badWords: readonly string[],
  output: readonly number[],
): Promise<SampledSequence> {
  const checked = checkSampling({ badWords }, limits);
  expect(hasControlTexts(checked)).toBe(true);
  return { ...row({}, output), sampling: await resolveTexts(checked, encode, 300) };
}

const bannedFor = (sequence: SampledSequence): number[] => [
  ...packOptional([sequence]).controls!.banned.values,
];

describe("packOptional", () => {
  it("packs nothing where no row needs it", () => {
    const neutral = { presencePenalty: 0, repetitionPenalty: 1, typicalP: 1, minTokens: 0 };
    expect(packOptional([row({}), row({ ...neutral, logitBias: {} })])).toEqual({});
    expect(packOptional([])).toEqual({});
  });

  it("packs log-probabilities of some rows", () => {
    expect(packOptional([row({}), row({ logprobs: 0 }), row({ logprobs: 7 })])).toEqual({
      numLogprobs: Int32Array.of(-1, 0, 7),
    });
  });

  it("sends only the tokens that penalties look at", () => {
    const rows = [
      row({ repetitionPenalty: 1.1 }, [7, 8]),
      row({ presencePenalty: 1 }, [7, 8]),
      row({ logitBias: { 5: 1 } }, [7, 8]),
      row({ dry: { multiplier: 1, sequenceBreakers: [11, 10, 11] } }, [6]),
    ];
    const { controls } = packOptional(rows);
    expect(controls!.history).toEqual({
      values: Int32Array.of(1, 2, 3, 7, 8, 7, 8, 1, 2, 3, 6),
      offsets: Int32Array.of(0, 5, 7, 7, 11),
    });
    expect(controls!.numPromptTokens).toEqual(Int32Array.of(3, 0, 0, 3));
    expect(controls!.repetitionPenalty[1]).toBe(1);
    expect(controls!.dryBreakers.values).toEqual(Int32Array.of(10, 11));
  });

  it("sorts and clamps biases and allowed ids", () => {
    const bias = new Map([
      [20, 1000],
      [3, -1000],
      [7, 0.5],
    ]);
    const { controls } = packOptional([row({ logitBias: bias, allowedTokenIds: [5, 2, 5] })]);
    expect(controls!.biased.values).toEqual(Int32Array.of(3, 7, 20));
    expect(controls!.biases).toEqual(Float32Array.of(-100, 0.5, 100));
    expect(controls!.allowed.values).toEqual(Int32Array.of(2, 5));
  });

  it("bans what would end the output before minTokens", () => {
    expect(bannedFor(row({ minTokens: 2 }, []))).toEqual([4, 9]);
    expect(bannedFor(row({ minTokens: 2 }, [7]))).toEqual([4, 9]);
    expect(bannedFor(row({ minTokens: 2 }, [7, 7]))).toEqual([]);
  });

  it("bans the last token of bad words, at the beginning and after a space", async () => {
    const [a, b, c] = [...Buffer.from("abc")] as [number, number, number];
    expect(bannedFor(await withWords(["abc"], []))).toEqual([]);
    expect(bannedFor(await withWords(["abc"], [a]))).toEqual([]);
    expect(bannedFor(await withWords(["abc"], [a, b]))).toEqual([c]);
    expect(bannedFor(await withWords([" abc"], [5, 256, b]))).toEqual([c]);
    expect(bannedFor(await withWords(["a"], [5]))).toEqual([a, 256]);
    expect(bannedFor(await withWords(["ab", "ab", "a"], [a]))).toEqual([b, a, 256]);
  });

  it("does not take the end of the prompt for the beginning of a bad word", async () => {
    const sequence = await withWords(["ab"], []);
    const tokenIds = Int32Array.from(Buffer.from("xa"));
    expect(bannedFor({ ...sequence, tokenIds, promptLength: 2 })).toEqual([]);
  });

  it("leaves out words with tokens that the model does not know", async () => {
    const checked = checkSampling({ badWords: ["é"] }, limits);
    const strange = async (): Promise<Int32Array> => Int32Array.of(5, 300);
    const sampling = await resolveTexts(checked, strange, 300);
    expect(sampling.controls).toBeUndefined();
  });

  it("takes the last token of each text as a sequence breaker", async () => {
    const dry = { multiplier: 1, sequenceBreakers: ["\n", "xy", 7] };
    const sampling = await resolveTexts(checkSampling({ dry }, limits), encode, 300);
    expect([...sampling.controls!.dry.breakers]).toEqual([7, 10, "y".charCodeAt(0)]);
  });
});
