import { describe, expect, test } from "vitest";
import { Histogram } from "../../lib/server/histogram.js";
import { FakeEngine } from "../support/fake-engine.js";
import { serveDemo } from "../support/demo.js";
import { ask, post, serve } from "../support/http.js";

interface Family {
  readonly help: string;
  readonly type: string;
  /** By name and labels as they are written. */
  readonly samples: ReadonlyMap<string, number>;
}

/** A strict reader of Prometheus' text format: what it does not understand is an error. */
function parse(text: string): Map<string, Family> {
  const families = new Map<string, Family & { samples: Map<string, number> }>();
  if (!text.endsWith("\n")) throw new Error("The last line has no end");
  let current = "";
  for (const line of text.slice(0, -1).split("\n")) {
    const comment = /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)$/.exec(line);
    if (comment !== null) {
      const [, kind, name, rest] = comment as unknown as [string, string, string, string];
      if (kind === "HELP") families.set(name, { help: rest, type: "", samples: new Map() });
      else families.set(name, { ...families.get(name)!, type: rest });
      current = name;
      continue;
    }
    const label = String.raw`[a-zA-Z_]\w*="(?:[^"\\]|\\[\\n"])*"`;
    const pattern = new RegExp(String.raw`^([a-zA-Z_:][\w:]*)\{(${label}(?:,${label})*)\} (\S+)$`);
    const sample = pattern.exec(line);
    if (sample === null) throw new Error(`Not a sample: ${line}`);
    const [, name, labels, value] = sample as unknown as [string, string, string, string];
    const family = families.get(current)!;
    const suffix = family.type === "histogram" ? /^(_bucket|_sum|_count)$/ : /^$/;
    if (!name.startsWith(current) || !suffix.test(name.slice(current.length))) {
      throw new Error(`${name} stands below ${current}`);
    }
    if (Number.isNaN(Number(value))) throw new Error(`Not a number: ${line}`);
    const key = `${name.slice(current.length)}{${labels}}`;
    if (family.samples.has(key)) throw new Error(`Twice: ${line}`);
    family.samples.set(key, Number(value));
  }
  return families;
}

async function scrape(url: string): Promise<Map<string, Family>> {
  const reply = await ask(url, "/metrics");
  expect(reply.status).toBe(200);
  expect(reply.headers["content-type"]).toBe("text/plain; version=0.0.4; charset=utf-8");
  return parse(reply.text);
}

const labels = 'model_name="demo"';

test("GET /metrics tells what the engine has done, under vLLM's names", async () => {
  await using demo = await serveDemo();
  const { url } = demo.server;
  const before = await scrape(url);
  expect(before.get("pagoda:generation_tokens_total")!.samples.get(`{${labels}}`)).toBe(0);
  const body = { prompt: "Once upon a time there was a little girl who", max_tokens: 5 };
  for (let i = 0; i < 2; i++) {
    const ask = { ...body, ignore_eos: true, temperature: 0 };
    expect((await post(url, "/v1/completions", ask)).status).toBe(200);
  }
  const cancelled = demo.engine.generate({ prompt: [1] });
  cancelled.cancel();
  await cancelled.then(undefined, () => undefined);

  const families = await scrape(url);
  const value = (name: string, key = `{${labels}}`): number | undefined =>
    families.get(`pagoda:${name}`)!.samples.get(key);
  const types = Object.fromEntries([...families].map(([name, { type }]) => [name, type]));
  expect(types).toEqual({
    "pagoda:num_requests_running": "gauge",
    "pagoda:num_requests_waiting": "gauge",
    "pagoda:kv_cache_usage_perc": "gauge",
    "pagoda:num_preemptions_total": "counter",
    "pagoda:prompt_tokens_total": "counter",
    "pagoda:generation_tokens_total": "counter",
    "pagoda:prefix_cache_queries_total": "counter",
    "pagoda:prefix_cache_hits_total": "counter",
    "pagoda:request_success_total": "counter",
    "pagoda:time_to_first_token_seconds": "histogram",
    "pagoda:e2e_request_latency_seconds": "histogram",
    "pagoda:request_queue_time_seconds": "histogram",
    "pagoda:request_prefill_time_seconds": "histogram",
    "pagoda:request_decode_time_seconds": "histogram",
  });
  for (const { help } of families.values()) expect(help).toMatch(/^[A-Z].*\.$/);
  const { promptTokens, prefixCache } = demo.engine.stats();
  expect(value("generation_tokens_total")).toBe(10);
  expect(value("prompt_tokens_total")).toBe(promptTokens);
  expect(value("prefix_cache_queries_total")).toBe(prefixCache.queriedTokens);
  expect(value("prefix_cache_hits_total")).toBe(prefixCache.hitTokens);
  expect(value("num_requests_running")).toBe(0);
  expect(value("kv_cache_usage_perc")).toBe(0);
  const ended = Object.fromEntries(families.get("pagoda:request_success_total")!.samples);
  expect(ended).toEqual({
    [`{${labels},finished_reason="stop"}`]: 0,
    [`{${labels},finished_reason="length"}`]: 2,
    [`{${labels},finished_reason="deadline"}`]: 0,
    [`{${labels},finished_reason="abort"}`]: 1,
    [`{${labels},finished_reason="error"}`]: 0,
  });
  for (const [name, { type }] of families) {
    if (type !== "histogram") continue;
    const short = name.slice("pagoda:".length);
    expect(value(short, `_count{${labels}}`)).toBe(2);
    expect(value(short, `_bucket{${labels},le="+Inf"}`)).toBe(2);
    expect(value(short, `_sum{${labels}}`)).toBeGreaterThan(0);
  }
  const whole = value("e2e_request_latency_seconds", `_sum{${labels}}`)!;
  const parts = ["queue", "prefill", "decode"].map((phase) =>
    value(`request_${phase}_time_seconds`, `_sum{${labels}}`)!,
  );
  expect(parts.reduce((sum, part) => sum + part)).toBeCloseTo(whole, 9);
});

