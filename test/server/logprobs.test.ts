import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { collect, serveDemo, type Demo } from "../support/demo.js";

const model = "demo";
const messages = [{ role: "user" as const, content: "Tell me a story" }];
const prompt = "Once upon a time";

let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterAll(() => demo[Symbol.asyncDispose]());

function bytesOf(tokens: readonly { bytes: number[] | null }[]): string {
  return Buffer.from(tokens.flatMap(({ bytes }) => bytes ?? [])).toString();
}

describe("log-probabilities of chat completions", () => {
  const request = { model, messages, max_tokens: 12, temperature: 0, logprobs: true };

  test("are OpenAI's shape, and their bytes are the text", async () => {
    const expected = await demo.engine.chat({
      messages,
      maxTokens: 12,
      temperature: 0,
      logprobs: 3,
    });
    const { choices } = await demo.client.chat.completions.create({ ...request, top_logprobs: 3 });
    const { logprobs, message } = choices[0]!;
    const content = logprobs!.content!;
    expect(logprobs!.refusal).toBeNull();
    expect(content.map(({ logprob }) => logprob)).toEqual(
      expected.logprobs!.map(({ logprob }) => logprob),
    );
    expect(bytesOf(content)).toBe(message.content);
    expect(content.map(({ token }) => token).join("")).toBe(message.content);
    for (const token of content) {
      expect(Object.keys(token).sort()).toEqual(["bytes", "logprob", "token", "top_logprobs"]);
      expect(token.top_logprobs.length).toBe(3);
      const { token: text, logprob, bytes } = token;
      expect(token.top_logprobs[0]).toEqual({ token: text, logprob, bytes }); // greedy
    }
  });

  test("come without alternatives unless they are asked for", async () => {
    const { choices } = await demo.client.chat.completions.create(request);
    expect(choices[0]!.logprobs!.content!.every((t) => t.top_logprobs.length === 0)).toBe(true);
  });

  test("of a stream are those of the whole answer", async () => {
    const asked = { ...request, top_logprobs: 2 };
    const whole = await demo.client.chat.completions.create(asked);
    const chunks = await collect(
      await demo.client.chat.completions.create({ ...asked, stream: true }),
    );
    const content = chunks.flatMap(({ choices }) => choices[0]!.logprobs?.content ?? []);
    expect(content).toEqual(whole.choices[0]!.logprobs!.content);
  });
});

describe("log-probabilities of completions", () => {
  const request = { model, prompt, max_tokens: 10, temperature: 0, logprobs: 2 };

  test("are OpenAI's shape", async () => {
    const { choices } = await demo.client.completions.create(request);
    const { text, logprobs } = choices[0]!;
    const { tokens, token_logprobs, top_logprobs, text_offset } = logprobs!;
    expect(tokens!.join("")).toBe(text);
    expect([tokens, token_logprobs, top_logprobs, text_offset].map((list) => list!.length)).toEqual(
      [10, 10, 10, 10],
    );
    for (const [i, token] of tokens!.entries()) {
      expect(text.slice(text_offset![i]).startsWith(token)).toBe(true);
      expect(top_logprobs![i]![token]).toBe(token_logprobs![i]);
      expect(Object.keys(top_logprobs![i]!).length).toBe(2);
    }
  });

  test("of a stream are those of the whole answer, offsets included", async () => {
    const whole = await demo.client.completions.create(request);
    const chunks = await collect(
      await demo.client.completions.create({ ...request, stream: true }),
    );
    const parts = chunks.flatMap(({ choices }) => choices[0]?.logprobs ?? []);
    const joined = {
      tokens: parts.flatMap(({ tokens }) => tokens!),
      token_logprobs: parts.flatMap(({ token_logprobs }) => token_logprobs!),
      top_logprobs: parts.flatMap(({ top_logprobs }) => top_logprobs!),
      text_offset: parts.flatMap(({ text_offset }) => text_offset!),
    };
    expect(joined).toEqual(whole.choices[0]!.logprobs);
  });
});

test("penalties and biases change what is drawn, as in the engine", async () => {
  const common = { model, prompt, max_tokens: 20, temperature: 0 };
  const { text } = await demo.engine.generate({
    prompt,
    maxTokens: 20,
    temperature: 0,
    presencePenalty: 1.5,
    frequencyPenalty: 1,
    logitBias: { 300: -100 },
  });
  const { choices } = await demo.client.completions.create({
    ...common,
    presence_penalty: 1.5,
    frequency_penalty: 1,
    logit_bias: { 300: -100 },
  });
  expect(choices[0]!.text).toBe(text);
  const plain = await demo.client.completions.create(common);
  expect(plain.choices[0]!.text).not.toBe(text);
});

test("what the engine refuses is a 400 that names the field", async () => {
  const request = { model, prompt, min_tokens: 9, max_tokens: 5 };
  await expect(demo.client.completions.create(request)).rejects.toMatchObject({
    status: 400,
    param: "min_tokens",
  });
  const biased = { model, prompt, logit_bias: { 999999: 1 } };
  await expect(demo.client.completions.create(biased)).rejects.toMatchObject({
    status: 400,
    param: "logit_bias",
  });
});
