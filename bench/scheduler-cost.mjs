// What does the policy layer cost a step? Microseconds of schedule + pack + commit for 1 to 1,000 running requests that each
// draw a token a step, with contexts of about 512 tokens; no model runs.
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
