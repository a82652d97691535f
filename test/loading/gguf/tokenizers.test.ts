import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { Detokenizer } from "../../../lib/loading/detokenizer.js";
import { Encoder } from "../../../lib/loading/encoder.js";
import { readGgufHeader } from "../../../lib/loading/gguf/header.js";
import { preTokenizers } from "../../../lib/loading/gguf/pre-tokenizers.js";
import { readGgufTokenizer } from "../../../lib/loading/gguf/tokenizer-json.js";
import { ggufTokenizer } from "../../../lib/loading/gguf/tokenizer-source.js";
import { readTokenizerFiles, type TokenizerFiles } from "../../../lib/loading/tokenizer-files.js";
import { tokenizerMetadata, type GgufTokenizerOptions } from "../../support/gguf-tokenizer.js";
import { list, text, u32, writeGguf, type GgufValue } from "../../support/gguf-writer.js";
import { createRandom } from "../../support/random.js";

const fixtures = new URL("../../fixtures/tokenizers/", import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), "pagoda-gguf-tokenizer-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let count = 0;

/** The tokenizer of a GGUF file with this metadata. */
async function load(metadata: Record<string, GgufValue>): Promise<TokenizerFiles> {
  const path = join(scratch, `${count++}.gguf`);
  const bytes = writeGguf({ metadata });
  writeFileSync(path, bytes);
  await using handle = await open(path);
  const source = ggufTokenizer(await readGgufHeader(handle, { path, bytes: bytes.length }));
  return readGgufTokenizer(source!);
}

/** llama.cpp has no normal forms for this pre-tokenizer. */
function withoutNormalizer(files: TokenizerFiles): TokenizerFiles {
  return { ...files, tokenizer: { ...files.tokenizer, normalizer: null } };
}

interface Kind {
  readonly name: string;
  readonly directory: TokenizerFiles;
  readonly options: GgufTokenizerOptions;
}

const kinds: readonly Kind[] = [
  {
    name: "byte-level",
    directory: withoutNormalizer(readTokenizerFiles(`${fixtures}byte-level`)),
    options: { pre: "llama-bpe", specialIds: { eos: 514 }, flags: { add_bos_token: false } },
  },
  {
    name: "sentencepiece",
    directory: readTokenizerFiles(`${fixtures}sentencepiece`),
    options: { specialIds: { bos: 1, eos: 2, unknown: 0 } },
  },
];

const code = (expected: string) => expect.objectContaining({ code: expected });

describe.each(kinds)("$name", ({ name, directory, options }) => {
  const gguf = load(tokenizerMetadata(directory, options));
  const golden = JSON.parse(readFileSync(`${fixtures}${name}/golden.json`, "utf8")) as {
    readonly cases: readonly { readonly text: string }[];
  };

  test("encodes and decodes as tokenizer.json does", async () => {
    const [expected, actual] = [createBoth(directory), createBoth(await gguf)];
    const texts = [...golden.cases.map(({ text }) => text), ...randomTexts(2_000)];
    for (const text of texts) {
      for (const allowSpecialText of [true, false]) {
        const ids = [...expected.encoder.encode(text, true, allowSpecialText)];
        expect([...actual.encoder.encode(text, true, allowSpecialText)], text).toEqual(ids);
      }
      const ids = expected.encoder.encode(text, true, true);
      for (const skip of [true, false]) {
        expect(actual.detokenizer.decode(ids, skip)).toBe(expected.detokenizer.decode(ids, skip));
      }
    }
  });

  test("decodes any ids as tokenizer.json does", async () => {
    const [expected, actual] = [createBoth(directory), createBoth(await gguf)];
    const { length } = expected.detokenizer.table;
    expect(actual.detokenizer.table).toEqual(expected.detokenizer.table);
    const random = createRandom(3);
    for (let i = 0; i < 500; i++) {
      const ids = Array.from({ length: 1 + random.integer(20) }, () => random.integer(length));
      expect(actual.detokenizer.decode(ids, false)).toBe(expected.detokenizer.decode(ids, false));
      expect(actual.detokenizer.bytes(ids)).toEqual(expected.detokenizer.bytes(ids));
    }
  });
});

function createBoth(files: TokenizerFiles): { encoder: Encoder; detokenizer: Detokenizer } {
  return { encoder: new Encoder(files), detokenizer: new Detokenizer(files) };
}

