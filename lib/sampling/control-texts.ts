import { sortedIds } from "../engine/token-ids.js";
import type { EncodeOptions } from "../loading/tokenizer.js";
import type { ControlTexts, LogitsControls } from "./logits-controls.js";

type Encode = (text: string, options: EncodeOptions) => Promise<Int32Array>;

/** The controls with the tokens of their texts. Tokens that the model does not know cannot be drawn, and are left out. */
export async function withTexts(
  controls: LogitsControls,
  { badWords, breakers }: ControlTexts,
  encode: Encode,
  vocabSize: number,
): Promise<LogitsControls> {
  const [words, breakerIds] = await Promise.all([
    Promise.all(
      badWords.flatMap((word) => wordVariants(word).map((text) => plainIds(text, encode))),
    ),
    Promise.all(breakers.map((breaker) => lastTokenOf(breaker, encode))),
  ]);
  const isKnown = (ids: Int32Array): boolean =>
    ids.length > 0 && ids.every((id) => id >= 0 && id < vocabSize);
  const dryBreakers = sortedIds([...controls.dry.breakers, ...breakerIds.flat()], vocabSize);
  return {
    ...controls,
    badWords: withoutRepeats(words.filter(isKnown)),
    dry: { ...controls.dry, breakers: dryBreakers },
  };
}

/** At the beginning of a text and inside of one, as in vLLM. */
function wordVariants(word: string): string[] {
  const bare = word.trimStart();
  return bare === "" ? [word] : [bare, ` ${bare}`];
}

function plainIds(text: string, encode: Encode): Promise<Int32Array> {
  return encode(text, { addSpecialTokens: false });
}

/** The token that ends a text which ends with the breaker, as in text-generation-webui. */
async function lastTokenOf(breaker: string, encode: Encode): Promise<number[]> {
  return [...(await plainIds(`a${breaker}`, encode)).slice(-1)];
}

function withoutRepeats(words: readonly Int32Array[]): Int32Array[] {
  return [...new Map(words.map((ids) => [ids.join(), ids])).values()];
}
