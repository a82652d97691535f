import OpenAI from "openai";
import { expect, test } from "vitest";
import { PagodaError, type ErrorCode } from "../../lib/errors.js";
import { FakeEngine } from "../support/fake-engine.js";
import { ask, errorOf, eventsOf, post, serve } from "../support/http.js";

const chatBody = { model: "fake", messages: [{ role: "user", content: "Hi" }], max_tokens: 5 };
const streamBody = { ...chatBody, stream: true };

const refusals: [ErrorCode, number, string][] = [
  ["ERR_ARGUMENT", 400, "invalid_value"],
  ["ERR_TOKEN_ID", 400, "invalid_value"],
  ["ERR_EMPTY_PROMPT", 400, "invalid_value"],
  ["ERR_CONTEXT_LENGTH", 400, "context_length_exceeded"],
  ["ERR_CHAT_TEMPLATE", 400, "ERR_CHAT_TEMPLATE"],
  ["ERR_TOKENIZER_MISSING", 400, "ERR_TOKENIZER_MISSING"],
  ["ERR_QUEUE_FULL", 429, "rate_limit_exceeded"],
  ["ERR_MEMORY", 503, "ERR_MEMORY"],
  ["ERR_CLOSED", 503, "ERR_CLOSED"],
  ["ERR_NON_FINITE", 500, "ERR_NON_FINITE"],
  ["ERR_BACKEND_FAILED", 500, "ERR_BACKEND_FAILED"],
  ["ERR_INTERNAL", 500, "ERR_INTERNAL"],
];

const aboutTheInput: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "ERR_EMPTY_PROMPT",
  "ERR_CONTEXT_LENGTH",
  "ERR_CHAT_TEMPLATE",
  "ERR_TOKENIZER_MISSING",
]);

test.each(refusals)("%s of the engine is answered with %i", async (code, status, apiCode) => {
  const failure = new PagodaError(code, "Because", { details: { parameter: "maxTokens" } });
  for (const options of [{ refuse: failure }, { failure }]) {
    const errors: unknown[] = [];
    const onError = (error: unknown): void => void errors.push(error);
    const { url } = await serve(new FakeEngine(options), { onError });
    for (const body of [chatBody, streamBody]) {
      const reply = await post(url, "/v1/chat/completions", body);
      expect(reply.status).toBe(status);
      const error = errorOf(reply);
      expect(error).toMatchObject({ message: "Because", code: apiCode });
      expect(error.param).toBe(aboutTheInput.has(code) ? "messages" : "max_tokens");
      expect(reply.headers["retry-after"] !== undefined).toBe(
        code === "ERR_QUEUE_FULL" || code === "ERR_MEMORY",
      );
    }
    expect(errors).toHaveLength(status >= 500 ? 2 : 0);
  }
});

test("an error that is not the engine's own is a 500 that tells nothing of it", async () => {
  const engine = new FakeEngine();
  engine.chat = () => {
    throw new TypeError("secret path /etc/passwd");
  };
  const { url } = await serve(engine, {
    onError: () => {
      throw new Error("a listener that is broken itself");
    },
  });
  const reply = await post(url, "/v1/chat/completions", chatBody);
  expect(reply.status).toBe(500);
  expect(errorOf(reply).type).toBe("server_error");
  expect(reply.text).not.toContain("secret");
});

test("a failure in mid-stream is an event, and the stream ends without [DONE]", async () => {
  const failure = new PagodaError("ERR_NON_FINITE", "The logits are NaN");
  const errors: unknown[] = [];
  const onError = (error: unknown): void => void errors.push(error);
  const engine = new FakeEngine({ failure, failAfter: 3 });
  const { url } = await serve(engine, { onError });
  const reply = await post(url, "/v1/chat/completions", streamBody);
  expect(reply.status).toBe(200);
  const events = eventsOf(reply.text);
  expect(events.at(-1)).toEqual({
    error: {
      message: "The logits are NaN",
      type: "server_error",
      param: null,
      code: "ERR_NON_FINITE",
    },
  });
  expect(events.length).toBeGreaterThan(2);
  expect(errors).toEqual([failure]);
  expect(engine.stats().running).toBe(0);
});

test("the openai client throws a failure in mid-stream", async () => {
  const failure = new PagodaError("ERR_NON_FINITE", "The logits are NaN");
  const { url } = await serve(new FakeEngine({ failure, failAfter: 3 }));
  const client = new OpenAI({ apiKey: "none", baseURL: `${url}/v1`, maxRetries: 0 });
  const stream = await client.chat.completions.create({ ...streamBody, stream: true } as never);
  const read = async (): Promise<void> => {
    for await (const chunk of stream as never as AsyncIterable<unknown>) void chunk;
  };
  await expect(read()).rejects.toThrow("The logits are NaN");
});

test("one failing choice ends the others", async () => {
  const engine = new FakeEngine();
  const generate = engine.generate.bind(engine);
  engine.generate = (request) => {
    if (request.prompt === "third") throw new PagodaError("ERR_QUEUE_FULL", "Full");
    return generate(request);
  };
  const { url } = await serve(engine);
  const body = { model: "fake", prompt: ["first", "second", "third"], max_tokens: 1e9 };
  for (const stream of [false, true]) {
    const reply = await post(url, "/v1/completions", { ...body, stream });
    expect(reply.status).toBe(429);
    expect(engine.stats().running).toBe(0);
  }
});

test("health is 503 or 500 once the engine has failed for good", async () => {
  const failure = new PagodaError("ERR_BACKEND_FAILED", "The device is gone");
  const { url } = await serve(new FakeEngine({ failure }));
  expect((await ask(url, "/health")).status).toBe(200);
  await post(url, "/v1/chat/completions", chatBody);
  const reply = await ask(url, "/health");
  expect(reply.status).toBe(500);
  expect(errorOf(reply).code).toBe("ERR_BACKEND_FAILED");
});

test("a stream with a long wait before its first token sends its head and role early", async () => {
  const engine = new FakeEngine({ firstTokenMs: 4000 });
  const { url } = await serve(engine);
  const begin = performance.now();
  const res = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...streamBody, n: 2 }),
  });
  expect(performance.now() - begin).toBeLessThan(3500);
  const events = eventsOf(await res.text()) as { choices: { index: number; delta: object }[] }[];
  const openings = events.filter((event) => event.choices?.[0] && "role" in event.choices[0].delta);
  expect(openings.map(({ choices }) => choices[0]!.index)).toEqual([0, 1]);
  expect(openings[0]).toBe(events[0]);
  expect(openings[1]).toBe(events.find(({ choices }) => choices?.[0]!.index === 1));
});
