import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import type { ChatRequest, GenerateRequest } from "../../lib/engine/types.js";
import { FakeEngine } from "../support/fake-engine.js";
import { ask, connectTo, errorOf, post, receiveAll, serve } from "../support/http.js";

const completion = { model: "fake", prompt: "a" };
const chat = { model: "fake", messages: [{ role: "user", content: "a" }] };

/** A fake engine that keeps the requests it gets and ends each after one token. */
class Recorder extends FakeEngine {
  readonly requests: (GenerateRequest | ChatRequest)[] = [];

  override generate(request: GenerateRequest): ReturnType<FakeEngine["generate"]> {
    this.requests.push(request);
    return super.generate({ ...request, maxTokens: 1 });
  }

  override chat(request: ChatRequest): ReturnType<FakeEngine["chat"]> {
    this.requests.push(request);
    return super.chat({ ...request, maxTokens: 1 });
  }
}

/** Values of a wrong type for a field of each kind. */
const notNumbers = ["1", true, [], [1], {}];
const notBooleans = [0, 1, "true", [], {}];
const notIntegers = [...notNumbers, 1.5, 1e300, -1e300];

/** Field, values that are refused, the parameter named. */
const sampling: [string, unknown[], string?][] = [
  ["model", [1, true, [], {}]],
  ["priority", [...notIntegers, 2 ** 21]],
  ["cache_salt", [1, true, [], {}]],
  ["temperature", [...notNumbers, -0.1, 2.1, 1e300]],
  ["top_p", [...notNumbers, -0.1, 1.1]],
  ["top_k", [...notIntegers, -2, 2 ** 31]],
  ["min_p", [...notNumbers, -0.1, 1.1]],
  ["seed", [...notIntegers, -1, 2 ** 53]],
  ["max_tokens", [...notIntegers, 0, -1, 2 ** 31, 2 ** 53]],
  ["stop", [1, true, {}, [1], [null], "", [""], ["a", ""], ["a", "b", "c", "d", "e"], [["a"]]]],
  ["stop_token_ids", [1, "1", true, {}]],
  ["stop_token_ids", [["1"], [1.5], [-1], [null], [2 ** 31]], "stop_token_ids[0]"],
  ["stop_token_ids", [Array.from({ length: 129 }, (_, i) => i)]],
  ["presence_penalty", [2.1, -2.1, "0", {}]],
  ["frequency_penalty", [2.1, -2.1, "0", []]],
  ["repetition_penalty", [0, -1, 1e7, "1"]],
  ["typical_p", [0, -1, 1.1, "1"]],
  ["logit_bias", [[], "a", 5]],
  ["logit_bias", [{ "": 1 }], "logit_bias."],
  ["logit_bias", [{ " 1": 1 }], "logit_bias. 1"],
  ["logit_bias", [{ "-1": 1 }], "logit_bias.-1"],
  ["logit_bias", [{ 5: "1" }, { 5: 101 }, { 5: null }], "logit_bias.5"],
  ["logit_bias", [Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [i, 1]))]],
  ["allowed_token_ids", [5, {}, Array.from({ length: 1025 }, (_, i) => i)]],
  ["allowed_token_ids", [[-1], ["1"], [1.5]], "allowed_token_ids[0]"],
  ["bad_words", ["word", 5, {}]],
  ["bad_words", [["a", 5]], "bad_words[1]"],
  ["min_tokens", [-1, 1.5, "1"]],
  ["include_stop_str_in_output", notBooleans],
  ["ignore_eos", notBooleans],
  ["skip_special_tokens", notBooleans],
  ["return_token_ids", notBooleans],
  ["deadline_ms", [...notNumbers, 0, 0.5, -1, 2 ** 31]],
  ["prompt_logprobs", [...notIntegers, -1, 21]],
  ["n", [...notIntegers, 0, -1, 129, 1e9]],
  ["best_of", [...notIntegers, 0, -1, 129, 1e9]],
  ["use_beam_search", notBooleans],
  ["length_penalty", [...notNumbers, -10.1, 11, 0.5]],
  ["early_stopping", [0, 1, "true", "always", [], {}, true, "never"]],
  ["dry_multiplier", [...notNumbers, -1, 1e7]],
  ["dry_base", [...notNumbers, 0.5, 1e7]],
  ["dry_allowed_length", [...notIntegers, 0, 2 ** 31]],
  ["dry_penalty_last_n", [...notIntegers, -2, 2 ** 31]],
  ["dry_sequence_breakers", ["a", 1, {}, Array.from({ length: 65 }, () => "a")]],
  [
    "dry_sequence_breakers",
    [[1], [null], [""], ["a".repeat(257)], ["\ud800"]],
    "dry_sequence_breakers[0]",
  ],
  ["xtc_probability", [...notNumbers, -0.1, 1.1]],
  ["xtc_threshold", [...notNumbers, -0.1, 1.1]],
  ["stream", notBooleans],
  ["stream_options", [1, "a", true, [], {}, { include_usage: true }]],
];

