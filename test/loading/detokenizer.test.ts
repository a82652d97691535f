import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Detokenizer, TokenStream } from "../../lib/loading/detokenizer.js";
import { Encoder } from "../../lib/loading/encoder.js";
import { readTokenizerFiles, type TokenizerFiles } from "../../lib/loading/tokenizer-files.js";

const fixtures = new URL("../fixtures/tokenizers/", import.meta.url).pathname;
const byteLevel = readTokenizerFiles(`${fixtures}byte-level`);
const sentencePiece = readTokenizerFiles(`${fixtures}sentencepiece`);

function withDecoder(files: TokenizerFiles, decoder: unknown): TokenizerFiles {
  return { ...files, tokenizer: { ...files.tokenizer, decoder } };
}

const replaceSpaces = { type: "Replace", pattern: { String: "▁" }, content: " " };
const kinds: Readonly<Record<string, TokenizerFiles>> = {
  "byte level": byteLevel,
  "byte fallback, first space stripped": sentencePiece,
  "byte fallback, spaces kept": withDecoder(sentencePiece, {
    type: "Sequence",
    decoders: [replaceSpaces, { type: "ByteFallback" }, { type: "Fuse" }],
  }),
  metaspace: withDecoder(sentencePiece, { type: "Metaspace", prepend_scheme: "always" }),
  "no decoder": withDecoder(sentencePiece, null),
};

const samples = [
  "你好，世界",
  "こんにちは",
  "👩‍👩‍👧‍👦 🏳️‍🌈🇫🇷",
  "  a  b ",
  "naïve café",
  "\ufeff𝒳 𠜎",
  "\ufffd",
];

/** Token sequences: any ids, runs of single bytes, encoded texts, and texts cut anywhere. */
function idSequences(files: TokenizerFiles): fc.Arbitrary<number[]> {
  const size = new Detokenizer(files).table.length;
  const encoder = new Encoder(files);
  const anyId = fc.integer({ min: 0, max: size + 3 });
  const byteTokens = [...Array(size).keys()].filter((id) => {
    const token = new Detokenizer(files).table[id]!;
    return token.length === 1 || /^<0x..>$/.test(token);
  });
  const encoded = fc
    .constantFrom(...samples)
    .map((text) => Array.from(encoder.encode(text, false, true)));
  const cut = fc
    .tuple(encoded, fc.nat(8), fc.nat(3))
    .map(([ids, from, short]) => ids.slice(from, ids.length - short));
  const piece = fc.oneof(
    fc.array(anyId, { maxLength: 6 }),
    fc.array(fc.constantFrom(...byteTokens), { maxLength: 12 }),
    encoded,
    cut,
  );
  return fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.flat());
}

/** Feeds the ids in chunks of the given sizes, over and over; returns the pieces. */
function stream(
  detokenizer: Detokenizer,
  prompt: readonly number[],
  ids: readonly number[],
  sizes: readonly number[],
  skip: boolean,
): string[] {
  detokenizer.openStream(1, prompt, skip);
  const pieces: string[] = [];
  let at = 0;
  for (let i = 0; at < ids.length; i++) {
    const tokens = ids.slice(at, (at += sizes[i % sizes.length]!));
    pieces.push(detokenizer.feed([{ id: 1, tokens, last: false }])[0]!.text);
  }
  pieces.push(detokenizer.feed([{ id: 1, tokens: [], last: true }])[0]!.text);
  return pieces;
}

const chunkSizes = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 });

