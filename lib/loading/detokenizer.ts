import type { StreamInput, StreamOutput } from "./tokenizer.js";
import { invalidTokenizer, specialContents, tokenTable } from "./tokenizer-files.js";
import type { TokenizerFiles } from "./tokenizer-files.js";
import { createTokenBytes } from "./token-bytes.js";
import { createLibraryTokenizer, emptyModel, type LibraryDecoder } from "./tokenizer-library.js";

/** What bytes that are not (yet) a character decode to. */
const replacement = "\uFFFD";
/** How many tokens a decoder gets at most, but for what a stream is fed in one piece. */
const decodedAtOnce = 16_384;
/** A stream's window is cut when it is longer than this, in tokens... */
const windowLimit = 24;
/** ...to this many; at least 4, so that the last character lies inside it whole. */
const windowKept = 8;

/** Token ids to text, at once or as streams. Ids without a token give no text. */
export class Detokenizer {
  /** Text of each token, by id. */
  readonly table: readonly (string | undefined)[];
  readonly #special = new Set<number>();
  readonly #bytes: (token: string) => Uint8Array;
  readonly #decoder: LibraryDecoder | null;
  readonly #streams = new Map<number, { stream: TokenStream; skipSpecialTokens: boolean }>();

  /** @throws ERR_TOKENIZER_INVALID */
  constructor(files: TokenizerFiles, table: readonly (string | undefined)[] = tokenTable(files)) {
    this.table = table;
    this.#decoder = createDecoder(files);
    this.#bytes = createTokenBytes(files.tokenizer["decoder"]);
    const special = specialContents(files);
    this.table.forEach((token, id) => {
      if (token !== undefined && special.has(token)) this.#special.add(id);
    });
  }

  /** Long sequences are decoded as a stream, since the decoder holds several copies of its text. */
  decode(ids: Iterable<number>, skipSpecialTokens: boolean): string {
    const tokens = this.#tokens(ids, skipSpecialTokens);
    if (tokens.length <= decodedAtOnce) return this.#join(tokens);
    const stream = new TokenStream((window) => this.#join(window));
    let text = "";
    for (let start = 0; start < tokens.length; start += decodedAtOnce) {
      const end = start + decodedAtOnce;
      text += stream.push(tokens.slice(start, end), end >= tokens.length);
    }
    return text;
  }

  /** The bytes that each token stands for, special ones included; none where there is no token. */
  bytes(ids: Iterable<number>): Uint8Array[] {
    return Array.from(ids, (id) => this.#bytes(this.table[id] ?? ""));
  }

  /** The text of the stream follows that of the prompt, of which the tail is enough. */
  openStream(id: number, prompt: Iterable<number>, skipSpecialTokens: boolean): void {
    const before = this.#tokens(prompt, skipSpecialTokens);
    const stream = new TokenStream((tokens) => this.#join(tokens), before);
    this.#streams.set(id, { stream, skipSpecialTokens });
  }

  closeStream(id: number): void {
    this.#streams.delete(id);
  }

  /** One output an input, in the same order. */
  feed(batch: readonly StreamInput[]): StreamOutput[] {
    return batch.map(({ id, tokens, last }) => {
      const open = this.#streams.get(id);
      if (open === undefined) return { id, text: "" };
      if (last) this.#streams.delete(id);
      return { id, text: open.stream.push(this.#tokens(tokens, open.skipSpecialTokens), last) };
    });
  }

  #tokens(ids: Iterable<number>, skipSpecialTokens: boolean): string[] {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.table[id];
      if (skipSpecialTokens && this.#special.has(id)) continue;
      // Tokens without text are left out: a window of them alone would seem to begin a sequence.
      if (token) tokens.push(token);
    }
    return tokens;
  }

  #join(tokens: string[]): string {
    if (tokens.length === 0) return "";
    return this.#decoder === null ? tokens.join(" ") : this.#decoder.decode(tokens);
  }
}

/**
 * The text of a growing token sequence, piece by piece. As in vLLM, a window of the last tokens is
 * decoded, so that a token's text may depend on those before it (leading spaces, bytes of one
 * character). The pieces together equal the text of all tokens decoded at once.
 *
 * What is held back is one trailing U+FFFD: a UTF-8 decoder turns an incomplete sequence at the end
 * into exactly one, and everything before it is final. So at most one character is ever held, and
 * sequences that stay invalid do not pile up.
 */
export class TokenStream {
  readonly #decode: (tokens: string[]) => string;
  #window: string[];
  /** How much of the window's text is out, in UTF-16 units. */
  #emitted: number;

  constructor(decode: (tokens: string[]) => string, before: readonly string[] = []) {
    this.#decode = decode;
    this.#window = [...before];
    this.#emitted = finalLength(decode(this.#window));
  }

  /** The text that became final; with `last` everything that was held. */
  push(tokens: readonly string[], last = false): string {
    for (const token of tokens) this.#window.push(token);
    const text = this.#decode(this.#window);
    const end = last ? text.length : finalLength(text);
    const piece = text.slice(this.#emitted, end);
    this.#emitted = Math.max(this.#emitted, end);
    if (this.#window.length > windowLimit) this.#cut(text.length - this.#emitted);
    return piece;
  }

  /** `held` units of the text are still to come; they stay so in the shorter window. */
  #cut(held: number): void {
    const kept = this.#window.slice(-windowKept);
    const text = this.#decode(kept);
    this.#window = kept;
    this.#emitted = text.length - held;
  }
}

function finalLength(text: string): number {
  return text.endsWith(replacement) ? text.length - 1 : text.length;
}

/** The library's decoder, without the cost of its model, which decoding does not need. */
function createDecoder({ tokenizer }: TokenizerFiles): LibraryDecoder | null {
  const unused = { normalizer: null, pre_tokenizer: null, post_processor: null };
  const json = { ...tokenizer, ...unused, model: emptyModel };
  try {
    const { decoder } = createLibraryTokenizer(json, {});
    if (decoder !== null) keepByteOrderMarks(decoder);
    return decoder;
  } catch (cause) {
    const reason = `the decoder is not usable: ${(cause as Error).message}`;
    throw invalidTokenizer("tokenizer.json", reason, cause);
  }
}

/** The library drops U+FEFF from runs of byte tokens; the reference implementation keeps it. */
function keepByteOrderMarks(decoder: LibraryDecoder): void {
  if (decoder.text_decoder !== undefined) {
    decoder.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }
  decoder.decoders?.forEach(keepByteOrderMarks);
}
