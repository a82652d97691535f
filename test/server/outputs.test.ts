import OpenAI from "openai";
import type { GeneratedOutput, TokenLogprob } from "pagoda-llm";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { collect, serveDemo, untilIdle, type Demo } from "../support/demo.js";
import { until } from "../support/http.js";

/** Several outputs of a prompt, by OpenAI's own client: what the engine gives for the same request. */
let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterEach(() => untilIdle(demo.engine));
afterAll(() => demo[Symbol.asyncDispose]());

const model = "demo";
const story = "Once upon a time";
const messages = [{ role: "user" as const, content: "Tell me a story" }];

interface Choice {
  readonly index: number;
  readonly text: string;
  readonly finish_reason: string | null;
  readonly deadline_exceeded?: boolean;
  readonly token_ids: number[];
  readonly prompt_token_ids?: number[];
  readonly prompt_logprobs?: unknown;
  readonly logprobs: OpenAI.CompletionChoice.Logprobs | null;
}

interface Answer {
  readonly choices: Choice[];
  readonly usage: OpenAI.CompletionUsage;
}

/** With the extensions that the client's types do not know. */
async function complete(fields: object): Promise<Answer> {
  const body = { model, prompt: story, max_tokens: 20, ...fields };
  return (await demo.client.completions.create(body)) as never;
}

async function completeStream(fields: object): Promise<Answer[]> {
  const body = { model, prompt: story, max_tokens: 20, ...fields, stream: true } as const;
  return collect((await demo.client.completions.create(body)) as never);
}

async function chat(fields: object): Promise<OpenAI.ChatCompletion> {
  return demo.client.chat.completions.create({ model, messages, max_tokens: 20, ...fields });
}

async function chatStream(fields: object): Promise<OpenAI.ChatCompletionChunk[]> {
  const body = { model, messages, max_tokens: 20, ...fields, stream: true } as const;
  return collect(await demo.client.chat.completions.create(body));
}

/** The text of each choice of a stream, and its finish reasons. */
function joined(chunks: readonly Answer[]): { text: string; reasons: string[] }[] {
  const joined: { text: string; reasons: string[] }[] = [];
  for (const { choices } of chunks) {
    for (const { index, text, finish_reason: reason } of choices) {
      const choice = (joined[index] ??= { text: "", reasons: [] });
      expect(choice.reasons).toEqual([]); // nothing comes after the end
      choice.text += text;
      if (reason !== null) choice.reasons.push(reason);
    }
  }
  return joined;
}

const textsOf = (outputs: readonly GeneratedOutput[]): string[] => outputs.map(({ text }) => text);
const counted = (answer: { usage?: OpenAI.CompletionUsage | null | undefined }) => [
  answer.usage?.prompt_tokens,
  answer.usage?.completion_tokens,
];