test("while requests run, it tells how many and what they hold", async () => {
  const engine = new FakeEngine();
  const { url } = await serve(engine);
  const generation = engine.generate({ prompt: "a" });
  const families = await scrape(url);
  generation.cancel();
  const key = '{model_name="fake"}';
  expect(families.get("pagoda:num_requests_running")!.samples.get(key)).toBe(1);
  expect(families.get("pagoda:kv_cache_usage_perc")!.samples.get(key)).toBe(0.001);
});

test("a model's name is escaped", async () => {
  const model = 'a "b"\\c\nd';
  const { url } = await serve(new FakeEngine(), { model });
  const families = await scrape(url);
  const [key] = families.get("pagoda:num_requests_running")!.samples.keys();
  expect(key).toBe(String.raw`{model_name="a \"b\"\\c\nd"}`);
});

test("HEAD and OPTIONS are answered, POST is not", async () => {
  const { url } = await serve(new FakeEngine());
  const head = await ask(url, "/metrics", { method: "HEAD" });
  expect([head.status, head.text]).toEqual([200, ""]);
  expect((await ask(url, "/metrics", { method: "OPTIONS" })).headers["allow"]).toContain("GET");
  expect((await post(url, "/metrics", {})).status).toBe(405);
});

const usage = {
  promptTokens: 3,
  cachedTokens: 0,
  outputTokens: 2,
  queueMs: 200,
  prefillMs: 300,
  decodeMs: 700,
  ttftMs: 500,
  totalMs: 1200,
};
const ended = { id: "1", model: "fake", finishReason: "length", errorCode: undefined } as const;

test("latencies are those of requests that ended by themselves, first tokens of those that have one", async () => {
  const engine = new FakeEngine();
  const { url } = await serve(engine);
  const tell = (change: object): void =>
    engine.events.emit("request:finish", () => ({ ...ended, usage, ...change }));
  tell({});
  tell({ finishReason: undefined, errorCode: "ERR_ABORTED" });
  tell({ finishReason: "deadline", usage: { ...usage, outputTokens: 0 } });
  const families = await scrape(url);
  const count = (name: string): number =>
    families.get(`pagoda:${name}`)!.samples.get('_count{model_name="fake"}')!;
  expect(count("e2e_request_latency_seconds")).toBe(2);
  expect(count("request_queue_time_seconds")).toBe(2);
  expect(count("time_to_first_token_seconds")).toBe(1);
  expect(count("request_prefill_time_seconds")).toBe(1);
  const { samples } = families.get("pagoda:time_to_first_token_seconds")!;
  expect(samples.get('_bucket{model_name="fake",le="0.25"}')).toBe(0);
  expect(samples.get('_bucket{model_name="fake",le="0.5"}')).toBe(1);
  expect(samples.get('_bucket{model_name="fake",le="2560"}')).toBe(1);
  expect(samples.get('_sum{model_name="fake"}')).toBe(0.5);
});

test("a server that was closed listens to the engine no longer", async () => {
  const engine = new FakeEngine();
  const server = await serve(engine);
  let made = 0;
  const tell = (): void =>
    engine.events.emit("request:finish", () => {
      made++;
      return { ...ended, usage };
    });
  tell();
  await server.close(0);
  tell();
  expect(made).toBe(1);
});

describe("a histogram", () => {
  test("counts each value in the first bucket that holds it, then cumulatively", () => {
    const histogram = new Histogram([1, 2.5]);
    for (const value of [0, 1, 1.5, 2.5, 3, 100]) histogram.observe(value);
    expect(histogram.samples("h", 'a="b"')).toEqual([
      'h_bucket{a="b",le="1"} 2',
      'h_bucket{a="b",le="2.5"} 4',
      'h_bucket{a="b",le="+Inf"} 6',
      'h_sum{a="b"} 108',
      'h_count{a="b"} 6',
    ]);
  });
});