/** What does not go together, the parameter named, and what of it does. */
const together: [fields: object, param: string, right: object][] = [
  [{ n: 3, best_of: 2 }, "best_of", { n: 3, best_of: 3 }],
  [{ best_of: 2, stream: true }, "best_of", { best_of: 1, stream: true }],
  [{ prompt_logprobs: 0, stream: true }, "prompt_logprobs", { prompt_logprobs: 0 }],
  [{ length_penalty: 2 }, "length_penalty", { length_penalty: 1, early_stopping: false }],
  [{ early_stopping: "never" }, "early_stopping", { use_beam_search: false }],
  ...(
    [
      [{ n: 65 }, "n", { n: 64 }],
      [{ n: 2, best_of: 3 }, "best_of", { n: 2, best_of: 2 }],
      [{ length_penalty: 11 }, "length_penalty", { length_penalty: -10 }],
      [{ early_stopping: 1 }, "early_stopping", { early_stopping: true }],
      [{ temperature: 0.5 }, "temperature", { temperature: 0 }],
      [{ top_p: 0.5 }, "top_p", { top_p: 1, temperature: 1 }],
      [{ top_k: 5 }, "top_k", { top_k: -1 }],
      [{ min_p: 0.5 }, "min_p", { min_p: 0 }],
      [{ typical_p: 0.5 }, "typical_p", { typical_p: 1 }],
      [{ seed: 0 }, "seed", { seed: null }],
      [{ stop: "a" }, "stop", { stop: [] }],
      [{ presence_penalty: 1 }, "presence_penalty", { presence_penalty: 0 }],
      [{ frequency_penalty: 1 }, "frequency_penalty", { frequency_penalty: 0 }],
      [{ repetition_penalty: 2 }, "repetition_penalty", { repetition_penalty: 1 }],
      [{ logit_bias: { 5: 1 } }, "logit_bias", { logit_bias: {} }],
      [{ allowed_token_ids: [1] }, "allowed_token_ids", { stop_token_ids: [1] }],
      [{ bad_words: ["a"] }, "bad_words", { bad_words: [] }],
      [{ dry_multiplier: 1 }, "dry_multiplier", { dry_multiplier: 0, dry_base: 2 }],
      [{ xtc_probability: 1 }, "xtc_probability", { xtc_probability: 0, xtc_threshold: 0.2 }],
    ] as [object, string, object][]
  ).map(([fields, param, right]): [object, string, object] => [
    { use_beam_search: true, ...fields },
    param,
    { use_beam_search: true, ...right },
  ]),
];

const unsupported: [string, unknown[], unknown[]][] = [
  ["response_format", [{ type: "json_object" }, "text"], [{ type: "text" }]],
];

