import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { packDecodingData, unpackTokenTable } from "../../lib/loading/decoding-data.js";
import { Detokenizer } from "../../lib/loading/detokenizer.js";
import { Encoder } from "../../lib/loading/encoder.js";
import { readTokenizerFiles, tokenTable } from "../../lib/loading/tokenizer-files.js";

const files = readTokenizerFiles(
  fileURLToPath(new URL("../fixtures/tokenizers/byte-level", import.meta.url)),
);

it("brings the same texts to another thread", () => {
  // Half of a character, no text and no token at all.
  const table = ["a", "\ud83d", undefined, "", "déjà ▁", "\u{1f600}"];
  const copy = structuredClone(packDecodingData(files, table));
  expect(unpackTokenTable(copy)).toEqual(table);
});

it("is all that decoding needs", () => {
  const text = "Once upon a time, déjà vu: \u{1f600}!";
  const copy = structuredClone(packDecodingData(files, tokenTable(files)));
  const detokenizer = new Detokenizer(copy.files, unpackTokenTable(copy));
  const ids = [...new Encoder(files).encode(text, true, true)];
  expect(detokenizer.decode(ids, true)).toBe(text);
  expect(detokenizer.decode(ids, false)).toBe(new Detokenizer(files).decode(ids, false));
});
