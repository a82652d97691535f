/** Longer tokens are not made by merging; no vocabulary has any but runs of one sign. */
const maxLetters = 128;

/**
 * The merges of a sentencepiece vocabulary, the first one merged first, as Hugging Face derives them:
 * each token can be made of any two tokens that it is the join of, tokens with larger scores first.
 *
 * @param scores by id
 * @param isMerged whether the token with this id may be made by a merge
 */
export function scoredMerges(
  ids: ReadonlyMap<string, number>,
  scores: Float64Array,
  isMerged: (id: number) => boolean,
): [left: string, right: string][] {
  const merges: Merge[] = [];
  for (const [token, id] of ids) {
    if (token.length > maxLetters || !isMerged(id)) continue;
    const own: Merge[] = [];
    for (let end = 1; end < token.length; end++) {
      const left = token.slice(0, end);
      const right = token.slice(end);
      const [leftId, rightId] = [ids.get(left), ids.get(right)];
      if (leftId === undefined || rightId === undefined) continue;
      own.push({ pair: [left, right], leftId, rightId, score: scores[id] ?? 0 });
    }
    merges.push(...own.sort((a, b) => a.leftId - b.leftId || a.rightId - b.rightId));
  }
  // Sorting is stable: the splits of a token stay in order.
  return merges.sort((a, b) => compare(b.score, a.score)).map(({ pair }) => pair);
}

interface Merge {
  readonly pair: [left: string, right: string];
  readonly leftId: number;
  readonly rightId: number;
  readonly score: number;
}

/** Also for infinities; what is not a number compares as equal. */
function compare(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
