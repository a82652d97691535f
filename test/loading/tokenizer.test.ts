import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { loadTokenizer as Load, Tokenizer } from "../../lib/loading/tokenizer.js";
import { measureLoopDelay } from "../support/loop-delay.js";

/** Workers need JavaScript files, so this suite runs the built package. */
const built = new URL("../../dist/loading/tokenizer.js", import.meta.url).href;
const { loadTokenizer } = (await import(/* @vite-ignore */ built)) as {
  loadTokenizer: typeof Load;
};

const fixtures = new URL("../fixtures/tokenizers/", import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), "pagoda-tokenizer-"));
const opened: Tokenizer[] = [];
let count = 0;

async function load(directory: string): Promise<Tokenizer> {
  const tokenizer = await loadTokenizer(directory);
  opened.push(tokenizer!);
  return tokenizer!;
}

/** A copy of a fixture with some files replaced. */
function copyWith(files: Readonly<Record<string, string>>): string {
  const directory = join(scratch, String(count++));
  cpSync(`${fixtures}byte-level`, directory, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  return directory;
}

afterEach(async () => {
  await Promise.all(opened.splice(0).map((tokenizer) => tokenizer.close()));
});
afterAll(() => rmSync(scratch, { recursive: true }));

const code = (expected: string) => expect.objectContaining({ code: expected });

describe("a loaded tokenizer", () => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = (await loadTokenizer(`${fixtures}byte-level`))!;
  });
  afterAll(() => tokenizer.close());

  test("states its facts", () => {
    expect(tokenizer).toMatchObject({ vocabSize: 516, eosTokenIds: [514], hasChatTemplate: true });
    expect(tokenizer.bosToken).toBeUndefined();
  });

  test("encodes markers as special tokens, or as plain text when asked", async () => {
    const text = "a<|im_end|>b";
    const special = await tokenizer.encode(text);
    const plain = await tokenizer.encode(text, { allowSpecialText: false });
    expect(special).toBeInstanceOf(Int32Array);
    expect(special).toContain(514);
    expect(plain).not.toContain(514);
    expect(await tokenizer.decode(special)).toBe("ab");
    expect(await tokenizer.decode(special, { skipSpecialTokens: false })).toBe(text);
    expect(await tokenizer.decode(plain)).toBe(text);
  });

  test("decodes long sequences as it does short ones", async () => {
    const text = "你好 👩‍👩‍👧‍👦 the river\n";
    const ids = [...(await tokenizer.encode(text))];
    const many = Array.from({ length: 5_000 }, () => ids).flat();
    expect(await tokenizer.decode(many)).toBe(text.repeat(5_000));
  });

  test("decodes nothing to nothing, and leaves out ids without a token", async () => {
    expect(await tokenizer.decode([])).toBe("");
    expect(await tokenizer.decode([2 ** 31 - 1, 516])).toBe("");
  });

  test.each([[[-1]], [[1.5]], [[Number.NaN]], [[2 ** 31]], [["1"]], [[undefined]]])(
    "refuses %j as token ids",
    async (ids) => {
      await expect(tokenizer.decode(ids as never)).rejects.toEqual(code("ERR_TOKEN_ID"));
      expect(() => tokenizer.openStream(1, ids as never)).toThrow(code("ERR_TOKEN_ID"));
    },
  );

  test.each([[undefined], [null], [1], ["12"], [{}], [{ length: -1 }], [{ length: 2 ** 40 }]])(
    "refuses %j as a list of ids",
    async (ids) => {
      const refused = code("ERR_ARGUMENT");
      await expect(tokenizer.decode(ids as never)).rejects.toEqual(refused);
      tokenizer.openStream(1, []);
      const batch = [{ id: 1, tokens: ids, last: false }];
      await expect(tokenizer.feed(batch as never)).rejects.toEqual(refused);
      await expect(tokenizer.feed(ids as never)).rejects.toEqual(refused);
      tokenizer.closeStream(1);
    },
  );

  test.each([[undefined], [null], [1], ["12"], [{}], [{ length: -1 }]])(
    "refuses %j as a prompt",
    (ids) => {
      expect(() => tokenizer.openStream(1, ids as never)).toThrow(code("ERR_ARGUMENT"));
    },
  );

  test.each([undefined, null, 1, {}, " ".repeat(2 ** 23 + 1)])("refuses text %#", async (text) => {
    await expect(tokenizer.encode(text as never)).rejects.toEqual(code("ERR_ARGUMENT"));
  });

  test("survives lone surrogates", async () => {
    const ids = await tokenizer.encode("a\ud83db");
    expect(await tokenizer.decode(ids)).toBe("a\ufffdb");
  });

  test("renders its chat template", async () => {
    const messages = [{ role: "user", content: "Hi" }];
    const kwargs = { enable_thinking: false };
    const text = await tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true, kwargs });
    expect(text).toBe(
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    );
  });

  test.each([
    [[], { kwargs: { messages: 1 } }],
    [[], { kwargs: { raise_exception: 1 } }],
    [[], { kwargs: null }],
    [[], { tools: [1n] }],
    ["x", {}],
  ])("refuses the template arguments %#", async (messages, options) => {
    const rendering = tokenizer.applyChatTemplate(messages as never, options as never);
    await expect(rendering).rejects.toEqual(code("ERR_ARGUMENT"));
  });

  test("streams what it decodes, in one message a step", async () => {
    const text = "你好 👩‍👩‍👧‍👦 the river\n";
    const ids = await tokenizer.encode(text);
    for (let id = 0; id < 16; id++) tokenizer.openStream(id, []);
    const texts = Array<string>(16).fill("");
    for (const [step, token] of ids.entries()) {
      const last = step === ids.length - 1;
      const batch = texts.map((_, id) => ({ id, tokens: [token], last }));
      for (const piece of await tokenizer.feed(batch)) texts[piece.id] += piece.text;
    }
    expect(new Set(texts)).toEqual(new Set([text]));
  });

  test("frees the id of a stream with its last input and when closed", async () => {
    const [a] = await tokenizer.encode("a");
    const feed = (last: boolean) => tokenizer.feed([{ id: 1, tokens: [a!], last }]);
    tokenizer.openStream(1, []);
    expect(() => tokenizer.openStream(1, [])).toThrow(code("ERR_ARGUMENT"));
    expect(await feed(true)).toEqual([{ id: 1, text: "a" }]);
    await expect(feed(false)).rejects.toEqual(code("ERR_ARGUMENT"));

    tokenizer.openStream(1, []);
    tokenizer.closeStream(1);
    tokenizer.closeStream(1);
    await expect(feed(false)).rejects.toEqual(code("ERR_ARGUMENT"));

    tokenizer.openStream(1, []);
    await feed(false);
    tokenizer.closeStream(1);
    tokenizer.openStream(1, []);
    expect(await feed(true)).toEqual([{ id: 1, text: "a" }]);
  });
});