const alphabets = [
  "the river ran past the old mill, and nobody saw it 12 345 times. ",
  "  \n\t\r\n   a",
  "áéíôüñçß ÅΩ жизнь ελλ 你好世界 こんにちは 한국어 ",
  "👩‍👩‍👧‍👦🙂🇩🇪🏳️‍🌈",
  "{}[]()<>|!?.,;:'\"-_=+*/\\@#$%^&~`",
  "<|im_end|><tool_call></s><s><unk>",
  "\u0000\u0001\u200b\ufeff\u0085\u00a0\u2028\ud7ff\uffff",
];

/** Short texts of letters of a few alphabets, with markers among them. */
function randomTexts(number: number): string[] {
  const random = createRandom(7);
  const pick = <T>(items: readonly T[]): T => items[random.integer(items.length)]!;
  return Array.from({ length: number }, () => {
    const pieces = Array.from({ length: 1 + random.integer(6) }, () => {
      const letters = [...pick(alphabets)];
      if (random.integer(3) > 0) {
        return Array.from({ length: 1 + random.integer(8) }, () => pick(letters)).join("");
      }
      const start = random.integer(letters.length);
      return letters.slice(start, start + 1 + random.integer(20)).join("");
    });
    return pieces.join(pick(["", " ", "  ", "\n"]));
  });
}

describe("special tokens", () => {
  const { directory } = kinds[1]!;
  const metadata = (options: GgufTokenizerOptions) =>
    tokenizerMetadata(directory, { specialIds: { bos: 1, eos: 2, unknown: 0 }, ...options });
  const frameOf = async (flags: Record<string, boolean>): Promise<number[]> => {
    const { encoder } = createBoth(await load(metadata({ flags })));
    const [plain, framed] = [false, true].map((special) => encoder.encode("a", special, true));
    return [...framed!].filter((id) => !plain!.includes(id));
  };

  test("stand around a text as the file says", async () => {
    expect(await frameOf({})).toEqual([1]);
    expect(await frameOf({ add_bos_token: false })).toEqual([]);
    expect(await frameOf({ add_eos_token: true })).toEqual([1, 2]);
  });

  test("that are asked for must be there", async () => {
    const flags = { add_bos_token: true };
    const files = load(metadata({ flags, specialIds: {} }));
    await expect(files).rejects.toEqual(code("ERR_TOKENIZER_INVALID"));
  });

  test("end a sequence by role or by their usual text", async () => {
    const [{ directory: byteLevel }] = [kinds[0]!];
    const files = await load(
      tokenizerMetadata(byteLevel, { pre: "qwen2", specialIds: { eot: 513 } }),
    );
    expect([...files.eosTokenIds!].toSorted((a, b) => a - b)).toEqual([512, 513, 514]);
  });

  test("become variables of the chat templates", async () => {
    const files = await load({
      ...metadata({ chatTemplate: "plain" }),
      "tokenizer.chat_template.tool_use": text("tools"),
    });
    expect(files.config).toMatchObject({
      bos_token: "<s>",
      eos_token: "</s>",
      chat_template: [
        { name: "default", template: "plain" },
        { name: "tool_use", template: "tools" },
      ],
    });
  });

  test("without a space before the first word, as Gemma has it", async () => {
    const files = await load(metadata({ flags: { add_space_prefix: false } }));
    const { encoder, detokenizer } = createBoth(files);
    const ids = encoder.encode("Hello the river", false, true);
    expect(detokenizer.decode(ids, true)).toBe("Hello the river");
    expect([...ids]).not.toContain(331); // a space by itself
  });
});

test("tokens that the user defined are found as they stand, with spaces", async () => {
  const files = await load({
    "tokenizer.ggml.model": text("llama"),
    "tokenizer.ggml.tokens": list("string", ["<unk>", "▁", "a", "▁▁▁", "▁a"]),
    "tokenizer.ggml.scores": list("f32", [0, -1, -2, 0, -3]),
    "tokenizer.ggml.token_type": list("i32", [2, 1, 1, 4, 1]),
    "tokenizer.ggml.add_space_prefix": { type: "bool", value: 0 },
  });
  const { encoder } = createBoth(files);
  expect([...encoder.encode("   a", false, true)]).toEqual([3, 2]);
  expect([...encoder.encode(" a", false, true)]).toEqual([4]);
});

