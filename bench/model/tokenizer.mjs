// A byte-level BPE tokenizer of any size: the 256 bytes, then all words of two letters, of three, and so on.

export const specialTokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/** Ends an answer. */
export const eosTokenId = 2;

export const chatTemplate =
  "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n" +
  "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/** `tokens` by id, exactly `size` of them, and `merges` as pairs with a space between, the first one merged first. */
export function makeVocabulary(size) {
  const tokens = [...specialTokens, ...byteLetters()];
  const merges = [];
  const letters = Array.from({ length: 26 }, (_, i) => String.fromCharCode(97 + i));
  let words = ["Ġ", ...letters];
  while (tokens.length < size) {
    const longer = [];
    for (const word of words) {
      for (const letter of letters) {
        if (tokens.length === size) return { tokens, merges };
        merges.push(`${word} ${letter}`);
        tokens.push(word + letter);
        longer.push(word + letter);
      }
    }
    words = longer;
  }
  return { tokens, merges };
}

/** GPT-2's alphabet: a printable letter for each byte. */
function byteLetters() {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCharCode(isPrintable ? byte : next++);
  });
}

function addedToken(content, id) {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return { id, content, special: true, ...flags };
}

/** The same as tokenizer.json. */
export function tokenizerJson({ tokens, merges }) {
  const byteLevel = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map(addedToken),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
