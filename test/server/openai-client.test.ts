import OpenAI from "openai";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { collect, serveDemo, untilIdle, type Demo } from "../support/demo.js";

let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterEach(() => untilIdle(demo.engine));
afterAll(() => demo[Symbol.asyncDispose]());

const model = "demo";
const story = "Once upon a time";
const messages = [{ role: "user" as const, content: "Hello" }];

test("models", async () => {
  const { data } = await demo.client.models.list();
  expect(data.map(({ id, object }) => [id, object])).toEqual([["demo", "model"]]);
  expect(await demo.client.models.retrieve("demo")).toEqual(data[0]);
  await expect(demo.client.models.retrieve("gpt-4")).rejects.toBeInstanceOf(OpenAI.NotFoundError);
});

test("a completion is what the engine generates", async () => {
  const expected = await demo.engine.generate({ prompt: story, maxTokens: 40, temperature: 0 });
  const { id, created, ...answer } = await demo.client.completions.create({
    model,
    prompt: story,
    max_tokens: 40,
    temperature: 0,
  });
  expect(id).toMatch(/^cmpl-[0-9a-f]{32}$/);
  expect(Math.abs(created - Date.now() / 1000)).toBeLessThan(10);
  expect(answer).toEqual({
    object: "text_completion",
    model,
    choices: [{ index: 0, text: expected.text, logprobs: null, finish_reason: "length" }],
    usage: {
      prompt_tokens: 4,
      completion_tokens: 40,
      total_tokens: 44,
      prompt_tokens_details: { cached_tokens: 0 },
    },
  });
});

test("max_tokens is 16 for completions, as the API says", async () => {
  const answer = await demo.client.completions.create({ model, prompt: story, temperature: 0 });
  expect(answer.usage?.completion_tokens).toBe(16);
  expect(answer.choices[0]?.finish_reason).toBe("length");
});

test("equal beginnings are cached, but only for the same salt", async () => {
  const prompt = "Once upon a time there was a long prompt. ".repeat(4);
  const cached = async (salt: string) => {
    const body = { model, prompt, max_tokens: 2, cache_salt: salt, priority: -1 };
    const { usage } = await demo.client.completions.create(body as never);
    return (usage as { prompt_tokens_details?: { cached_tokens?: number } }).prompt_tokens_details
      ?.cached_tokens;
  };
  expect(await cached("a")).toBe(0);
  expect(await cached("a")).toBeGreaterThan(15);
  expect(await cached("b")).toBe(0);
});

test("a chat completion is what the engine answers", async () => {
  const expected = await demo.engine.chat({ messages, temperature: 0 });
  const { id, created, ...answer } = await demo.client.chat.completions.create({
    model,
    messages,
    temperature: 0,
  });
  expect(id).toMatch(/^chatcmpl-[0-9a-f]{32}$/);
  expect(created).toBeGreaterThan(1e9);
  expect(expected.finishReason).toBe("stop");
  expect(answer).toEqual({
    object: "chat.completion",
    model,
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: expected.text, refusal: null },
        logprobs: null,
        finish_reason: "stop",
      },
    ],
    usage: {
      prompt_tokens: expected.usage.promptTokens,
      completion_tokens: expected.usage.outputTokens,
      total_tokens: expected.usage.promptTokens + expected.usage.outputTokens,
      prompt_tokens_details: { cached_tokens: 0 },
    },
  });
});