async function expectRefused(
  url: string,
  path: string,
  body: unknown,
  param: string | null,
): Promise<void> {
  const reply = await post(url, path, body);
  const shown = JSON.stringify(body).slice(0, 200);
  expect([shown, reply.status]).toEqual([shown, 400]);
  const error = errorOf(reply);
  expect([shown, error.param]).toEqual([shown, param]);
  expect(error.type).toBe("invalid_request_error");
  if (param !== null) expect(error.message).toContain(param);
}

test.each(["/v1/completions", "/v1/chat/completions"])("common fields of %s", async (path) => {
  const engine = new Recorder();
  const { url } = await serve(engine);
  const base = path === "/v1/completions" ? completion : chat;
  for (const [field, values, param = field] of sampling) {
    for (const value of values) {
      await expectRefused(url, path, { ...base, [field]: value }, param);
    }
  }
  expect(engine.requests).toEqual([]);
  for (const [field, values, neutral] of unsupported) {
    for (const value of values) {
      await expectRefused(url, path, { ...base, [field]: value }, field);
    }
    for (const value of neutral) {
      expect((await post(url, path, { ...base, [field]: value })).status).toBe(200);
    }
  }
  for (const [fields, param, right] of together) {
    await expectRefused(url, path, { ...base, ...fields }, param);
    expect([right, (await post(url, path, { ...base, ...right })).status]).toEqual([right, 200]);
  }
  await expectRefused(url, path, { ...base, temprature: 1 }, "temprature");
  await expectRefused(url, path, { ...base, constructor: 1 }, "constructor");
  const { model, ...noModel } = base;
  expect((await post(url, path, noModel)).status).toBe(200); // there is only one
  const other = await post(url, path, { ...base, model: `${model}x` });
  expect(other.status).toBe(404);
  expect(errorOf(other)).toMatchObject({ param: "model", code: "model_not_found" });
});

test("a __proto__ key is an unknown field, not a prototype", async () => {
  const { url } = await serve(new Recorder());
  const headers = { "content-type": "application/json" };
  const body = '{"model":"fake","prompt":"a","__proto__":{"max_tokens":5}}';
  const reply = await ask(url, "/v1/completions", { method: "POST", headers, body });
  expect(reply.status).toBe(400);
  expect(errorOf(reply).param).toBe("__proto__");
  const inside = '{"model":"fake","prompt":{"constructor":{"name":{"toString":1}}}}';
  const typed = await ask(url, "/v1/completions", { method: "POST", headers, body: inside });
  expect(typed.status).toBe(400);
});

test("prompts", async () => {
  const engine = new Recorder();
  const { url } = await serve(engine);
  const path = "/v1/completions";
  const wrong: [unknown, string][] = [
    [undefined, "prompt"],
    [null, "prompt"],
    [5, "prompt"],
    [true, "prompt"],
    [{}, "prompt"],
    [[], "prompt"],
    [[true], "prompt"],
    [[{}], "prompt"],
    [["a", 1], "prompt[1]"],
    [["a", ["b"]], "prompt[1]"],
    [[1, "a"], "prompt[1]"],
    [[1.5], "prompt[0]"],
    [[-1], "prompt[0]"],
    [[2 ** 31], "prompt[0]"],
    [[1, null], "prompt[1]"],
    [[[1], "a"], "prompt[1]"],
    [[[1], ["a"]], "prompt[1][0]"],
    [[[1], [1.5]], "prompt[1][0]"],
    [Array.from({ length: 129 }, () => "a"), "prompt"],
  ];
  for (const [prompt, param] of wrong)
    await expectRefused(url, path, { ...completion, prompt }, param);
  await expectRefused(url, path, { ...completion, echo: true }, "echo");
  for (const logprobs of [-1, 21, 1.5, true, "1"])
    await expectRefused(url, path, { ...completion, logprobs }, "logprobs");
  await expectRefused(url, path, { ...completion, suffix: "a" }, "suffix");
  expect(engine.requests).toEqual([]);
  const right = ["a", [1, 2], ["a", "b"], [[1], [2, 3]]];
  for (const prompt of right) {
    const reply = await post(url, path, { ...completion, prompt });
    const { choices } = JSON.parse(reply.text);
    const count = Array.isArray(prompt) && typeof prompt[0] !== "number" ? prompt.length : 1;
    expect(choices.map((choice: { index: number }) => choice.index)).toEqual(
      Array.from({ length: count }, (_, i) => i),
    );
  }
  expect(engine.requests.map((request) => (request as GenerateRequest).prompt)).toEqual([
    "a",
    [1, 2],
    "a",
    "b",
    [1],
    [2, 3],
  ]);
});