test("a directory without tokenizer.json has no tokenizer", async () => {
  expect(await loadTokenizer(fixtures)).toBeUndefined();
  expect(await loadTokenizer(join(fixtures, "missing"))).toBeUndefined();
});

test("the post-processor adds special tokens unless told otherwise", async () => {
  const tokenizer = await load(`${fixtures}sentencepiece`);
  const [bos, ...rest] = await tokenizer.encode("Hello");
  expect([tokenizer.bosToken, bos]).toEqual(["<s>", 1]);
  expect([...(await tokenizer.encode("Hello", { addSpecialTokens: false }))]).toEqual(rest);
  const plain = await tokenizer.encode("<s>x</s>", { allowSpecialText: false });
  expect([...plain].filter((id) => id < 3)).toEqual([1]);
  expect(await tokenizer.decode(plain)).toBe("<s>x</s>");
});

const fixture = JSON.parse(readFileSync(`${fixtures}byte-level/tokenizer.json`, "utf8"));
const variant = (change: object) => JSON.stringify({ ...fixture, ...change });
const model = fixture.model as object;

test.each([
  ["is empty", ""],
  ["is no JSON", "{"],
  ["is no object", "[]"],
  ["has no model", variant({ model: undefined })],
  ["has no vocabulary", variant({ model: { ...model, vocab: null } })],
  ["has a negative id", variant({ model: { ...model, vocab: { a: -1 } } })],
  ["has a fractional id", variant({ model: { ...model, vocab: { a: 1.5 } } })],
  ["has an id of 2^32 - 1", variant({ model: { ...model, vocab: { a: 2 ** 32 - 1 } } })],
  ["has a score that is no number", variant({ model: { type: "Unigram", vocab: [["a", "b"]] } })],
  ["has merges of the wrong type", variant({ model: { ...model, merges: 1 } })],
  ["has added tokens without id", variant({ added_tokens: [{ content: "x" }] })],
  ["has an added token without text", variant({ added_tokens: [{ id: 1, content: "" }] })],
  ["has an added id of 2^32 - 1", variant({ added_tokens: [{ id: 2 ** 32 - 1, content: "x" }] })],
  ["has an unknown decoder", variant({ decoder: { type: "Nope" } })],
  ["has an unknown pre-tokenizer", variant({ pre_tokenizer: { type: "Nope" } })],
  [
    "has an invalid pattern",
    variant({ pre_tokenizer: { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" } }),
  ],
])("a tokenizer.json that %s gives ERR_TOKENIZER_INVALID", async (_, text) => {
  const directory = copyWith({ "tokenizer.json": text });
  await expect(loadTokenizer(directory)).rejects.toEqual(code("ERR_TOKENIZER_INVALID"));
});

describe("chat templates", () => {
  const messages = [{ role: "user", content: "Hi" }];

  test("of chat_template.jinja come first", async () => {
    const tokenizer = await load(copyWith({ "chat_template.jinja": "{{ eos_token }}!" }));
    expect(await tokenizer.applyChatTemplate(messages)).toBe("<|im_end|>!");
  });

  test("may be missing", async () => {
    const tokenizer = await load(copyWith({ "tokenizer_config.json": "{}" }));
    expect(tokenizer.hasChatTemplate).toBe(false);
    await expect(tokenizer.applyChatTemplate(messages)).rejects.toEqual(code("ERR_CHAT_TEMPLATE"));
  });

  test("that do not end are stopped, and nothing else is lost", async () => {
    const loop =
      "{% if messages[0].content == 'Hi' %}{% for a in range(99999) %}" +
      "{% for b in range(99999) %}{% set x = a * b %}{% endfor %}{% endfor %}{% endif %}done";
    const tokenizer = await load(copyWith({ "chat_template.jinja": loop }));
    const ids = [...(await tokenizer.encode("the river"))];
    tokenizer.openStream(1, []);
    const [first] = await tokenizer.feed([{ id: 1, tokens: ids.slice(0, 2), last: false }]);

    const started = performance.now();
    const endless = tokenizer.applyChatTemplate(messages);
    const queued = tokenizer.applyChatTemplate([{ role: "user", content: "Bye" }]);
    const during = await tokenizer.encode("the river");
    expect(performance.now() - started).toBeLessThan(1_500);
    await expect(endless).rejects.toEqual(code("ERR_CHAT_TEMPLATE"));
    expect(await queued).toBe("done");
    expect([...during]).toEqual(ids);

    const [rest] = await tokenizer.feed([{ id: 1, tokens: ids.slice(2), last: true }]);
    expect(first!.text + rest!.text).toBe("the river");
  });

  test("may not grow without bound in one step", async () => {
    const wider = "{% set a = [a, a, a, a, a, a, a, a, a, a] %}".repeat(9);
    const source = `{% set a = ['x'] %}${wider}{{ a | tojson | length }}`;
    const tokenizer = await load(copyWith({ "chat_template.jinja": source }));
    await expect(tokenizer.applyChatTemplate(messages)).rejects.toEqual(code("ERR_CHAT_TEMPLATE"));
  });
});

test("a long text holds up neither the event loop nor the streams", async () => {
  const tokenizer = await load(`${fixtures}byte-level`);
  const [a] = await tokenizer.encode("a");
  tokenizer.openStream(1, []);
  await tokenizer.feed([{ id: 1, tokens: [a!], last: false }]);
  const stop = measureLoopDelay();
  const state = { isEncoding: true };
  const long = tokenizer.encode("The river ran past the old mill. ".repeat(30_000)).then((ids) => {
    state.isEncoding = false;
    return ids;
  });
  let steps = 0;
  while (state.isEncoding) {
    await tokenizer.feed([{ id: 1, tokens: [a!], last: false }]);
    steps++;
  }
  const delay = stop();
  expect((await long).length).toBeGreaterThan(100_000);
  expect(steps).toBeGreaterThan(20);
  expect(delay.percentile(99)).toBeLessThan(50);
});

test("closing rejects what is pending and all that follows", async () => {
  const tokenizer = await load(`${fixtures}byte-level`);
  const pending = [tokenizer.encode("a"), tokenizer.encode("b"), tokenizer.decode([1])];
  const outcomes = Promise.allSettled(pending);
  await tokenizer.close();
  for (const outcome of await outcomes) {
    expect(outcome).toEqual({ status: "rejected", reason: code("ERR_CLOSED") });
  }
  const closed = code("ERR_CLOSED");
  await expect(tokenizer.encode("a")).rejects.toEqual(closed);
  await expect(tokenizer.feed([])).rejects.toEqual(closed);
  await expect(tokenizer.applyChatTemplate([{ role: "user", content: "" }])).rejects.toEqual(
    closed,
  );
  expect(() => tokenizer.openStream(1, [])).toThrow(closed);
  tokenizer.closeStream(1);
  await tokenizer.close();
});

test("loading stops when its signal fires", async () => {
  const early = loadTokenizer(`${fixtures}byte-level`, { signal: AbortSignal.abort() });
  await expect(early).rejects.toEqual(code("ERR_ABORTED"));
  const controller = new AbortController();
  const late = loadTokenizer(`${fixtures}byte-level`, { signal: controller.signal });
  setTimeout(() => controller.abort(), 5);
  await expect(late).rejects.toEqual(code("ERR_ABORTED"));
});

test("an idle tokenizer does not keep the process alive", () => {
  const script = `
    const { loadTokenizer } = await import(${JSON.stringify(built)});
    const tokenizer = await loadTokenizer(${JSON.stringify(`${fixtures}byte-level`)});
    console.log(await tokenizer.decode(await tokenizer.encode("the river")));`;
  const child = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    timeout: 30_000,
  });
  expect(child).toMatchObject({ status: 0, stdout: "the river\n", stderr: "" });
});
