import { openSync, readSync, writeSync } from "node:fs";

/**
 * What a model thinks of texts: perplexity, and beside the reference's logits how often both find the same token most
 * probable, the mean divergence KL(reference || model) in nats, and the largest difference of a logit. The reference's are
 * written to `file` where `isReference`, else read from it.
 *
 * @param documents - token ids; each is run from an empty cache, and each token but the first is scored
 */
export async function measureTexts(engine, documents, { file, isReference }) {
  const handle = openSync(file, isReference ? "w" : "r");
  const { vocabSize } = engine.info.model;
  const sums = { nats: 0, kl: 0, agreed: 0, largestError: 0, tokens: 0 };
  for (const ids of documents) {
    const logits = await engine.logits(ids);
    const expected = isReference ? logits : new Float32Array(logits.length);
    if (isReference) writeSync(handle, logits);
    else readSync(handle, expected);
    for (let t = 0; t + 1 < ids.length; t++) {
      const rows = [logits, expected].map((all) =>
        all.subarray(t * vocabSize, (t + 1) * vocabSize),
      );
      addPlace(sums, ids[t + 1], ...rows);
    }
  }
  const { nats, kl, agreed, largestError, tokens } = sums;
  return {
    tokens,
    perplexity: Math.exp(nats / tokens),
    agreement: agreed / tokens,
    kl: kl / tokens,
    largestError,
  };
}

function addPlace(sums, token, logits, expected) {
  const [total, expectedTotal] = [logSum(logits), logSum(expected)];
  let [best, expectedBest] = [0, 0];
  for (let i = 0; i < logits.length; i++) {
    if (logits[i] > logits[best]) best = i;
    if (expected[i] > expected[expectedBest]) expectedBest = i;
    const difference = expected[i] - logits[i];
    sums.largestError = Math.max(sums.largestError, Math.abs(difference));
    sums.kl += Math.exp(expected[i] - expectedTotal) * (difference - expectedTotal + total);
  }
  sums.nats += total - logits[token];
  sums.agreed += Number(best === expectedBest);
  sums.tokens++;
}

/** Logarithm of the sum of the exponentials. */
function logSum(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  return largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
}

/** The share of right answers to each task, greedily. */
export async function measureTasks(engine, tasks, { tokenizer, stopTokenIds }) {
  const shares = {};
  for (const { name, maxTokens, cases } of tasks) {
    const answers = await Promise.all(
      cases.map(async ({ prompt }) => {
        const request = { prompt, maxTokens, temperature: 0, stopTokenIds };
        const { tokenIds } = await engine.generate(request);
        return tokenizer.decode(tokenIds, { skipSpecialTokens: true });
      }),
    );
    shares[name] = answers.filter((text, i) => text === cases[i].answer).length / cases.length;
  }
  return shares;
}