test("messages", async () => {
  const engine = new Recorder();
  const { url } = await serve(engine);
  const path = "/v1/chat/completions";
  const user = { role: "user", content: "a" };
  const wrong: [unknown, string][] = [
    [undefined, "messages"],
    [null, "messages"],
    ["a", "messages"],
    [{}, "messages"],
    [[], "messages"],
    [["a"], "messages[0]"],
    [[null], "messages[0]"],
    [[[]], "messages[0]"],
    [[{}], "messages[0].role"],
    [[{ content: "a" }], "messages[0].role"],
    [[{ role: 1, content: "a" }], "messages[0].role"],
    [[{ role: "robot", content: "a" }], "messages[0].role"],
    [[{ role: "__proto__", content: "a" }], "messages[0].role"],
    [[user, { role: "assistant" }], "messages[1].content"],
    [[user, { role: "assistant", content: null }], "messages[1].content"],
    [[{ role: "user", content: 5 }], "messages[0].content"],
    [[{ role: "user", content: {} }], "messages[0].content"],
    [[{ role: "user", content: [] }], "messages[0].content"],
    [[{ role: "user", content: ["a"] }], "messages[0].content[0]"],
    [[{ role: "user", content: [{}] }], "messages[0].content[0].type"],
    [[{ role: "user", content: [{ type: "text" }] }], "messages[0].content[0].text"],
    [[{ role: "user", content: [{ type: "text", text: 1 }] }], "messages[0].content[0].text"],
    [[{ role: "user", content: [{ type: "image_url" }] }], "messages[0].content[0].type"],
    [[{ ...user, name: 5 }], "messages[0].name"],
    [[{ role: "assistant", tool_calls: {} }], "messages[0].tool_calls"],
    [[{ role: "assistant", tool_calls: [{}] }], "messages[0].tool_calls[0].function"],
  ];
  for (const [messages, param] of wrong) {
    await expectRefused(url, path, { ...chat, messages }, param);
  }
  const fields: [string, unknown][] = [
    ["tools", [{ type: "function" }]],
    ["tool_choice", "required"],
    ["functions", [{}]],
    ["logprobs", 5],
    ["logprobs", "true"],
    ["top_logprobs", 5],
    ["top_logprobs", 21],
    ["top_logprobs", -1],
    ["reasoning_effort", "low"],
    ["chat_template", "x"],
    ["chat_template_kwargs", { tokenize: true }],
    ["max_completion_tokens", 0],
    ["prompt", "a"],
  ];
  for (const [field, value] of fields) {
    await expectRefused(url, path, { ...chat, [field]: value }, field);
  }
  const two = { ...chat, max_tokens: 5, max_completion_tokens: 6 };
  await expectRefused(url, path, two, "max_tokens");
  expect(engine.requests).toEqual([]);
});

