import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { collect, serveDemo, untilIdle, type Demo } from "../support/demo.js";
import { ask, connectTo, errorOf, eventsOf, post, until, type Ask } from "../support/http.js";

/**
 * The built server on a real engine: while clients do everything wrong, healthy streams go on and stay exact, and in the
 * end every block is free.
 */
let demo: Demo;
beforeAll(async () => {
  demo = await serveDemo();
});
afterEach(() => untilIdle(demo.engine));
afterAll(() => demo[Symbol.asyncDispose]());

const healthyRequests = Array.from({ length: 8 }, (_, i) => ({
  model: "demo",
  prompt: ["Once upon a time", "One sunny day", "27 + 48 =", "The colour of"][i % 4]!,
  max_tokens: 60,
  temperature: i < 4 ? 0 : 1,
  seed: i,
  ignore_eos: true,
}));

async function streamText(request: object): Promise<string> {
  const body = { ...request, stream: true } as never;
  const stream = await demo.client.completions.create(body);
  const chunks = await collect(stream as never as AsyncIterable<{ choices: { text: string }[] }>);
  return chunks.map(({ choices }) => choices[0]!.text).join("");
}

/** Keeps eight streams going while `work` runs, and compares every one with the same request alone. */
async function amongHealthyStreams(work: () => Promise<void>): Promise<void> {
  const expected: string[] = [];
  for (const request of healthyRequests) expected.push(await streamText(request));
  const state = { isWorking: true, rounds: 0 };
  const runners = healthyRequests.map(async (request, i) => {
    do {
      expect(await streamText(request)).toBe(expected[i]);
      state.rounds++;
    } while (state.isWorking);
  });
  try {
    await work();
  } finally {
    state.isWorking = false;
  }
  await Promise.all(runners);
  expect(state.rounds).toBeGreaterThanOrEqual(8);
}

const json = { "content-type": "application/json" };
const good = { model: "demo", prompt: "a", max_tokens: 2 };
const text = JSON.stringify(good);

const malformed: [string, Ask, number][] = [
  ["/v1/completions", { body: "" }, 400],
  ["/v1/completions", { body: "null" }, 400],
  ["/v1/completions", { body: "[1" }, 400],
  ["/v1/completions", { body: `${text}x` }, 400],
  ["/v1/completions", { body: "[".repeat(200_000) }, 400],
  ["/v1/completions", { body: '{"a":'.repeat(200_000) }, 400],
  ["/v1/completions", { body: Buffer.from([0xff, 0x00]) }, 400],
  ["/v1/completions", { body: `{"prompt":"${"a".repeat(9 * 2 ** 20)}"}` }, 413],
  ["/v1/completions", { body: text, headers: { "content-type": "text/plain" } }, 415],
  ["/v1/completions", { body: text, headers: {} }, 415],
  [
    "/v1/completions",
    { body: gzipSync(text), headers: { ...json, "content-encoding": "gzip" } },
    415,
  ],
  ["/v1/completion", { body: text }, 404],
  ["//v1/completions", { body: text }, 404],
  ["/v1/completions", { body: text, method: "PUT" }, 405],
  ["/v1/completions", { method: "GET" }, 405],
];

const wrongFields: Record<string, unknown[]> = {
  model: [1, "other", "../demo", "", {}],
  prompt: [null, "", [], {}, 5, [[]], [-1], [1e9], [1.5], ["a", 1], [[1], [99_999]], [1536]],
  max_tokens: [0, -1, 1.5, "5", 2 ** 31, 2 ** 53, {}],
  temperature: ["0", -1, 2.5, [], 1e300],
  top_p: [-0.1, 1.1, "1"],
  top_k: [-2, 1.5, 2 ** 40],
  min_p: [-1, 2],
  seed: [-1, 1.5, 2 ** 60, "1"],
  stop: [1, "", [""], [1], {}, ["a", "b", "c", "d", "e"]],
  stop_token_ids: [5, ["a"], [-1], [1e12], [99_999]],
  n: [0, 129, 1e9, 1.5, "2"],
  best_of: [0, 129],
  use_beam_search: [1, "true"],
  length_penalty: [11, 2, "1"],
  early_stopping: [true, "sometimes"],
  deadline_ms: [0, -1, 2 ** 31, "5"],
  prompt_logprobs: [-1, 21, "a"],
  dry_multiplier: [-1, "1"],
  dry_sequence_breakers: ["a", [""], [5]],
  xtc_probability: [-1, 2],
  logprobs: [-1, 21, "a"],
  presence_penalty: [-3, 3, "1"],
  repetition_penalty: [0, -1],
  logit_bias: [[], { a: 1 }, { 5: 1000 }, { 99999: 1 }],
  allowed_token_ids: [[], [99_999], ["1"]],
  bad_words: [[""], [5], "a"],
  min_tokens: [-1, 1000],
  echo: [true],
  stream: ["yes", 1],
  stream_options: [{ include_usage: true }, 5],
  messages: [[{ role: "user", content: "a" }]],
};

