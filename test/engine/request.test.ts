import { describe, expect, it } from "vitest";
import { PagodaError } from "../../lib/errors.js";
import { checkEnginesAfterEach, testEngine } from "../support/engines.js";
import { FakeExecutor } from "../support/fake-executor.js";
import { FakeTokenizer } from "../support/fake-tokenizer.js";

checkEnginesAfterEach();

const withTokenizer = () => testEngine(new FakeExecutor(), { tokenizer: new FakeTokenizer() });

/** The error that a call throws. */
function errorOf(call: () => unknown): PagodaError {
  try {
    call();
  } catch (error) {
    if (PagodaError.is(error)) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("generate refuses", () => {
  it.each([undefined, null, 1, "a", [], () => 1])("%s as a request", (request) => {
    const engine = withTokenizer();
    expect(errorOf(() => engine.generate(request as never))).toMatchObject({
      code: "ERR_ARGUMENT",
      details: { parameter: "request" },
    });
  });

  const manyEntries = Array.from({ length: 1e6 }, (_, id): [number, number] => [id, 1]);
  const notANumber = [NaN, Infinity, -Infinity, "5", null, {}, [], true, 5n];
  const bad: Record<string, readonly unknown[]> = {
    prompt: [undefined, null, 5, {}, true, new Uint32Array(2), new Float32Array(2), new Map()],
    maxTokens: [...notANumber, 0, -1, 1.5, 2 ** 53, 1e300],
    temperature: [...notANumber, -1, 101],
    topK: [...notANumber, -1, 1.5, 2 ** 31, 2 ** 53],
    topP: [...notANumber, 0, -0, -1, 1.01],
    minP: [...notANumber, -1, 1.01],
    seed: [...notANumber, -1, 0.5, 2 ** 53],
    typicalP: [...notANumber, 0, -0, -1, 1.01],
    presencePenalty: [...notANumber, -2.01, 2.01, 2 ** 53],
    frequencyPenalty: [...notANumber, -2.01, 2.01, 2 ** 53],
    repetitionPenalty: [...notANumber, 0, -0, -1, 1e7],
    minTokens: [...notANumber, -1, 1.5, 2 ** 53],
    logprobs: [...notANumber, -1, 0.5, 21, 2 ** 53],
    promptLogprobs: [...notANumber, -1, 0.5, 21, 2 ** 53],
    includeStop: ["true", 1, null, {}],
    logitBias: [null, 5, "1", [], [[1, 2]], new Map(manyEntries), Object.fromEntries(manyEntries)],
    "logitBias[7]": [{ 7: NaN }, { 7: Infinity }, { 7: "1" }, { 7: null }, new Map([[7, "1"]])],
    allowedTokenIds: ["1", 5, {}, null, [], Array(1025).fill(1), new Int32Array(2)],
    badWords: ["word", 5, {}, null, Array(257).fill("a"), Array(1e6).fill("a")],
    "badWords[0]": ["", 5, null, undefined, "a".repeat(257), "\ud800"].map((word) => [word]),
    dry: [null, 5, "1", [], true],
    "dry.multiplier": [...notANumber, -1, 1e7].map((multiplier) => ({ multiplier })),
    "dry.base": [...notANumber, 0.9, -1, 1e7].map((base) => ({ multiplier: 1, base })),
    "dry.allowedLength": [...notANumber, 0, 1.5, 2 ** 31].map((n) => ({
      multiplier: 1,
      allowedLength: n,
    })),
    "dry.range": [...notANumber, -1, 2 ** 31].map((range) => ({ multiplier: 1, range })),
    "dry.sequenceBreakers": ["a", 5, {}, null, Array(65).fill("a")].map((sequenceBreakers) => ({
      multiplier: 1,
      sequenceBreakers,
    })),
    "dry.sequenceBreakers[0]": ["", "\ud800"].map((text) => ({
      multiplier: 1,
      sequenceBreakers: [text],
    })),
    xtc: [null, 5, "1", [], true],
    "xtc.probability": [...notANumber, -0.1, 1.1].map((probability) => ({ probability })),
    "xtc.threshold": [...notANumber, -0.1, 1.1].map((threshold) => ({ probability: 1, threshold })),
    logitsProcessor: [null, 5, "f", {}, [], true],
    stop: [5, {}, null, Array(17).fill("a"), Array(1e5).fill("a")],
    "stop[0]": ["", "\ud800", [""], [5], [null], [undefined], Array(1)],
    "stop[1]": [
      ["a", ""],
      ["a", "x\udc00y"],
    ],
    stopTokenIds: ["1", 5, {}, null, Array(129).fill(1)],
    ignoreEos: ["true", 1, null, {}],
    skipSpecialTokens: ["true", 1, null],
    addSpecialTokens: ["true", 0, null],
    signal: [null, 5, {}, "abort", { aborted: true }],
  };

  it.each(Object.keys(bad))("a bad %s, naming it", (parameter) => {
    const engine = withTokenizer();
    const field = parameter.replace(/[[.].*/, "");
    for (const value of bad[parameter]!) {
      const error = errorOf(() => engine.generate({ prompt: [1], [field]: value } as never));
      expect([error.code, error.details["parameter"]], String(value)).toEqual([
        "ERR_ARGUMENT",
        parameter,
      ]);
      expect(error.message).toContain(`\`${parameter}\``);
    }
  });

  it.each([-1, 300, 2 ** 31, 2 ** 32, 1.5, NaN, 1e308, "1", null, undefined, 1n, {}, true])(
    "%s as a token id, with its index",
    (id) => {
      const engine = withTokenizer();
      const error = errorOf(() => engine.generate({ prompt: [1, 2, id as number] }));
      expect(error).toMatchObject({
        code: "ERR_TOKEN_ID",
        details: { parameter: "prompt[2]", index: 2 },
      });
      const stop = errorOf(() => engine.generate({ prompt: [1], stopTokenIds: [id as number] }));
      expect(stop).toMatchObject({
        code: "ERR_TOKEN_ID",
        details: { parameter: "stopTokenIds[0]" },
      });
    },
  );

  it.each([
    ["logitBias", { logitBias: { "-1": 1 } }],
    ["logitBias", { logitBias: { "1.5": 1 } }],
    ["logitBias", { logitBias: { " 1": 1 } }],
    ["logitBias", { logitBias: { 300: 1 } }],
    ["logitBias", { logitBias: new Map([[300, 1]]) }],
    ["logitBias", { logitBias: new Map([["1", 1]]) }],
    ["allowedTokenIds[1]", { allowedTokenIds: [1, 300] }],
    ["allowedTokenIds[0]", { allowedTokenIds: ["1"] }],
    ["dry.sequenceBreakers", { dry: { multiplier: 1, sequenceBreakers: [300] } }],
    ["dry.sequenceBreakers", { dry: { multiplier: 1, sequenceBreakers: [null] } }],
  ])("tokens that the model does not have: %s %j", (parameter, options) => {
    const engine = withTokenizer();
    const error = errorOf(() => engine.generate({ prompt: [1], ...(options as object) }));
    expect(error).toMatchObject({ code: "ERR_TOKEN_ID", details: { parameter } });
  });

  it("more tokens at least than at most", () => {
    const engine = withTokenizer();
    const error = errorOf(() => engine.generate({ prompt: [1], minTokens: 5, maxTokens: 4 }));
    expect(error).toMatchObject({ code: "ERR_ARGUMENT", details: { parameter: "minTokens" } });
  });

  it("bad words and texts as sequence breakers without a tokenizer", () => {
    const engine = testEngine(new FakeExecutor());
    const code = "ERR_TOKENIZER_MISSING";
    expect(errorOf(() => engine.generate({ prompt: [1], badWords: ["a"] })).code).toBe(code);
    const dry = { multiplier: 1, sequenceBreakers: ["\n"] };
    expect(errorOf(() => engine.generate({ prompt: [1], dry })).code).toBe(code);
  });

  it("holes in the prompt", () => {
    const prompt = [1, 2];
    prompt[3] = 4;
    expect(errorOf(() => withTokenizer().generate({ prompt }))).toMatchObject({
      code: "ERR_TOKEN_ID",
      details: { index: 2 },
    });
  });

  it("ids outside of the vocabulary in an Int32Array", () => {
    const prompt = Int32Array.of(1, -1);
    expect(errorOf(() => withTokenizer().generate({ prompt })).code).toBe("ERR_TOKEN_ID");
  });

  it("an empty prompt", () => {
    expect(errorOf(() => withTokenizer().generate({ prompt: [] })).code).toBe("ERR_EMPTY_PROMPT");
  });

  it("a prompt that leaves no room, before it reads the ids", () => {
    const engine = testEngine(new FakeExecutor(), { maxModelLen: 8 });
    const error = errorOf(() => engine.generate({ prompt: Array(2 ** 25).fill("x") }));
    expect(error).toMatchObject({
      code: "ERR_CONTEXT_LENGTH",
      details: { promptTokens: 2 ** 25, maxModelLen: 8 },
    });
    expect(errorOf(() => engine.generate({ prompt: Array(8).fill(1) })).code).toBe(
      "ERR_CONTEXT_LENGTH",
    );
  });

  it("text, stop texts and chat without a tokenizer", () => {
    const engine = testEngine(new FakeExecutor());
    const messages = [{ role: "user", content: "a" }];
    const code = "ERR_TOKENIZER_MISSING";
    expect(errorOf(() => engine.generate({ prompt: "a" })).code).toBe(code);
    expect(errorOf(() => engine.generate({ prompt: [1], stop: "a" })).code).toBe(code);
    expect(errorOf(() => engine.chat({ messages })).code).toBe(code);
  });

  it.each([undefined, null, "hi", {}, [], [5], [null], ["hi"]])("%s as messages", (messages) => {
    const error = errorOf(() => withTokenizer().chat({ messages: messages as never }));
    expect(error.code).toBe("ERR_ARGUMENT");
    expect(error.details["parameter"]).toMatch(/^messages/);
  });
});

describe("generate reports through the generation", () => {
  it("a text without tokens", async () => {
    const generation = withTokenizer().generate({ prompt: "", addSpecialTokens: false });
    await expect(generation).rejects.toMatchObject({ code: "ERR_EMPTY_PROMPT" });
  });

  it("a text that is too long", async () => {
    const generation = withTokenizer().generate({ prompt: "a".repeat(63) });
    await expect(generation).rejects.toMatchObject({ code: "ERR_CONTEXT_LENGTH" });
  });

  it("a tokenizer whose ids the model does not know", async () => {
    const executor = new FakeExecutor({ vocabSize: 99 });
    const engine = testEngine(executor, { tokenizer: new FakeTokenizer() });
    const generation = engine.generate({ prompt: "abc", addSpecialTokens: false });
    await expect(generation).rejects.toMatchObject({ code: "ERR_TOKEN_ID", details: { index: 2 } });
  });

  it("a tokenizer that fails", async () => {
    const onEncode = () => Promise.reject(new PagodaError("ERR_TOKENIZER_INVALID", "lost"));
    const engine = testEngine(new FakeExecutor(), { tokenizer: new FakeTokenizer({ onEncode }) });
    await expect(engine.generate({ prompt: "a" })).rejects.toMatchObject({
      code: "ERR_TOKENIZER_INVALID",
    });
  });
});

describe("generate accepts", () => {
  it("-0, the smallest and the largest values", async () => {
    const engine = withTokenizer();
    const limits = [
      { temperature: -0, topK: -0, minP: -0, seed: -0, maxTokens: 1 },
      { temperature: 100, topK: 2 ** 31 - 1, topP: 1, minP: 1, seed: 2 ** 53 - 1, maxTokens: 1 },
      { temperature: 1e-300, topP: 1e-300, minP: 1e-300, maxTokens: 1 },
      { stop: Array(16).fill("a"), stopTokenIds: Array(128).fill(-0), maxTokens: 1 },
      { presencePenalty: -2, frequencyPenalty: 2, repetitionPenalty: 1e-300, maxTokens: 1 },
      { typicalP: 1e-300, minTokens: 1, repetitionPenalty: 1e6, maxTokens: 1 },
      { logitBias: { 0: -1e300, 299: 1e300 }, allowedTokenIds: [-0, 299, 0], maxTokens: 1 },
      { badWords: Array(256).fill("a b"), logitBias: new Map(), maxTokens: 1 },
      { dry: { multiplier: 0 }, xtc: { probability: 0 }, maxTokens: 1 },
      { dry: { multiplier: 1e6, base: 1e6, allowedLength: 1, range: 0 }, maxTokens: 1 },
      { xtc: { probability: 1, threshold: 0 }, logitBias: {}, badWords: [], maxTokens: 1 },
    ];
    for (const request of limits) await engine.generate({ prompt: [-0, 299], ...request });
  });

  it("an Int32Array, and copies it", async () => {
    const executor = new FakeExecutor();
    const prompt = Int32Array.of(1, 2, 3);
    const generation = testEngine(executor).generate({
      prompt,
      maxTokens: 2,
      temperature: 0,
      ignoreEos: true,
    });
    prompt.fill(9);
    const { tokenIds, promptTokenIds } = await generation;
    expect(promptTokenIds).toEqual([1, 2, 3]);
    expect(tokenIds).toEqual(executor.expected([1, 2, 3], 2));
  });

  it("getters, and reads each property once", async () => {
    const reads = new Map<string, number>();
    const values: Record<string, unknown> = { prompt: [1, 2], maxTokens: 2, stop: ["zz"], seed: 3 };
    const request = new Proxy({} as Record<string, unknown>, {
      get: (_, name) => {
        reads.set(String(name), (reads.get(String(name)) ?? 0) + 1);
        return values[String(name)];
      },
    });
    await withTokenizer().generate(request as never);
    expect([...reads.values()].every((count) => count === 1)).toBe(true);
    expect(reads.size).toBeGreaterThan(12);
  });

  it("nothing of a request whose getter throws", () => {
    const engine = withTokenizer();
    const request = {
      prompt: [1],
      get seed(): number {
        throw new RangeError("from the getter");
      },
    };
    expect(() => engine.generate(request)).toThrow(RangeError);
    expect(engine.stats()).toMatchObject({ waiting: 0, running: 0 });
  });
});
