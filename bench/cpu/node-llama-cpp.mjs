// node-llama-cpp as one side of bench/cpu.mjs; see pagoda.mjs for what a side is.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

/**
 * Settings by name. `environment` is that of the process. `isLockstep`: all streams ask for their next token at once, so that
 * each batch holds all of them; streams that go on by themselves fall into batches of several sizes.
 *
 * Its sampling runs in libuv's thread pool; with one thread there it leaves the cores to the threads that wait for the next
 * batch by spinning.
 */
export const peerSettings = {
  default: {},
  tuned: { environment: { UV_THREADPOOL_SIZE: "1" }, isLockstep: true },
  "tuned-no-flash": {
    environment: { UV_THREADPOOL_SIZE: "1" },
    isLockstep: true,
    context: { flashAttention: false },
  },
};

/** The package that is installed in a directory. */
function resolvePeer(directory) {
  return path.join(path.resolve(directory), "node_modules", "node-llama-cpp");
}

export function peerVersion(directory) {
  const require = createRequire(import.meta.url);
  const { version } = require(path.join(resolvePeer(directory), "package.json"));
  const { release } = require(
    path.join(resolvePeer(directory), "llama", "binariesGithubRelease.json"),
  );
  return `node-llama-cpp ${version} (llama.cpp ${release})`;
}

export async function openPeer({ peer, setting, model: modelPath, threads }) {
  const module = path.join(resolvePeer(peer), "dist", "index.js");
  const { getLlama } = await import(pathToFileURL(module).href);
  const { isLockstep, context } = peerSettings[setting];
  const llama = await getLlama({
    gpu: false,
    build: "never",
    maxThreads: threads,
    logLevel: "error",
  });
  const start = performance.now();
  const model = await llama.loadModel({ modelPath });
  return {
    loadMs: performance.now() - start,
    async prepare({ streams, tokens }) {
      // A context that is full to the last token would begin to shift.
      const size = { sequences: streams, contextSize: tokens + 16 };
      const made = await model.createContext({ threads, ...size, ...context });
      const sequences = Array.from({ length: streams }, () => made.getSequence());
      const runAll = isLockstep ? runInLockstep : runAlone;
      return { run: (...run) => runAll(sequences, ...run), close: () => made.dispose() };
    },
    close: () => llama.dispose(),
  };
}

const options = { temperature: 0, yieldEogToken: true };

async function runAlone(sequences, prompts, outputs, onTokens) {
  await Promise.all(
    sequences.map(async (sequence, stream) => {
      let drawn = 0;
      for await (const _ of sequence.evaluate(prompts[stream], options)) {
        onTokens(stream, 1);
        if (++drawn === outputs) break;
      }
    }),
  );
  return computedTokens(sequences);
}

async function runInLockstep(sequences, prompts, outputs, onTokens) {
  const iterators = sequences.map((sequence, i) => sequence.evaluate(prompts[i], options));
  for (let drawn = 0; drawn < outputs; drawn++) {
    await Promise.all(
      iterators.map(async (iterator, stream) => {
        await iterator.next();
        onTokens(stream, 1);
      }),
    );
  }
  await Promise.all(iterators.map((iterator) => iterator.return()));
  return computedTokens(sequences);
}

function computedTokens(sequences) {
  return sequences.reduce(
    (sum, { tokenMeter }) => sum + tokenMeter.usedInputTokens + tokenMeter.usedOutputTokens,
    0,
  );
}