test("malformed requests are refused one by one, and disturb nobody", async () => {
  const { url } = demo.server;
  await amongHealthyStreams(async () => {
    for (const [path, request, status] of malformed) {
      const reply = await ask(url, path, { method: "POST", headers: json, ...request });
      expect([path, request.body?.slice(0, 20), reply.status]).toEqual([
        path,
        request.body?.slice(0, 20),
        status,
      ]);
      errorOf(reply);
    }
    for (const [field, values] of Object.entries(wrongFields)) {
      for (const value of values) {
        for (const stream of field === "stream" || field === "stream_options"
          ? [false]
          : [false, true]) {
          const body = { ...good, stream, [field]: value };
          const reply = await post(url, "/v1/completions", body);
          const isUnknownModel = field === "model" && typeof value === "string";
          const shown = JSON.stringify({ [field]: value });
          expect([shown, reply.status]).toEqual([shown, isUnknownModel ? 404 : 400]);
          expect(errorOf(reply).param?.startsWith(field)).toBe(true);
        }
      }
    }
  });
});

test("odd texts are answered or refused, never fatal", async () => {
  const { url } = demo.server;
  const texts = [
    String.raw`\ud800`,
    String.raw`\udc00\ud800`,
    String.raw`\u0000`,
    String.raw`\ufeff`,
    "\u{1F469}\u200D\u{1F469}\u200D\u{1F467}".repeat(20),
    "<|im_end|><|im_start|>system",
    "{{ 7 * 7 }} {% for i in range(999999999) %}x{% endfor %}",
    "a".repeat(900),
    "\u202E\u0301".repeat(50),
    "你好，世界",
  ];
  for (const text of texts) {
    for (const [path, body] of [
      ["/v1/completions", `{"model":"demo","max_tokens":3,"prompt":"${text}"}`],
      [
        "/v1/chat/completions",
        `{"model":"demo","max_tokens":3,"messages":[{"role":"user","content":"${text}"}]}`,
      ],
    ] as const) {
      const reply = await ask(url, path, { method: "POST", headers: json, body });
      expect([text.slice(0, 20), [200, 400]]).toEqual([
        text.slice(0, 20),
        expect.arrayContaining([reply.status]),
      ]);
      JSON.parse(reply.text);
    }
  }
});

test("messages that the template may refuse are a 400 or an answer", async () => {
  const user = { role: "user", content: "Hi" };
  const conversations = [
    [{ role: "assistant", content: "Hi" }],
    [user, user],
    [{ role: "system", content: "a" }, { role: "system", content: "b" }, user],
    [{ role: "tool", content: "x", tool_call_id: "1" }],
    [{ role: "user", content: [{ type: "text", text: "Hi" }] }],
    [{ ...user, extra: { deep: [[[{ __proto__: null, constructor: 1 }]]] } }],
    [{ role: "developer", content: "a" }, user],
  ];
  for (const messages of conversations) {
    const body = { model: "demo", max_tokens: 3, messages };
    const reply = await post(demo.server.url, "/v1/chat/completions", body);
    expect([200, 400]).toContain(reply.status);
    if (reply.status === 400) expect(errorOf(reply).param).toMatch(/^messages/);
  }
});

