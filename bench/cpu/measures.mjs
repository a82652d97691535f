// What bench/cpu.mjs measures, and how one measure is taken on one side.

/** Tokens of a prompt that is there to begin with only. */
const shortPrompt = 16;
/** Tokens that each stream draws after its first one. */
const decodeTokens = 64;

const perSecond = { unit: "tok/s", isHigherBetter: true };
const milliseconds = { unit: "ms", isHigherBetter: false };
const megabytes = { unit: "MB", isHigherBetter: false };

/** What loading gives, by the key of a result. */
export const loadRows = {
  load: { label: "load", ...milliseconds },
  loadedMemory: { label: "memory after load", ...megabytes },
  peakMemory: { label: "memory, peak", ...megabytes },
};

/**
 * By name: `streams` of `prompt` and `outputs` tokens, and `rows`, what comes out of a run of them. A row with a `limit` is set
 * beside that limit of the machine.
 */
export const measures = {
  prefill: measure(1, 512, 1, { prefill: prefillRow("prefill 512", "compute") }),
  ...Object.fromEntries(
    [1, 4, 8, 16, 32].map((streams) => [`decode${streams}`, decodeOf(streams)]),
  ),
  "2k": longContext("2k", 2048),
  "4k": longContext("4k", 4096),
  "8k": longContext("8k", 8192),
  "16k": longContext("16k", 16_384),
  first: measure(8, 128, 1, {
    first: { label: "8 streams of 128, all begun", ...milliseconds, of: (run) => run.allBegun },
  }),
};

function measure(streams, prompt, outputs, rows) {
  return { streams, prompt, outputs, rows };
}

function prefillRow(label, limit) {
  const of = (run) => (1000 * run.promptTokens) / run.allBegun;
  return { label, limit, ...perSecond, of };
}

function decodeRow(label, limit) {
  const of = (run) => (1000 * run.laterTokens) / (run.end - run.allBegun);
  return { label, limit, ...perSecond, of };
}

function decodeOf(streams) {
  const label = `decode, ${streams} stream${streams > 1 ? "s" : ""}`;
  const limit = streams === 1 ? "bandwidth" : undefined;
  const rows = { [`decode${streams}`]: decodeRow(label, limit) };
  return measure(streams, shortPrompt, decodeTokens + 1, rows);
}

function longContext(name, prompt) {
  return measure(1, prompt, decodeTokens / 2 + 1, {
    [`prefill${name}`]: prefillRow(`prefill ${name}`),
    [`decode${name}`]: decodeRow(`decode after ${name}`),
  });
}

/** Tokens of one stream. */
export const tokensOf = ({ prompt, outputs }) => prompt + outputs;

/** Of short measures the median of several runs is taken. */
const enoughMs = 1500;
const maxRuns = 5;

/** Takes the named measures on a side. Resolves with numbers by the keys of the rows. */
export async function takeMeasures(side, names) {
  await runOnce(side, measure(2, 64, 8, {})); // code is compiled, memory touched
  const values = {};
  for (const name of names) {
    const runs = [];
    for (let spent = 0; spent < enoughMs && runs.length < maxRuns; spent += runs.at(-1).end) {
      runs.push(await runOnce(side, measures[name]));
    }
    for (const [key, { of }] of Object.entries(measures[name].rows)) {
      values[key] = median(runs.map(of));
    }
  }
  return values;
}

/** Milliseconds from the start: of the last stream's first token, and of the end; tokens that were drawn between them. */
async function runOnce(side, spec) {
  const { streams, prompt, outputs } = spec;
  const prepared = await side.prepare({ streams, tokens: tokensOf(spec) });
  const prompts = Array.from({ length: streams }, (_, stream) => promptOf(stream, prompt));
  const drawn = Array.from({ length: streams }, () => 0);
  let [allBegun, laterTokens] = [0, 0];
  const start = performance.now();
  const computed = await prepared.run(prompts, outputs, (stream, count) => {
    if (allBegun > 0) laterTokens += count;
    drawn[stream] += count;
    if (allBegun === 0 && drawn.every((each) => each > 0)) allBegun = performance.now() - start;
  });
  const end = performance.now() - start;
  await prepared.close();
  // The last token of a stream is drawn, but not computed.
  const expected = streams * (prompt + outputs - 1);
  if (computed !== expected || drawn.some((each) => each !== outputs)) {
    throw new Error(`Computed ${computed} instead of ${expected} tokens, drew ${drawn}`);
  }
  return { promptTokens: streams * prompt, allBegun, laterTokens, end };
}

/** Ordinary ids of any vocabulary of 1024 tokens or more; no two prompts begin alike. */
function promptOf(stream, length) {
  return Array.from({ length }, (_, i) => 256 + ((i * 7919 + stream * 131) % 701));
}

export function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
