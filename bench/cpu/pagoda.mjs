// This engine as one side of bench/cpu.mjs.
import { createEngine } from "../../dist/index.js";

/**
 * Loads a model, with a KV cache of `cacheTokens` tokens. A side has
 *
 * - `loadMs`: the time that loading took;
 * - `prepare({ streams, tokens })`: makes what a run of so many streams of so many tokens each needs, which is not timed;
 * - and of what that gives, `run(prompts, outputs, onTokens)`: takes prompts (token ids), one a stream, draws `outputs` tokens
 *   greedily after each, calls `onTokens(stream, count)` as they come, and resolves with the number of computed tokens.
 */
export async function openPagoda({ model, threads, cacheTokens }) {
  const numBlocks = Math.ceil(cacheTokens / 16) + 1; // the null block
  const start = performance.now();
  const engine = await createEngine({ model, threads, kvCache: { numBlocks } });
  return {
    loadMs: performance.now() - start,
    prepare: () => {
      engine.resetPrefixCache();
      return { run: (...run) => runAll(engine, ...run), close: () => undefined };
    },
    close: () => engine.close(),
  };
}

async function runAll(engine, prompts, outputs, onTokens) {
  let computed = 0;
  const stopListening = engine.on("step", ({ tokens }) => (computed += tokens));
  await Promise.all(
    prompts.map(async (prompt, stream) => {
      const sampling = { temperature: 0, repetitionPenalty: 1, ignoreEos: true };
      const generation = engine.generate({ prompt, maxTokens: outputs, ...sampling });
      for await (const { tokenIds } of generation) onTokens(stream, tokenIds.length);
    }),
  );
  stopListening();
  return computed;
}