test("an unknown kind or pre-tokenizer is refused by name", async () => {
  const vocabulary = { "tokenizer.ggml.tokens": list("string", ["a"]) };
  const kind = load({ ...vocabulary, "tokenizer.ggml.model": text("bert") });
  await expect(kind).rejects.toMatchObject({
    code: "ERR_MODEL_UNSUPPORTED",
    message: expect.stringContaining('"bert"') as unknown,
    details: { supported: ["gpt2", "llama"] },
  });
  const pre = load({
    ...vocabulary,
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.pre": text("from-the-future"),
  });
  await expect(pre).rejects.toMatchObject({
    code: "ERR_MODEL_UNSUPPORTED",
    details: { supported: expect.arrayContaining(["llama-bpe", "qwen2"]) as unknown },
  });
});

test.each<[string, Record<string, GgufValue>]>([
  ["no tokens", {}],
  ["tokens that are numbers", { "tokenizer.ggml.tokens": list("u32", [1]) }],
  ["fewer scores than tokens", { "tokenizer.ggml.scores": list("f32", [1]) }],
  ["types that are texts", { "tokenizer.ggml.token_type": list("string", ["a", "b"]) }],
  ["a BOS token that is a text", { "tokenizer.ggml.bos_token_id": text("a") }],
  ["a flag that is a number", { "tokenizer.ggml.add_bos_token": u32(1) }],
])("%s: ERR_MODEL_CORRUPT", async (what, wrong) => {
  const tokens =
    what === "no tokens" ? {} : { "tokenizer.ggml.tokens": list("string", ["a", "b"]) };
  const files = load({ "tokenizer.ggml.model": text("llama"), ...tokens, ...wrong });
  await expect(files).rejects.toEqual(code("ERR_MODEL_CORRUPT"));
});

test("merges that are no pairs are refused", async () => {
  const files = load({
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.tokens": list("string", ["a", "b", "ab"]),
    "tokenizer.ggml.merges": list("string", ["ab"]),
  });
  await expect(files).rejects.toEqual(code("ERR_TOKENIZER_INVALID"));
});

/** Words of a text as each pre-tokenizer cuts it. */
test.each([
  ["gpt-2", "I've 1234 x!", ["I", "'ve", " 1234", " x", "!"]],
  ["smollm", "I've 1234 x!", ["I", "'ve", " ", "1", "2", "3", "4", " x", "!"]],
  ["llama-bpe", "I'VE 1234 (x)\n", ["I", "'VE", " ", "123", "4", " (", "x", ")\n"]],
  ["qwen2", "12 ab", ["1", "2", " ab"]],
  ["tekken", "aB Cd 12", ["a", "B", " Cd", " ", "1", "2"]],
  ["gpt-4o", "It's aB 1234", ["It's", " a", "B", " ", "123", "4"]],
  ["deepseek-v3", "1234 a你b .x", ["123", "4", " a", "你", "b", " .", "x"]],
  ["deepseek-coder", "a b12", ["a", " b", "1", "2"]],
  ["deepseek-llm", "a b12你", ["a", " b", "12", "你"]],
  ["falcon", "a, 12345", ["a", ",", " ", "123", "45"]],
  ["default", "a, 1234", ["a", ",", " ", "123", "4"]],
])("the pre-tokenizer %s cuts %j", async (pre, input, words) => {
  const letters = Array.from({ length: 256 }, (_, i) => byteLetter(i));
  const parts = words.map((word) => [...Buffer.from(word)].map((byte) => letters[byte]!));
  const merges = parts.flatMap((part) =>
    part.slice(1).map((letter, i) => `${part.slice(0, i + 1).join("")} ${letter}`),
  );
  // Merges would join more than words where the cuts were wrong.
  const all = [...Buffer.from(input)].map((byte) => letters[byte]!);
  const across = all.slice(1).map((letter, i) => `${all[i]} ${letter}`);
  const known = [...new Set([...merges, ...across])];
  const tokens = [...new Set([...letters, ...known.map((merge) => merge.replace(" ", ""))])];
  const files = await load({
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.pre": text(pre),
    "tokenizer.ggml.tokens": list("string", tokens),
    "tokenizer.ggml.merges": list("string", known),
  });
  const { encoder, detokenizer } = createBoth(files);
  const ids = [...encoder.encode(input, false, true)];
  expect(ids.map((id) => Buffer.from(detokenizer.bytes([id])[0]!).toString())).toEqual(words);
  expect(preTokenizers.has(pre)).toBe(true);
});

/** GPT-2's letter of a byte. */
function byteLetter(byte: number): string {
  const isPrintable = (b: number): boolean => (b > 32 && b < 127) || (b > 160 && b !== 173);
  if (isPrintable(byte)) return String.fromCharCode(byte);
  const before = Array.from({ length: byte }, (_, b) => b).filter((b) => !isPrintable(b));
  return String.fromCharCode(256 + before.length);
}