test("every supported field reaches the engine under its own name", async () => {
  const engine = new Recorder();
  const { url } = await serve(engine);
  const fields = {
    temperature: 0.5,
    top_p: 0,
    top_k: -1,
    min_p: 0.25,
    seed: 7,
    stop: ["x", "y"],
    stop_token_ids: [3],
    ignore_eos: true,
    skip_special_tokens: false,
    presence_penalty: 0.5,
    frequency_penalty: -0.5,
    repetition_penalty: 1.5,
    typical_p: 0.75,
    logit_bias: { 5: -100, 7: 1.5 },
    allowed_token_ids: [5, 6],
    bad_words: ["bad"],
    min_tokens: 2,
    include_stop_str_in_output: true,
    priority: -3,
    cache_salt: "salt",
    deadline_ms: 1234.5,
    n: 2,
    best_of: 3,
    prompt_logprobs: 1,
    dry_multiplier: 0.8,
    dry_base: 2,
    dry_allowed_length: 3,
    dry_penalty_last_n: 64,
    dry_sequence_breakers: ["\n"],
    xtc_probability: 0.5,
    xtc_threshold: 0.25,
  };
  const expected = {
    temperature: 0.5,
    topP: 1e-6,
    topK: 0,
    minP: 0.25,
    seed: 7,
    stop: ["x", "y"],
    stopTokenIds: [3],
    ignoreEos: true,
    skipSpecialTokens: false,
    presencePenalty: 0.5,
    frequencyPenalty: -0.5,
    repetitionPenalty: 1.5,
    typicalP: 0.75,
    logitBias: new Map([
      [5, -100],
      [7, 1.5],
    ]),
    allowedTokenIds: [5, 6],
    badWords: ["bad"],
    minTokens: 2,
    includeStop: true,
    priority: -3,
    cacheSalt: "salt",
    deadlineMs: 1234.5,
    n: 2,
    bestOf: 3,
    promptLogprobs: 1,
    dry: { multiplier: 0.8, base: 2, allowedLength: 3, range: 64, sequenceBreakers: ["\n"] },
    xtc: { probability: 0.5, threshold: 0.25 },
    signal: expect.any(AbortSignal),
  };
  const harmless = { user: "me", metadata: { a: "b" }, store: true, service_tier: "auto" };
  await post(url, "/v1/completions", {
    ...completion,
    ...fields,
    ...harmless,
    max_tokens: 9,
    add_special_tokens: false,
    logprobs: 3,
  });
  const messages = [
    { role: "developer", content: [{ type: "text", text: "b" }] },
    { role: "user", content: "a", name: "n", extra: 1 },
    {
      role: "assistant",
      content: null,
      tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "{}" } }],
    },
    { role: "tool", content: "c", tool_call_id: "1" },
  ];
  await post(url, "/v1/chat/completions", {
    ...chat,
    ...fields,
    messages,
    max_completion_tokens: 9,
    logprobs: true,
    top_logprobs: 4,
  });
  await post(url, "/v1/completions", completion);
  await post(url, "/v1/chat/completions", chat);
  expect(engine.requests).toEqual([
    { ...expected, prompt: "a", maxTokens: 9, addSpecialTokens: false, logprobs: 3 },
    { ...expected, messages, maxTokens: 9, logprobs: 4 },
    { prompt: "a", maxTokens: 16, signal: expect.any(AbortSignal) },
    { messages: chat.messages, signal: expect.any(AbortSignal) },
  ]);
});

test("a beam search reaches the engine without what says nothing about it", async () => {
  const engine = new Recorder();
  const { url } = await serve(engine);
  const search = {
    use_beam_search: true,
    n: 3,
    length_penalty: 0.5,
    early_stopping: "never",
    temperature: 0,
    top_p: 1,
    min_tokens: 2,
    dry_multiplier: 0,
  };
  await post(url, "/v1/completions", { ...completion, ...search });
  await post(url, "/v1/chat/completions", { ...chat, use_beam_search: true });
  const signal = expect.any(AbortSignal);
  const beam = { width: 3, lengthPenalty: 0.5, earlyStopping: "never" };
  expect(engine.requests).toEqual([
    { prompt: "a", maxTokens: 16, n: 3, beam, minTokens: 2, signal },
    { messages: chat.messages, beam: { width: 1 }, signal },
  ]);
});