describe.each(Object.entries(kinds))("a stream (%s)", (_, files) => {
  const detokenizer = new Detokenizer(files);
  const runs = { numRuns: 3_000 };

  test("gives the text of all its tokens decoded at once", () => {
    fc.assert(
      fc.property(idSequences(files), chunkSizes, fc.boolean(), (ids, sizes, skip) => {
        const pieces = stream(detokenizer, [], ids, sizes, skip);
        expect(pieces.join("")).toBe(detokenizer.decode(ids, skip));
      }),
      runs,
    );
  });

  test("continues the text of its prompt", () => {
    fc.assert(
      fc.property(idSequences(files), idSequences(files), chunkSizes, (prompt, ids, sizes) => {
        const before = detokenizer.decode(prompt, true).replace(/\ufffd$/, "");
        const pieces = stream(detokenizer, prompt, ids, sizes, true);
        expect(before + pieces.join("")).toBe(detokenizer.decode([...prompt, ...ids], true));
      }),
      runs,
    );
  });

  test("never gives half a character", () => {
    fc.assert(
      fc.property(fc.constantFrom(...samples.slice(0, 6)), fc.boolean(), (text, skip) => {
        const ids = [...new Encoder(files).encode(text, false, true)];
        for (const piece of stream(detokenizer, [], ids, [1], skip)) {
          expect(piece).not.toMatch(/\ufffd|\p{Surrogate}/u);
        }
      }),
      { numRuns: 30 },
    );
  });
});

describe("a stream", () => {
  const detokenizer = new Detokenizer(byteLevel);
  /** The token of one byte above 0x7e, which the byte-level alphabet shifts when unprintable. */
  const byteToken = (byte: number) =>
    detokenizer.table.indexOf(String.fromCharCode(byte >= 0xa1 ? byte : 0x121 + byte - 0x7f));

  test("holds a character until its last byte", () => {
    const ids = [0xf0, 0x9f, 0x98, 0x80].map(byteToken);
    expect(ids.every((id) => id >= 0)).toBe(true);
    expect(stream(detokenizer, [], ids, [1], true)).toEqual(["", "", "", "😀", ""]);
  });

  test("does not hold bytes that stay invalid", () => {
    const invalid = byteToken(0xff);
    const ids = Array<number>(100).fill(invalid);
    const pieces = stream(detokenizer, [], ids, [1], true);
    expect(pieces.slice(1, -1).every((piece) => piece === "\ufffd")).toBe(true);
    expect(pieces.join("")).toBe("\ufffd".repeat(100));
  });

  test("gives what it holds with the last tokens", () => {
    detokenizer.openStream(1, [], true);
    const tokens = [detokenizer.table.indexOf("a"), byteToken(0xe4)];
    expect(detokenizer.feed([{ id: 1, tokens, last: true }])).toEqual([{ id: 1, text: "a\ufffd" }]);
  });

  test("keeps its id until it is closed, and is forgotten then", () => {
    detokenizer.openStream(7, [], true);
    const tokens = [detokenizer.table.indexOf("a")];
    expect(detokenizer.feed([{ id: 7, tokens, last: false }])[0]!.text).toBe("a");
    detokenizer.closeStream(7);
    expect(detokenizer.feed([{ id: 7, tokens, last: false }])[0]!.text).toBe("");
  });

  test("decodes a bounded window, however long it gets", () => {
    let longest = 0;
    const join = (tokens: string[]) => {
      longest = Math.max(longest, tokens.length);
      return tokens.join("");
    };
    const letters = new TokenStream(join);
    for (let i = 0; i < 5_000; i++) expect(letters.push(["ab"])).toBe("ab");
    const invalid = new TokenStream((tokens) => join(tokens.map(() => "\ufffd")));
    for (let i = 0; i < 5_000; i++) invalid.push(["?"]);
    expect(longest).toBeLessThan(32);
  });

  test("keeps streams apart in one batch", () => {
    const words = ["a", "b", "c"].map((letter) => detokenizer.table.indexOf(letter));
    words.forEach((_, id) => detokenizer.openStream(id, [], true));
    const batch = words.map((token, id) => ({ id, tokens: [token, token], last: true }));
    expect(detokenizer.feed(batch).map(({ text }) => text)).toEqual(["aa", "bb", "cc"]);
  });
});

test("the first space is dropped at the beginning of a sequence, not after a prompt", () => {
  const detokenizer = new Detokenizer(sentencePiece);
  const encoder = new Encoder(sentencePiece);
  const ids = [...encoder.encode("the river", false, true)];
  const prompt = [...encoder.encode("Hello", true, true)];
  expect(stream(detokenizer, [], ids, [1], true).join("")).toBe("the river");
  expect(stream(detokenizer, prompt, ids, [1], true).join("")).toBe(" the river");
});
