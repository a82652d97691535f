import { at } from "./matrix.js";

/** Log-softmax of one row: of `token`, its rank (1 + how many are more probable), and the `count` most probable tokens. */
export function computeLogprobs(
  logits: Float32Array,
  token: number,
  count: number,
): { logprob: number; rank: number; top: { id: number; logprob: number }[] } {
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - max), 0);
  const normalizer = max + Math.log(sum);
  const logprob = (id: number): number => Math.fround(at(logits, id) - normalizer);
  const order = [...logits.keys()].sort((a, b) => at(logits, b) - at(logits, a) || a - b);
  const rank = 1 + logits.filter((logit) => logit > at(logits, token)).length;
  const top = order.slice(0, count).map((id) => ({ id, logprob: logprob(id) }));
  return { logprob: logprob(token), rank, top };
}