test("DRY looks at all tokens, and is off without a multiplier, as in llama.cpp", async () => {
  const engine = new Recorder();
  const { url } = await serve(engine);
  const all = { dry_multiplier: 1, dry_penalty_last_n: -1 };
  await post(url, "/v1/completions", { ...completion, ...all });
  await post(url, "/v1/completions", { ...completion, dry_base: 2, xtc_threshold: 0.2 });
  const signal = expect.any(AbortSignal);
  expect(engine.requests).toEqual([
    { prompt: "a", maxTokens: 16, dry: { multiplier: 1 }, signal },
    { prompt: "a", maxTokens: 16, signal },
  ]);
});

const json = { "content-type": "application/json" };

const bodies: [string, string | Uint8Array, Record<string, string>, number][] = [
  ["empty", "", json, 400],
  ["cut off", '{"model": "fa', json, 400],
  ["not JSON", "model=fake", json, 400],
  ["a trailing comma", '{"model":"fake",}', json, 400],
  ["NaN", '{"model":"fake","prompt":"a","temperature":NaN}', json, 400],
  ["null", "null", json, 400],
  ["an array", "[]", json, 400],
  ["a string", '"a"', json, 400],
  ["a number", "5", json, 400],
  ["invalid UTF-8", Buffer.from([0x22, 0xff, 0xfe, 0x22]), json, 400],
  ["too many keys", `{"a":1${',"b":1'.repeat(70_000)}}`, json, 413],
  ["too many values", `{"prompt":[1${",1".repeat(270_000)}]}`, json, 413],
  ["deep arrays", "[".repeat(100_000), json, 400],
  ["deep objects", '{"a":'.repeat(100_000), json, 400],
  ["deep and valid", `{"a":${"[".repeat(100)}${"]".repeat(100)}}`, json, 400],
  ["no content type", JSON.stringify(completion), {}, 415],
  [
    "a form",
    JSON.stringify(completion),
    { "content-type": "application/x-www-form-urlencoded" },
    415,
  ],
  ["text", JSON.stringify(completion), { "content-type": "text/plain" }, 415],
  [
    "another charset",
    JSON.stringify(completion),
    { "content-type": "application/json; charset=latin1" },
    415,
  ],
  ["gzip", gzipSync(JSON.stringify(completion)), { ...json, "content-encoding": "gzip" }, 415],
  ["a body of 9 MiB", `{"prompt":"${"a".repeat(9 * 2 ** 20)}"}`, json, 413],
  [
    "a charset in capitals",
    JSON.stringify(completion),
    { "content-type": "Application/JSON; Charset=UTF-8" },
    200,
  ],
  ["identity", JSON.stringify(completion), { ...json, "content-encoding": "identity" }, 200],
];

test.each(bodies)("a body that is %s", async (_, body, headers, status) => {
  const { url } = await serve(new Recorder());
  for (const chunked of [false, true]) {
    const more = chunked ? { "transfer-encoding": "chunked" } : {};
    const reply = await ask(url, "/v1/completions", {
      method: "POST",
      headers: { ...headers, ...more },
      body,
    });
    expect(reply.status).toBe(status);
    if (status !== 200) expect(errorOf(reply).type).toBe("invalid_request_error");
  }
});

test("a body that never ends is cut off", async () => {
  const { url, port } = await serve(new Recorder(), { maxBodyBytes: 10_000 });
  const socket = connectTo({ port });
  const received = receiveAll(socket);
  const head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
  socket.write(`${head}transfer-encoding: chunked\r\n\r\n`);
  const timer = setInterval(() => socket.write(`1000\r\n${"a".repeat(4096)}\r\n`), 2);
  const begin = performance.now();
  const text = await received;
  clearInterval(timer);
  expect(performance.now() - begin).toBeLessThan(10_000);
  expect(text).toMatch(/^HTTP\/1.1 413 /);
  expect((await ask(url, "/health")).status).toBe(200);
});