describe("n outputs", () => {
  const sampled = { n: 3, seed: 7, max_tokens: 60 };
  const request = { n: 3, seed: 7, maxTokens: 60 };

  test("of a completion, whole and streamed, are the engine's", async () => {
    const expected = await demo.engine.generate({ prompt: story, ...request });
    const tokens = [4, expected.usage.outputTokens];
    const whole = await complete(sampled);
    expect(whole.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(whole.choices.map(({ text }) => text)).toEqual(textsOf(expected.outputs));
    expect(counted(whole)).toEqual(tokens);

    const chunks = await completeStream({ ...sampled, stream_options: { include_usage: true } });
    expect(counted(chunks.pop()!)).toEqual(tokens);
    expect(joined(chunks)).toEqual(
      expected.outputs.map(({ text, finishReason }) => ({ text, reasons: [finishReason] })),
    );
    const order = chunks.map(({ choices }) => choices[0]!.index);
    expect(order.indexOf(2)).toBeLessThan(order.lastIndexOf(0)); // as they come
  });

  test("of a chat, whole and streamed, are the engine's, and each choice is opened once", async () => {
    const { outputs } = await demo.engine.chat({ messages, ...request });
    const whole = await chat(sampled);
    expect(whole.choices.map(({ message }) => message.content)).toEqual(textsOf(outputs));
    const chunks = await chatStream(sampled);
    for (const [index, { text, finishReason }] of outputs.entries()) {
      const own = chunks.flatMap(({ choices }) => choices.filter((c) => c.index === index));
      const [first, ...rest] = own;
      expect(first!.delta).toEqual({ role: "assistant", content: "" });
      expect(rest.map(({ delta }) => delta.content ?? "").join("")).toBe(text);
      expect(rest.every(({ delta }) => !("role" in delta))).toBe(true);
      expect(rest.pop()!.finish_reason).toBe(finishReason);
      expect(rest.every((choice) => choice.finish_reason === null)).toBe(true);
    }
  });

  test("of the client's own stream helper", async () => {
    const { outputs } = await demo.engine.chat({ messages, ...request });
    const runner = demo.client.chat.completions.stream({ model, messages, ...sampled });
    const { choices } = await runner.finalChatCompletion();
    expect(choices.map(({ message }) => message.content)).toEqual(textsOf(outputs));
  });

  test("of several prompts are numbered prompt by prompt", async () => {
    const prompts = [story, "27 + 48 =", "A dog"];
    const fields = { n: 2, seed: 1, return_token_ids: true, logprobs: 1, max_tokens: 12 };
    const results = await Promise.all(
      prompts.map((prompt) => demo.engine.generate({ prompt, n: 2, seed: 1, maxTokens: 12 })),
    );
    const outputs = results.flatMap((result) => result.outputs);
    const { choices, usage } = await complete({ prompt: prompts, ...fields });
    expect(choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(choices.map(({ text }) => text)).toEqual(textsOf(outputs));
    expect(choices.map((choice) => choice.token_ids)).toEqual(outputs.map((o) => o.tokenIds));
    expect(choices.map((choice) => choice.prompt_token_ids)).toEqual(
      results.flatMap(({ promptTokenIds }) => [promptTokenIds, promptTokenIds]),
    );
    const sum = (of: (result: (typeof results)[number]) => number) =>
      results.reduce((total, result) => total + of(result), 0);
    expect(counted({ usage })).toEqual([
      sum((result) => result.usage.promptTokens),
      sum((result) => result.usage.outputTokens),
    ]);

    const chunks = await completeStream({ prompt: prompts, ...fields });
    expect(joined(chunks).map(({ text }) => text)).toEqual(textsOf(outputs));
    for (const { index, logprobs, token_ids, prompt_token_ids } of choices) {
      const own = chunks.flatMap((chunk) => chunk.choices.filter((c) => c.index === index));
      expect(own.flatMap((choice) => choice.token_ids)).toEqual(token_ids);
      expect(own.map((choice) => choice.prompt_token_ids)).toEqual([
        ...own.slice(1).map(() => undefined),
        prompt_token_ids,
      ]);
      expect(own.flatMap((choice) => choice.logprobs?.text_offset ?? [])).toEqual(
        logprobs!.text_offset,
      );
      expect(logprobs!.text_offset![0]).toBe(0);
    }
  });

  test.each([
    ["whole", {}],
    ["streamed", { stream: true }],
    ["searched for", { use_beam_search: true }],
  ])("that are %s end when the client goes, and free their blocks", async (_, fields) => {
    const controller = new AbortController();
    const body = { model, prompt: story, n: 8, max_tokens: 1000, ignore_eos: true, ...fields };
    const { signal } = controller;
    const before = demo.engine.stats().finished.abort;
    const answer = demo.client.completions.create(body as never, { signal });
    answer.catch(() => undefined);
    await until(() => demo.engine.stats().running === 8);
    controller.abort();
    await untilIdle(demo.engine);
    expect(demo.engine.stats().finished.abort).toBe(before + 1);
  });
});

test("best_of returns the most probable outputs, and counts them all", async () => {
  const request = { n: 2, bestOf: 5, seed: 3, maxTokens: 30 };
  const expected = await demo.engine.generate({ prompt: story, ...request });
  const fields = { n: 2, best_of: 5, seed: 3, max_tokens: 30 };
  const answer = await complete(fields);
  expect(answer.choices.map(({ text }) => text)).toEqual(textsOf(expected.outputs));
  expect(counted(answer)).toEqual([4, expected.usage.outputTokens]);
  const inChat = await demo.engine.chat({ messages, ...request });
  const chatted = await chat(fields);
  expect(chatted.choices.map(({ message }) => message.content)).toEqual(textsOf(inChat.outputs));
});

describe("a beam search", () => {
  const fields = {
    use_beam_search: true,
    n: 4,
    length_penalty: 0.8,
    early_stopping: true,
    temperature: 0,
  };
  const beam = { width: 4, lengthPenalty: 0.8, earlyStopping: true };

  test("is the engine's, in completions and chats, whole and streamed", async () => {
    const request = { n: 4, beam, maxTokens: 20, logprobs: 2 };
    const { outputs, usage } = await demo.engine.generate({ prompt: story, ...request });
    expect(outputs).toHaveLength(4);
    const whole = await complete({ ...fields, logprobs: 2 });
    expect(whole.choices.map(({ text }) => text)).toEqual(textsOf(outputs));
    expect(whole.choices.map((choice) => choice.logprobs!.token_logprobs)).toEqual(
      outputs.map(({ logprobs }) => logprobs!.map(({ logprob }) => logprob)),
    );
    expect(counted(whole)).toEqual([4, usage.outputTokens]);
    const streamed = joined(await completeStream(fields));
    expect(streamed.map(({ text }) => text)).toEqual(textsOf(outputs));

    const answers = await demo.engine.chat({ messages, ...request });
    const chatted = await chat(fields);
    expect(chatted.choices.map((c) => c.message.content)).toEqual(textsOf(answers.outputs));
    const chunks = await chatStream(fields);
    const openings = chunks.filter(({ choices }) => choices[0]!.delta.role !== undefined);
    expect(openings).toHaveLength(4);
  });

  test("of one beam takes the most probable token", async () => {
    const greedy = await complete({ temperature: 0 });
    const single = await complete({ use_beam_search: true });
    expect(single.choices[0]!.text).toBe(greedy.choices[0]!.text);
  });

  test("of several prompts", async () => {
    const prompts = [story, "A dog"];
    const { choices } = await complete({ ...fields, prompt: prompts });
    const results = await Promise.all(
      prompts.map((prompt) => demo.engine.generate({ prompt, n: 4, beam, maxTokens: 20 })),
    );
    const texts = results.flatMap(({ outputs }) => textsOf(outputs));
    expect(choices.map(({ index, text }) => [index, text])).toEqual([...texts.entries()]);
  });
});

test("a deadline cuts outputs off, which clients see as length and a field of our own", async () => {
  const fields = { n: 3, max_tokens: 1000, ignore_eos: true, deadline_ms: 40 };
  const { choices } = await complete(fields);
  const chunks = await completeStream(fields);
  const ends = chunks.flatMap((chunk) => chunk.choices).filter((c) => c.finish_reason !== null);
  for (const three of [choices, ends]) {
    expect(three.map((choice) => choice.index).sort()).toEqual([0, 1, 2]);
    expect(three.map((choice) => choice.finish_reason)).toEqual(["length", "length", "length"]);
    expect(three.every((choice) => choice.deadline_exceeded === true)).toBe(true);
  }
  const inTime = await complete({ deadline_ms: 60_000 });
  expect(inTime.choices[0]).not.toHaveProperty("deadline_exceeded");
  expect(demo.engine.stats().finished.deadline).toBe(2);
});

describe("log-probabilities of the prompt", () => {
  async function expectShape(told: unknown, logprobs: readonly (TokenLogprob | null)[]) {
    const list = told as (Record<string, { rank: number }> | null)[];
    expect(list).toHaveLength(logprobs.length);
    expect(list[0]).toBeNull();
    for (const [i, token] of logprobs.entries()) {
      if (token === null) continue;
      const { id, logprob, rank, top } = token;
      const { [id]: own, ...others } = list[i]!;
      const decoder = new TextDecoder();
      const [bytes] = await demo.engine.tokenizer!.tokenBytes([id]);
      expect(own).toEqual({ logprob, rank, decoded_token: decoder.decode(bytes) });
      const rest = top.filter((one) => one.id !== id);
      expect(Object.keys(others).map(Number).sort()).toEqual(rest.map((one) => one.id).sort());
      for (const one of rest) {
        const expected = { logprob: one.logprob, rank: top.indexOf(one) + 1 };
        expect(others[one.id]).toMatchObject(expected);
      }
    }
  }

  test("of completions are in each prompt's first choice, in vLLM's shape", async () => {
    const prompts = ["Once upon a time, there was a cat. ".repeat(40), "A dog"];
    const { choices } = await complete({ prompt: prompts, n: 2, prompt_logprobs: 2 });
    for (const [i, prompt] of prompts.entries()) {
      const { promptLogprobs } = await demo.engine.generate({
        prompt,
        promptLogprobs: 2,
        maxTokens: 1,
      });
      await expectShape(choices[2 * i]!.prompt_logprobs, promptLogprobs!);
      expect(choices[2 * i + 1]).not.toHaveProperty("prompt_logprobs");
    }
  });

  test("of chats are beside the choices", async () => {
    const answer = await chat({ prompt_logprobs: 1 });
    const { promptLogprobs } = await demo.engine.chat({
      messages,
      promptLogprobs: 1,
      maxTokens: 1,
    });
    await expectShape((answer as never as Choice).prompt_logprobs, promptLogprobs!);
    expect(answer.choices[0]).not.toHaveProperty("prompt_logprobs");
  });
});

test("DRY and XTC, by llama.cpp's names", async () => {
  const drawn = { seed: 4, maxTokens: 80, ignoreEos: true };
  const fields = { seed: 4, max_tokens: 80, ignore_eos: true };
  const dry = { multiplier: 2, base: 1.5, allowedLength: 1, range: 50, sequenceBreakers: ["."] };
  const xtc = { probability: 0.9, threshold: 0.05 };
  const plain = await demo.engine.generate({ prompt: story, ...drawn });
  const expected = await demo.engine.generate({ prompt: story, ...drawn, dry, xtc });
  expect(expected.text).not.toBe(plain.text);
  const { choices } = await complete({
    ...fields,
    dry_multiplier: 2,
    dry_base: 1.5,
    dry_allowed_length: 1,
    dry_penalty_last_n: 50,
    dry_sequence_breakers: ["."],
    xtc_probability: 0.9,
    xtc_threshold: 0.05,
  });
  expect(choices[0]!.text).toBe(expected.text);
});

test.each([
  ["n", { n: 129 }],
  ["best_of", { n: 3, best_of: 2 }],
  ["best_of", { best_of: 2, stream: true }],
  ["prompt_logprobs", { prompt_logprobs: 1, stream: true }],
  ["n", { use_beam_search: true, n: 65 }],
  ["temperature", { use_beam_search: true, temperature: 0.7 }],
  ["length_penalty", { length_penalty: 2 }],
  ["deadline_ms", { deadline_ms: 0 }],
  ["dry_sequence_breakers[1]", { dry_sequence_breakers: ["a", ""] }],
  ["xtc_threshold", { xtc_threshold: 2 }],
])("a wrong %s is the client's BadRequestError", async (param, fields) => {
  for (const call of [complete(fields), chat(fields)]) {
    const error: unknown = await call.catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ code: "invalid_value", param });
  }
});
