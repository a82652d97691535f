import type { Engine, EngineStats, Usage } from "../engine/types.js";
import { Histogram } from "./histogram.js";

/** Upper bounds in seconds, as in vLLM's metrics of the same names. */
const firstTokenBounds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
  160, 640, 2560,
];
const latencyBounds = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];

interface LatencyMetric {
  readonly name: string;
  readonly help: string;
  /** Milliseconds; undefined for a request without it. */
  readonly of: (usage: Usage) => number | undefined;
  readonly histogram: Histogram;
}

/** Vendor prefix; the rest of each name, its labels and its meaning are vLLM's. */
const prefix = "pagoda:";

/** What `GET /metrics` tells: the engine's counters, and latencies of the requests that ended since this was made. */
export class Metrics {
  readonly #engine: Engine;
  /** The labels of every sample. */
  readonly #labels: string;
  readonly #latencies: readonly LatencyMetric[] = latencyMetrics();
  readonly #stopListening: () => void;

  constructor(engine: Engine, model: string) {
    this.#engine = engine;
    this.#labels = `model_name="${escapeLabel(model)}"`;
    this.#stopListening = engine.on("request:finish", ({ finishReason, usage }) => {
      if (finishReason === undefined) return;
      for (const { histogram, of } of this.#latencies) {
        const ms = of(usage);
        if (ms !== undefined) histogram.observe(ms / 1000);
      }
    });
  }

  /** In Prometheus' text exposition format 0.0.4. */
  text(): string {
    const stats = this.#engine.stats();
    const lines = [...gauges, ...counters].flatMap((metric) => this.#plain(metric, stats));
    lines.push(...this.#finished(stats));
    for (const { name, help, histogram } of this.#latencies) {
      lines.push(...head(name, help, "histogram"));
      lines.push(...histogram.samples(prefix + name, this.#labels));
    }
    return `${lines.join("\n")}\n`;
  }

  /** Listens to the engine no longer. */
  close(): void {
    this.#stopListening();
  }

  #plain({ name, help, type, of }: PlainMetric, stats: EngineStats): string[] {
    return [...head(name, help, type), `${prefix}${name}{${this.#labels}} ${of(stats)}`];
  }

  #finished({ finished }: EngineStats): string[] {
    const name = "request_success_total";
    const samples = Object.entries(finished).map(
      ([reason, count]) => `${prefix}${name}{${this.#labels},finished_reason="${reason}"} ${count}`,
    );
    return [...head(name, "Requests that have ended, by reason.", "counter"), ...samples];
  }
}

interface PlainMetric {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter";
  readonly of: (stats: EngineStats) => number;
}

const gauges: readonly PlainMetric[] = [
  gauge("num_requests_running", "Requests that hold KV blocks.", (s) => s.running),
  gauge("num_requests_waiting", "Requests that wait for a step.", (s) => s.waiting),
  gauge("kv_cache_usage_perc", "Share of the KV blocks that requests hold, 0 to 1.", (s) =>
    s.totalBlocks === 0 ? 0 : (s.totalBlocks - s.freeBlocks) / s.totalBlocks,
  ),
];

const counters: readonly PlainMetric[] = [
  counter("num_preemptions_total", "Preemptions.", (s) => s.preemptions),
  counter("prompt_tokens_total", "Prompt tokens of requests.", (s) => s.promptTokens),
  counter("generation_tokens_total", "Tokens that were drawn.", (s) => s.outputTokens),
  counter(
    "prefix_cache_queries_total",
    "Tokens looked up in the prefix cache.",
    (s) => s.prefixCache.queriedTokens,
  ),
  counter(
    "prefix_cache_hits_total",
    "Tokens found in the prefix cache.",
    (s) => s.prefixCache.hitTokens,
  ),
];

function gauge(name: string, help: string, of: PlainMetric["of"]): PlainMetric {
  return { name, help, type: "gauge", of };
}

function counter(name: string, help: string, of: PlainMetric["of"]): PlainMetric {
  return { name, help, type: "counter", of };
}

function latencyMetrics(): LatencyMetric[] {
  const latency = (
    name: string,
    help: string,
    of: LatencyMetric["of"],
    bounds: readonly number[] = latencyBounds,
  ): LatencyMetric => ({ name, help, of, histogram: new Histogram(bounds) });
  return [
    latency(
      "time_to_first_token_seconds",
      "Seconds from the call to the first token.",
      ifDrawn((usage) => usage.ttftMs),
      firstTokenBounds,
    ),
    latency("e2e_request_latency_seconds", "Seconds from the call to the end.", (u) => u.totalMs),
    latency("request_queue_time_seconds", "Seconds before the first step.", (u) => u.queueMs),
    latency(
      "request_prefill_time_seconds",
      "Seconds from the first step to the first token.",
      ifDrawn((usage) => usage.prefillMs),
    ),
    latency(
      "request_decode_time_seconds",
      "Seconds from the first token to the end.",
      ifDrawn((usage) => usage.decodeMs),
    ),
  ];
}

/** A deadline may end a request before its first token. */
function ifDrawn(of: (usage: Usage) => number): LatencyMetric["of"] {
  return (usage) => (usage.outputTokens > 0 ? of(usage) : undefined);
}

function head(name: string, help: string, type: string): string[] {
  return [`# HELP ${prefix}${name} ${help}`, `# TYPE ${prefix}${name} ${type}`];
}

function escapeLabel(value: string): string {
  return value
    .replaceAll("\\", String.raw`\\`)
    .replaceAll('"', String.raw`\"`)
    .replaceAll("\n", String.raw`\n`);
}
