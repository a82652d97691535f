import fc from "fast-check";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { serveDemo, untilIdle, type Demo } from "../support/demo.js";
import { ask, connectTo, errorOf, receiveAll } from "../support/http.js";

/** Random requests to the built server on a real engine: none is the server's fault, and nothing is left behind. */
let demo: Demo;
const errors: unknown[] = [];
beforeAll(async () => {
  demo = await serveDemo({}, { onError: (error) => void errors.push(error) });
});
afterEach(async () => {
  expect(errors).toEqual([]);
  await untilIdle(demo.engine);
});
afterAll(() => demo[Symbol.asyncDispose]());

const text = fc.oneof(fc.string({ unit: "binary", maxLength: 30 }), fc.lorem({ maxCount: 5 }));
const awkward = fc.constantFrom<unknown>(
  null,
  -1,
  0,
  0.5,
  1,
  2,
  1e9,
  -1e300,
  "",
  "a",
  [],
  {},
  true,
);
const anything = fc.oneof({ weight: 3, arbitrary: awkward }, fc.jsonValue({ maxDepth: 3 }));
const id = fc.integer({ min: -1, max: 1536 });

/** Mostly right values, so that many requests get as far as the engine. */
const fields: Record<string, fc.Arbitrary<unknown>> = {
  temperature: fc.float({ min: 0, max: 2, noNaN: true }),
  top_p: fc.float({ min: 0, max: 1, noNaN: true }),
  top_k: fc.integer({ min: -1, max: 3000 }),
  min_p: fc.float({ min: 0, max: 1, noNaN: true }),
  seed: fc.maxSafeNat(),
  stop: fc.array(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 4 }),
  stop_token_ids: fc.array(id, { maxLength: 5 }),
  ignore_eos: fc.boolean(),
  skip_special_tokens: fc.boolean(),
  return_token_ids: fc.boolean(),
  stream: fc.boolean(),
  n: fc.integer({ min: 1, max: 5 }),
  best_of: fc.constantFrom(null, null, null, null, 5, 6),
  deadline_ms: fc.constantFrom(null, null, 1, 5, 1000),
  logprobs: fc.constantFrom(null, 0, 3, true),
  prompt_logprobs: fc.constantFrom(null, null, null, null, 3),
  dry_multiplier: fc.float({ min: 0, max: 2, noNaN: true }),
  dry_sequence_breakers: fc.array(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 3 }),
  xtc_probability: fc.float({ min: 0, max: 1, noNaN: true }),
};

/** The same of a beam search, which does not go with most of them. */
const beamFields: Record<string, fc.Arbitrary<unknown>> = {
  use_beam_search: fc.constantFrom(true, true, true, false),
  n: fc.integer({ min: 1, max: 12 }),
  length_penalty: fc.float({ min: -10, max: 10, noNaN: true }),
  early_stopping: fc.constantFrom(false, true, "never"),
  temperature: fc.constantFrom(0, 1),
  min_tokens: fc.integer({ min: 0, max: 4 }),
  stop_token_ids: fc.array(id, { maxLength: 5 }),
  logprobs: fc.constantFrom(null, 0, 3),
  deadline_ms: fc.constantFrom(null, null, 1, 5),
  return_token_ids: fc.boolean(),
  ignore_eos: fc.boolean(),
  stream: fc.boolean(),
};

function mostlyRight(fields: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<object> {
  const entries = Object.entries(fields).map(
    ([name, right]) => [name, fc.oneof({ weight: 30, arbitrary: right }, anything)] as const,
  );
  return fc.record(Object.fromEntries(entries), { requiredKeys: [] });
}

const options = fc.oneof({ weight: 3, arbitrary: mostlyRight(fields) }, mostlyRight(beamFields));

const prompt = fc.oneof(
  text,
  fc.array(id, { maxLength: 20 }),
  fc.array(text, { maxLength: 3 }),
  fc.array(fc.array(id, { maxLength: 5 }), { maxLength: 3 }),
  anything,
);
const message = fc.record(
  {
    role: fc.constantFrom("user", "user", "user", "assistant", "system", "tool", "robot"),
    content: fc.oneof(
      { weight: 10, arbitrary: text },
      fc.array(fc.record({ type: fc.constant("text"), text })),
      anything,
    ),
    name: fc.oneof({ weight: 10, arbitrary: text }, anything),
    extra: anything,
  },
  { requiredKeys: ["role", "content"] },
);
const messages = fc.oneof(
  { weight: 8, arbitrary: fc.array(message, { minLength: 1, maxLength: 3 }) },
  anything,
);

async function send(path: string, body: object): Promise<number> {
  const headers = { "content-type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(body) };
  const reply = await ask(demo.server.url, path, request);
  if (reply.status !== 200) errorOf(reply);
  else if (!reply.text.startsWith("data: ")) JSON.parse(reply.text);
  expect([200, 400]).toContain(reply.status);
  return reply.status;
}

test("random completions", async () => {
  const counts = new Map<number, number>();
  const property = fc.asyncProperty(prompt, options, async (prompt, options) => {
    const body = { model: "demo", max_tokens: 3, prompt, ...options };
    const status = await send("/v1/completions", body);
    counts.set(status, (counts.get(status) ?? 0) + 1);
  });
  await fc.assert(property, { numRuns: 400 });
  expect(counts.get(200)).toBeGreaterThan(20);
  expect(counts.get(400)).toBeGreaterThan(20);
});

test("random chats", async () => {
  const counts = new Map<number, number>();
  const property = fc.asyncProperty(messages, options, async (messages, options) => {
    const body = { model: "demo", max_tokens: 3, messages, ...options };
    const status = await send("/v1/chat/completions", body);
    counts.set(status, (counts.get(status) ?? 0) + 1);
  });
  await fc.assert(property, { numRuns: 400 });
  expect(counts.get(200)).toBeGreaterThan(20);
  expect(counts.get(400)).toBeGreaterThan(20);
});

test("random bytes, and requests cut and changed at random", async () => {
  const body = JSON.stringify({ model: "demo", prompt: "a", max_tokens: 2, stream: true });
  const whole = Buffer.from(
    `POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  const change = fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 }));
  const changed = fc
    .tuple(fc.array(change, { maxLength: 4 }), fc.nat(whole.length))
    .map(([changes, length]) => {
      const bytes = Buffer.from(whole);
      for (const [index, byte] of changes) bytes[index] = byte;
      return bytes.subarray(0, length);
    });
  const bytes = fc.oneof(changed, fc.uint8Array({ maxLength: 200 }));
  const property = fc.asyncProperty(bytes, async (bytes) => {
    const socket = connectTo(demo.server);
    const received = receiveAll(socket);
    socket.end(bytes);
    expect(await received).toMatch(/^($|HTTP\/1\.1 (200|4\d\d) )/);
  });
  await fc.assert(property, { numRuns: 500 });
  expect((await ask(demo.server.url, "/health")).status).toBe(200);
});