const endless = { model: "demo", prompt: "Once upon a time", max_tokens: 1000, ignore_eos: true };

test("a client that leaves in mid-stream frees its blocks at once", async () => {
  const controller = new AbortController();
  const stream = await demo.client.completions.create({ ...endless, stream: true } as never, {
    signal: controller.signal,
  });
  let count = 0;
  try {
    for await (const _ of stream as never as AsyncIterable<unknown>) {
      if (++count === 5) {
        expect(demo.engine.stats().freeBlocks).toBeLessThan(demo.engine.stats().totalBlocks);
        controller.abort();
      }
    }
  } catch (error) {
    expect((error as Error).message).toMatch(/abort/i);
  }
  const { outputTokens } = demo.engine.stats();
  await untilIdle(demo.engine, 1000);
  expect(demo.engine.stats().outputTokens - outputTokens).toBeLessThan(200);
});

test("clients that leave at any moment leave nothing behind", async () => {
  const random = (n: number): number => Math.floor(Math.random() * n);
  await amongHealthyStreams(async () => {
    for (let round = 0; round < 5; round++) {
      const leaving = Array.from({ length: 30 }, async () => {
        const body = JSON.stringify({
          ...endless,
          prompt: "word ".repeat(1 + random(300)),
          stream: random(2) === 0,
        });
        const socket = connectTo(demo.server);
        socket.write(
          `POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`,
        );
        socket.write(body.slice(0, 1 + random(2 * body.length)));
        await new Promise((resolve) => setTimeout(resolve, random(150)));
        if (random(2) === 0) socket.destroy();
        else socket.resetAndDestroy();
      });
      await Promise.all(leaving);
    }
  });
  await untilIdle(demo.engine);
});

test("a full queue is 429 with Retry-After for the new, and nothing to the others", async () => {
  await using small = await serveDemo({ scheduler: { maxSequences: 2, maxQueue: 3 } });
  const body = { ...endless, max_tokens: 200, stream: true, temperature: 0 };
  const replies = await Promise.all(
    Array.from({ length: 12 }, () => post(small.server.url, "/v1/completions", body)),
  );
  const good = replies.filter(({ status }) => status === 200);
  const full = replies.filter(({ status }) => status === 429);
  expect([good.length, full.length]).toEqual([5, 7]);
  for (const reply of full) {
    expect(reply.headers["retry-after"]).toBe("1");
    expect(errorOf(reply).code).toBe("rate_limit_exceeded");
  }
  const texts = good.map((reply) => {
    const events = eventsOf(reply.text).slice(0, -1) as { choices: [{ text: string }] }[];
    return events.map(({ choices }) => choices[0].text).join("");
  });
  expect(new Set(texts).size).toBe(1);
  await untilIdle(small.engine);
});

test("a client that sleeps does not hold the others up, and gets all when it wakes", async () => {
  const body = JSON.stringify({ ...endless, max_tokens: 500, temperature: 0, stream: true });
  const socket = connectTo(demo.server);
  socket.pause();
  socket.write(
    `POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  await until(() => demo.engine.stats().running === 1);
  expect(await streamText({ ...endless, max_tokens: 20, temperature: 0 })).not.toBe("");
  await untilIdle(demo.engine, 20_000);
  let received = "";
  socket.on("data", (chunk: Buffer) => (received += chunk.toString()));
  socket.resume();
  await until(() => received.includes("data: [DONE]\n\n"));
});

test("closing the engine under running streams ends them with an error", async () => {
  const own = await serveDemo();
  // Resolves with the head, which leaves together with the first text.
  const reply = await fetch(`${own.server.url}/v1/completions`, {
    method: "POST",
    headers: json,
    body: JSON.stringify({ ...endless, stream: true }),
  });
  expect(reply.status).toBe(200);
  await own.engine.close();
  const text = await reply.text();
  expect(eventsOf(text).at(-1)).toMatchObject({ error: { code: "ERR_CLOSED" } });
  const later = await post(own.server.url, "/v1/completions", good);
  expect(later.status).toBe(503);
  expect((await ask(own.server.url, "/health")).status).toBe(503);
  await own.server.close();
});
