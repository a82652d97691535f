// What does the policy layer cost a step? Microseconds of schedule + pack + commit for 1 to 1,000 running requests that each
// draw a token a step, with contexts of about 512 tokens; no model runs. Then the same for two running requests behind which a
// prompt of 34,000 tokens waits: it is looked up in every step, its first 32,768 tokens are cached, and it does not fit. The lookup
// walks the 2,048 nodes that the sequence remembers and hashes nothing: about 90 us, with 7 KV groups 250 us (2 cores of an AMD
// EPYC, Node 20.20), where hashing and comparing the tokens again took 240 us and 810 us.
//
//   npm run build:ts && node bench/scheduler-cost.mjs
import { Batch, BlockManager, Scheduler, Sequence } from "../dist/core.js";

const promptLength = 512;
const numSteps = 400;
const stop = { maxTokens: numSteps + 100, eosTokenIds: new Set(), stopTokenIds: new Set() };

/** Each part's median time of a step, in microseconds. */
function measure(numRequests) {
  const blocks = new BlockManager({ numBlocks: 1 + numRequests * 80, blockSize: 16 });
  const options = { maxBatchTokens: 1 << 20, maxSequences: numRequests };
  const scheduler = new Scheduler(blocks, options);
  const batch = new Batch(blocks);
  for (let id = 0; id < numRequests; id++) {
    const promptTokenIds = Int32Array.from({ length: promptLength }, (_, i) => i * 7 + id);
    scheduler.add(new Sequence({ id, promptTokenIds, stop }));
  }
  const times = { schedule: [], pack: [], commit: [] };
  for (let i = 0; i < numSteps; i++) {
    const t0 = performance.now();
    const step = scheduler.schedule();
    const t1 = performance.now();
    batch.pack(step);
    const t2 = performance.now();
    const tokens = new Int32Array(step.numOutputs).fill(i);
    const finite = new Int32Array(step.numOutputs).fill(1);
    const t3 = performance.now();
    scheduler.commit(step, { tokens, finite });
    const t4 = performance.now();
    if (i < numSteps / 4) continue; // prompts, and code that is not compiled yet
    times.schedule.push(t1 - t0);
    times.pack.push(t2 - t1);
    times.commit.push(t4 - t3);
  }
  return Object.fromEntries(Object.entries(times).map(([part, all]) => [part, 1000 * median(all)]));
}

/** Median time of `schedule` in microseconds, with or without a long prompt that waits. */
function measureHeadOfLine(isWaiting, kvGroups) {
  const numGroups = kvGroups.length;
  const blocks = new BlockManager({ numBlocks: 1 + numGroups * 2240, blockSize: 16, kvGroups });
  const scheduler = new Scheduler(blocks, { maxBatchTokens: 1 << 15, maxSequences: 8 });
  const long = Int32Array.from({ length: 1 << 15 }, (_, i) => i * 7);
  const other = Int32Array.from({ length: 1024 + 512 }, (_, i) => i * 5 + 3);
  const add = (id, promptTokenIds) => scheduler.add(new Sequence({ id, promptTokenIds, stop }));
  add(0, long);
  add(1, other);
  const times = [];
  for (let i = 0; i < numSteps; i++) {
    if (i === 4 && isWaiting)
      add(
        2,
        Int32Array.from({ length: 34_000 }, (_, i) => i * 7),
      );
    const start = performance.now();
    const step = scheduler.schedule();
    times.push(performance.now() - start);
    const tokens = new Int32Array(step.numOutputs).fill(i);
    scheduler.commit(step, { tokens, finite: new Int32Array(step.numOutputs).fill(1) });
  }
  if (scheduler.numWaiting !== (isWaiting ? 1 : 0)) throw new Error("another load than was meant");
  return 1000 * median(times.slice(numSteps / 4));
}

function median(values) {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

measure(64);
console.log(
  "running   schedule       pack     commit      total   a request   (us a step, median)",
);
for (const numRequests of [1, 64, 256, 1000]) {
  const { schedule, pack, commit } = measure(numRequests);
  const total = schedule + pack + commit;
  const cells = [schedule, pack, commit, total, total / numRequests];
  const row = cells.map((us, i) => us.toFixed(i === 4 ? 3 : 1).padStart(i === 4 ? 11 : 10));
  console.log(`${String(numRequests).padStart(7)} ${row.join(" ")}`);
}

const loads = {
  "one KV group": [full()],
  "7 KV groups": [full(), ...Array.from({ length: 6 }, windowed)],
};
console.log(
  "\nhead of line waits, 32k cached tokens: schedule alone, with it   (us a step, median)",
);
for (const [name, kvGroups] of Object.entries(loads)) {
  const cells = [false, true].map((isWaiting) => measureHeadOfLine(isWaiting, kvGroups));
  console.log(`${name.padEnd(14)} ${cells.map((us) => us.toFixed(1).padStart(10)).join(" ")}`);
}

function full() {
  return { slidingWindow: 0 };
}

function windowed() {
  return { slidingWindow: 1 << 15 };
}
