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
