import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { Detokenizer } from "../../lib/loading/detokenizer.js";
import { Encoder } from "../../lib/loading/encoder.js";
import { readTokenizerFiles } from "../../lib/loading/tokenizer-files.js";

const fixtures = new URL("../fixtures/tokenizers/", import.meta.url).pathname;

/** Written by the reference implementation (Python `tokenizers`). */
interface Golden {
  readonly vocabSize: number;
  readonly cases: readonly {
    readonly text: string;
    readonly ids: readonly number[];
    readonly withSpecial: readonly number[];
    readonly decoded: string;
    readonly kept: string;
  }[];
}

describe.each(["byte-level", "sentencepiece"])("%s", (name) => {
  const files = readTokenizerFiles(fixtures + name);
  const encoder = new Encoder(files);
  const detokenizer = new Detokenizer(files);
  const golden = JSON.parse(readFileSync(`${fixtures}${name}/golden.json`, "utf8")) as Golden;

  test("has the reference's vocabulary size", () => {
    expect(detokenizer.table).toHaveLength(golden.vocabSize);
  });

  test.each(golden.cases)("encodes and decodes $text as the reference does", (expected) => {
    const { text, ids, withSpecial, decoded, kept } = expected;
    expect([...encoder.encode(text, false, true)]).toEqual(ids);
    expect([...encoder.encode(text, true, true)]).toEqual(withSpecial);
    expect(detokenizer.decode(withSpecial, true)).toBe(decoded);
    expect(detokenizer.decode(withSpecial, false)).toBe(kept);
  });
});

test("GPT-2's pattern does not take U+FEFF for a space", () => {
  const files = readTokenizerFiles(`${fixtures}byte-level`);
  const pattern = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  };
  const nested = { type: "Sequence", pretokenizers: [pattern] };
  for (const pre_tokenizer of [pattern, nested]) {
    const encoder = new Encoder({ ...files, tokenizer: { ...files.tokenizer, pre_tokenizer } });
    expect([...encoder.encode("\ufeff's the", false, true)]).toEqual([171, 119, 123, 6, 82, 259]);
    expect([...encoder.encode("it's", false, true)]).toEqual([72, 83, 299]);
  }
});

test("a text without markers encodes alike with and without special text", () => {
  for (const name of ["byte-level", "sentencepiece"]) {
    const encoder = new Encoder(readTokenizerFiles(fixtures + name));
    const text = "The river ran past 你好 👩‍👩‍👧‍👦.";
    expect(encoder.encode(text, true, false)).toEqual(encoder.encode(text, true, true));
  }
});
