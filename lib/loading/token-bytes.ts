const byteToken = /^<0x([0-9A-F]{2})>$/;

/**
 * The bytes that each token stands for inside of a text, by the kind of its tokenizer: byte-level (GPT-2's alphabet, in
 * which each byte is a letter), or with byte tokens such as `<0x0A>` and `▁` for a space (sentencepiece).
 */
export function createTokenBytes(decoder: unknown): (token: string) => Uint8Array {
  const types = decoderTypes(decoder);
  if (types.has("ByteLevel")) return byteLevel(byteLetters());
  return (token) => {
    const byte = byteToken.exec(token)?.[1];
    if (byte !== undefined && types.has("ByteFallback")) return Uint8Array.of(parseInt(byte, 16));
    return Buffer.from(token.replaceAll("▁", " "));
  };
}

/** A token with other letters, as special ones may be, is plain text. */
function byteLevel(bytes: ReadonlyMap<string, number>): (token: string) => Uint8Array {
  return (token) => {
    const letters = [...token];
    if (!letters.every((letter) => bytes.has(letter))) return Buffer.from(token);
    return Uint8Array.from(letters, (letter) => bytes.get(letter)!);
  };
}

/** GPT-2's alphabet: printable Latin-1 letters stand for themselves, other bytes for the letters from U+0100 on. */
function byteLetters(): ReadonlyMap<string, number> {
  const letters = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    letters.set(String.fromCharCode(isPrintable ? byte : next++), byte);
  }
  return letters;
}

/** The types of a tokenizer.json's decoder and those inside of it. */
function decoderTypes(decoder: unknown): Set<string> {
  if (typeof decoder !== "object" || decoder === null) return new Set();
  const { type, decoders } = decoder as { type?: unknown; decoders?: unknown };
  const types = new Set([String(type)]);
  for (const inner of Array.isArray(decoders) ? decoders : []) {
    for (const found of decoderTypes(inner)) types.add(found);
  }
  return types;
}