test("a chat stream begins with the role, ends with the reason, and adds up to the whole answer", async () => {
  const expected = await demo.engine.chat({ messages, temperature: 0 });
  const stream = await demo.client.chat.completions.create({
    model,
    messages,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await collect(stream);
  expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  expect(new Set(chunks.map(({ object }) => object))).toEqual(new Set(["chat.completion.chunk"]));
  const [first, ...rest] = chunks;
  expect(first?.choices[0]).toEqual({
    index: 0,
    delta: { role: "assistant", content: "" },
    logprobs: null,
    finish_reason: null,
  });
  const usage = rest.pop();
  expect(usage).toMatchObject({
    choices: [],
    usage: { completion_tokens: expected.usage.outputTokens },
  });
  expect(rest.every((chunk) => chunk.usage === null)).toBe(true);
  expect(rest.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(expected.text);
  const reasons = rest.map(({ choices }) => choices[0]?.finish_reason);
  expect(reasons.pop()).toBe("stop");
  expect(reasons.every((reason) => reason === null)).toBe(true);
  expect(rest.length).toBeGreaterThan(3);
});

test("a stream without include_usage has no usage", async () => {
  const stream = await demo.client.completions.create({
    model,
    prompt: story,
    temperature: 0,
    stream: true,
  });
  for await (const chunk of stream) {
    expect(chunk).not.toHaveProperty("usage");
    expect(chunk.choices).toHaveLength(1);
  }
});

test("the client's own stream helper", async () => {
  const runner = demo.client.chat.completions.stream({ model, messages, temperature: 0 });
  const expected = await demo.engine.chat({ messages, temperature: 0 });
  expect(await runner.finalContent()).toBe(expected.text);
});

test("several prompts in one request, as texts and as token ids, whole and streamed", async () => {
  const prompts = [story, "27 + 48 =", "The colour of the sky"];
  const common = { model, max_tokens: 20, temperature: 0 };
  const alone: string[] = [];
  for (const prompt of prompts) {
    const answer = await demo.client.completions.create({ ...common, prompt });
    alone.push(answer.choices[0]!.text);
  }
  const ids = await Promise.all(
    prompts.map(async (prompt) => [...(await demo.engine.tokenizer!.encode(prompt))]),
  );
  for (const prompt of [prompts, ids]) {
    const { choices, usage } = await demo.client.completions.create({ ...common, prompt });
    expect(choices.map(({ index, text }) => [index, text])).toEqual([...alone.entries()]);
    expect(usage?.prompt_tokens).toBe(ids.flat().length);
    const texts = ["", "", ""];
    const stream = await demo.client.completions.create({ ...common, prompt, stream: true });
    for await (const { choices } of stream) {
      for (const { index, text } of choices) texts[index] += text;
    }
    expect(texts).toEqual(alone);
  }
  const one = await demo.client.completions.create({ ...common, prompt: ids[0]! });
  expect(one.choices[0]?.text).toBe(alone[0]);
});

test("sampling, stop texts and the extensions", async () => {
  const common = { model, prompt: story, max_tokens: 60 };
  const create = (more: object): Promise<OpenAI.Completion> =>
    demo.client.completions.create({ ...common, ...more } as never);
  const sampled = { temperature: 1.2, top_k: 20, min_p: 0.01, top_p: 0.95, seed: 5 };
  const [a, b] = await Promise.all([create(sampled), create(sampled)]);
  expect(a.choices[0]?.text).toBe(b.choices[0]?.text);
  expect((await create({ ...sampled, seed: 6 })).choices[0]?.text).not.toBe(a.choices[0]?.text);

  const greedy = await create({ temperature: 0 });
  const text = greedy.choices[0]!.text;
  expect((await create({ top_p: 0 })).choices[0]?.text).toBe(text);
  expect((await create({ top_k: 1 })).choices[0]?.text).toBe(text);
  const stopped = await create({ temperature: 0, stop: ["zzzz", ", "] });
  expect(stopped.choices[0]?.text).toBe(text.slice(0, text.indexOf(", ")));
  expect(stopped.choices[0]?.finish_reason).toBe("stop");

  const withIds = await create({ temperature: 0, return_token_ids: true });
  const choice = withIds.choices[0] as never as { token_ids: number[]; prompt_token_ids: number[] };
  expect(choice.token_ids).toHaveLength(60);
  expect(await demo.engine.tokenizer!.decode(choice.token_ids)).toBe(text);
  expect(choice.prompt_token_ids).toEqual([...(await demo.engine.tokenizer!.encode(story))]);
  const stop_token_ids = [choice.token_ids[2]!];
  const early = await create({ temperature: 0, stop_token_ids });
  expect(early.usage?.completion_tokens).toBe(choice.token_ids.indexOf(stop_token_ids[0]!) + 1);
  expect(early.choices[0]?.finish_reason).toBe("stop");
});

test("token ids in a stream add up, the prompt's come last", async () => {
  const body = { model, prompt: story, max_tokens: 30, temperature: 0, return_token_ids: true };
  const whole = (await demo.client.completions.create(body)) as never as {
    choices: [{ token_ids: number[]; prompt_token_ids: number[] }];
  };
  const stream = await demo.client.completions.create({ ...body, stream: true });
  const choices = (await collect(stream)).map(
    (chunk) => chunk.choices[0] as never as { token_ids: number[]; prompt_token_ids?: number[] },
  );
  expect(choices.flatMap((choice) => choice.token_ids)).toEqual(whole.choices[0].token_ids);
  const last = choices.pop();
  expect(last?.prompt_token_ids).toEqual(whole.choices[0].prompt_token_ids);
  expect(choices.some((choice) => "prompt_token_ids" in choice)).toBe(false);
});

test("ignore_eos goes on to the end of the context", async () => {
  const answer = await demo.client.chat.completions.create({
    model,
    messages,
    temperature: 0,
    ignore_eos: true,
  } as OpenAI.ChatCompletionCreateParamsNonStreaming);
  expect(answer.usage?.total_tokens).toBe(1024);
  expect(answer.choices[0]?.finish_reason).toBe("length");
});

test("the engine's errors reach the client as its own classes, named by field", async () => {
  const { client } = demo;
  const long = "word ".repeat(3000);
  const tooLong = "context_length_exceeded";
  const cases: [() => Promise<unknown>, string, string][] = [
    [() => client.completions.create({ model, prompt: [5, 99_999] }), "prompt[1]", "invalid_value"],
    [() => client.completions.create({ model, prompt: long }), "prompt", tooLong],
    [() => client.completions.create({ model, prompt: long, stream: true }), "prompt", tooLong],
    [
      () => client.chat.completions.create({ model, messages: [{ role: "user", content: long }] }),
      "messages",
      tooLong,
    ],
    [
      () => client.completions.create({ model, prompt: story, temperature: 3 }),
      "temperature",
      "invalid_value",
    ],
    [() => client.completions.create({ model, prompt: story, n: 0 }), "n", "invalid_value"],
    [
      () => client.completions.create({ model, prompt: story, echo: true }),
      "echo",
      "unsupported_parameter",
    ],
  ];
  for (const [call, param, code] of cases) {
    const error: unknown = await call().catch((error: unknown) => error);
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error).toMatchObject({ status: 400, code, param, type: "invalid_request_error" });
  }
  const unknown = client.completions.create({ model: "gpt-4", prompt: story });
  await expect(unknown).rejects.toMatchObject({ status: 404, code: "model_not_found" });
});

test("many streams at once say what each says alone", async () => {
  const requests = Array.from({ length: 24 }, (_, i) => ({
    model,
    prompt: `${["Once upon a time", "One sunny day", "27 + 48 =", "A dog"][i % 4]}${" and".repeat(i % 7)}`,
    max_tokens: 20 + 5 * (i % 6),
    temperature: i % 3 === 0 ? 0 : 0.9,
    seed: i,
  }));
  const alone: string[] = [];
  for (const request of requests) {
    alone.push((await demo.client.completions.create(request)).choices[0]!.text);
  }
  const together = await Promise.all(
    requests.map(async (request) => {
      const stream = await demo.client.completions.create({ ...request, stream: true });
      const chunks = await collect(stream);
      return chunks.map(({ choices }) => choices[0]!.text).join("");
    }),
  );
  expect(together).toEqual(alone);
});
