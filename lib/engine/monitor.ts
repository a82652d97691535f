import type { CacheEvent } from "../cache/prefix-cache.js";
import { PagodaError } from "../errors.js";
import type { ScheduledStep } from "../scheduler/scheduler.js";
import { EventHub } from "./event-hub.js";
import type { LiveRequest, Outcome } from "./live-request.js";
import type { EngineStats } from "./types.js";

/** What {@link EngineStats} says about ended requests and steps. */
export type MonitorStats = Pick<
  EngineStats,
  "finished" | "steps" | "stepMs" | "queueMs" | "prefillMs" | "decodeMs"
>;

/** Counts what happens to requests and steps, and tells those who listen. */
export class Monitor {
  readonly events: EventHub = new EventHub();
  readonly #model: string;
  readonly #finished = { stop: 0, length: 0, deadline: 0, abort: 0, error: 0 };
  readonly #sums = { steps: 0, stepMs: 0, queueMs: 0, prefillMs: 0, decodeMs: 0 };

  /** Not told yet. */
  #cacheChanges: CacheEvent[] = [];

  /** @param model - the model's name, part of every event */
  constructor(model: string) {
    this.#model = model;
  }

  stats(): MonitorStats {
    return { finished: { ...this.#finished }, ...this.#sums };
  }

  queued(request: LiveRequest): void {
    this.events.emit("request:queued", () => this.#about(request));
  }

  started(request: LiveRequest): void {
    const cachedTokens = request.numCachedTokens;
    this.events.emit("request:start", () => ({ ...this.#about(request), cachedTokens }));
  }

  preempted(request: LiveRequest): void {
    this.events.emit("request:preempted", () => this.#about(request));
  }

  finished(request: LiveRequest, { finishReason, error, usage }: Outcome): void {
    const errorCode = finishReason === undefined ? codeOf(error) : undefined;
    const isWish = errorCode === "ERR_ABORTED" || errorCode === "ERR_CLOSED";
    this.#finished[finishReason ?? (isWish ? "abort" : "error")]++;
    if (finishReason !== undefined) {
      for (const time of ["queueMs", "prefillMs", "decodeMs"] as const) {
        this.#sums[time] += usage[time];
      }
    }
    this.events.emit("request:finish", () => ({
      ...this.#about(request),
      finishReason,
      errorCode,
      usage: { ...usage },
    }));
  }

  /** @param freeBlocks - after its ended requests gave theirs back */
  stepped(step: ScheduledStep, durationMs: number, freeBlocks: number): void {
    this.#sums.steps++;
    this.#sums.stepMs += durationMs;
    this.events.emit("step", () => ({
      model: this.#model,
      tokens: step.numTokens,
      requests: step.sequences.length,
      outputs: step.numOutputs,
      durationMs,
      freeBlocks,
    }));
  }

  /** For the block manager, in the midst of whose work no listener may run: {@link tellCacheChanges} calls them. */
  readonly cacheChanged = (change: CacheEvent): void => {
    if (!this.events.isObserved("cache")) return;
    const isStored = change.type === "stored";
    // The cache goes on using its array.
    this.#cacheChanges.push(isStored ? { ...change, tokenIds: change.tokenIds.slice() } : change);
  };

  tellCacheChanges(): void {
    const changes = this.#cacheChanges;
    if (changes.length === 0) return;
    this.#cacheChanges = [];
    for (const change of changes) {
      this.events.emit("cache", () => ({ ...change, model: this.#model }));
    }
  }

  #about({ generation }: LiveRequest): { id: string; model: string } {
    return { id: generation.id, model: this.#model };
  }
}

function codeOf(error: unknown): PagodaError["code"] {
  return PagodaError.is(error) ? error.code : "ERR_INTERNAL";
}
