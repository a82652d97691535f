import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { loadTokenizer as Load, Tokenizer } from "../../lib/loading/tokenizer.js";
import { createTokenBytes } from "../../lib/loading/token-bytes.js";

/** Workers need JavaScript files, so this suite runs the built package. */
const built = new URL("../../dist/loading/tokenizer.js", import.meta.url).href;
const { loadTokenizer } = (await import(/* @vite-ignore */ built)) as {
  loadTokenizer: typeof Load;
};

const fixtures = new URL("../fixtures/tokenizers/", import.meta.url).pathname;
const texts = [
  "Hello, world",
  " a  b\n\tc",
  "naïve café — “quotes”",
  "日本語 🎉👨‍👩‍👧",
  "\u0000\u007f",
];

describe.each(["byte-level", "sentencepiece"])("tokenBytes of a %s tokenizer", (name) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = (await loadTokenizer(`${fixtures}${name}`))!;
  });
  afterAll(() => tokenizer.close());

  it.each(texts)("add up to the text: %j", async (text) => {
    const ids = await tokenizer.encode(text, { addSpecialTokens: false });
    const bytes = await tokenizer.tokenBytes(ids);
    expect(bytes.length).toBe(ids.length);
    const joined = Buffer.concat(bytes).toString();
    // Sentencepiece puts a space in front of a text, and takes one away.
    expect(joined.trimStart()).toBe((await tokenizer.decode(ids)).trimStart());
  });

  it("knows special tokens, and has none for ids without a token", async () => {
    const [special] = readTokenizer(name).added_tokens;
    const [bytes, none] = await tokenizer.tokenBytes([special!.id, 2 ** 30]);
    expect(Buffer.from(bytes!).toString()).toBe(special!.content);
    expect(none!.length).toBe(0);
    await expect(tokenizer.tokenBytes([-1])).rejects.toMatchObject({ code: "ERR_TOKEN_ID" });
  });
});

function readTokenizer(name: string): { added_tokens: { id: number; content: string }[] } {
  return JSON.parse(readFileSync(`${fixtures}${name}/tokenizer.json`, "utf8")) as never;
}

describe("createTokenBytes", () => {
  it("has all 256 letters of the byte-level alphabet", () => {
    const toBytes = createTokenBytes({ type: "Sequence", decoders: [{ type: "ByteLevel" }] });
    expect([...toBytes("Ġ")]).toEqual([0x20]);
    expect([...toBytes("ĊÃ©")]).toEqual([0x0a, 0xc3, 0xa9]);
    expect([...toBytes("Ń")]).toEqual([0xad]);
    expect([...toBytes("ÿ!~")]).toEqual([0xff, 0x21, 0x7e]);
  });

  it("survives any decoder", () => {
    for (const decoder of [undefined, null, 5, {}, { decoders: 5 }, { decoders: [null, {}] }]) {
      expect(Buffer.from(createTokenBytes(decoder)("a<0x41>▁")).toString()).toBe("a<0x41> ");
    }
  });
});
