import type { Logprob, TokenLogprob } from "../engine/types.js";
import type { Tokenizer } from "../loading/tokenizer.js";

/** How a token is written in an answer. */
export interface NamedToken {
  /** Bytes that are no whole character are U+FFFD. */
  readonly text: string;
  /** Null where the model has no tokenizer. */
  readonly bytes: readonly number[] | null;
}

export type TokenNames = ReadonlyMap<number, NamedToken>;

/** JSON has no -Infinity; vLLM writes this, too. */
const leastLogprob = -9999;

/** The names of all tokens that the log-probabilities mention. */
export async function nameTokens(
  tokenizer: Tokenizer | undefined,
  logprobs: readonly TokenLogprob[],
): Promise<TokenNames> {
  const ids = [...new Set(logprobs.flatMap(({ id, top }) => [id, ...top.map((one) => one.id)]))];
  if (tokenizer === undefined) {
    return new Map(ids.map((id) => [id, { text: `token_id:${id}`, bytes: null }]));
  }
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const bytes = await tokenizer.tokenBytes(ids);
  return new Map(
    ids.map((id, i) => [id, { text: decoder.decode(bytes[i]), bytes: [...bytes[i]!] }]),
  );
}

/** In the shape of chat completions. */
export function chatLogprobs(logprobs: readonly TokenLogprob[], names: TokenNames): object {
  const entry = ({ id, logprob }: Logprob) => {
    const { text, bytes } = names.get(id)!;
    return { token: text, logprob: finite(logprob), bytes };
  };
  const content = logprobs.map((token) => ({
    ...entry(token),
    top_logprobs: token.top.map(entry),
  }));
  return { content, refusal: null };
}

/** In the shape of completions; offsets in characters from `start`, the end of the tokens before. */
export function completionLogprobs(
  logprobs: readonly TokenLogprob[],
  names: TokenNames,
  start: number,
): object {
  const textOf = (id: number): string => names.get(id)!.text;
  const tokens = logprobs.map(({ id }) => textOf(id));
  const offsets: number[] = [];
  for (let i = 0, at = start; i < tokens.length; i++) {
    offsets.push(at);
    at += [...tokens[i]!].length;
  }
  return {
    tokens,
    token_logprobs: logprobs.map(({ logprob }) => finite(logprob)),
    top_logprobs: logprobs.map((token) =>
      Object.fromEntries(
        [...token.top, token].map(({ id, logprob }) => [textOf(id), finite(logprob)]),
      ),
    ),
    text_offset: offsets,
  };
}

/** In vLLM's shape: an object a token of the prompt, from token ids to what is known of them; null for the first one. */
export function promptLogprobs(
  logprobs: readonly (TokenLogprob | null)[],
  names: TokenNames,
): readonly (object | null)[] {
  const entry = ({ id, logprob }: Logprob, rank: number) => [
    id,
    { logprob: finite(logprob), rank, decoded_token: names.get(id)!.text },
  ];
  return logprobs.map((token) => {
    if (token === null) return null;
    const top = token.top.map((one, i) => entry(one, i + 1));
    return Object.fromEntries([...top, entry(token, token.rank)]) as object;
  });
}

/** Characters of the tokens' texts. */
export function textLength(logprobs: readonly TokenLogprob[], names: TokenNames): number {
  return logprobs.reduce((sum, { id }) => sum + [...names.get(id)!.text].length, 0);
}

function finite(logprob: number): number {
  return Math.max(logprob, leastLogprob);
}
