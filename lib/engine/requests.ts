import type { PagodaError } from "../errors.js";
import type { DrawnToken, ScheduledStep, Scheduler } from "../scheduler/scheduler.js";
import type { Sequence } from "../scheduler/sequence.js";
import { beginRequest } from "./begin-request.js";
import type { Brancher } from "./brancher.js";
import type { Detokenizer, Emission } from "./detokenize.js";
import { nonFinite } from "./engine-errors.js";
import type { Admission } from "./intake.js";
import type { LiveOutput } from "./live-output.js";
import { LiveRequest, type OnSettled, type Outcome, type RequestOwner } from "./live-request.js";
import type { Monitor } from "./monitor.js";
import type { CheckedRequest } from "./request.js";
import type { TokenLogprob } from "./types.js";

/** The requests that have not ended, and their sequences: brings what is drawn for these to the outputs. */
export class Requests implements RequestOwner {
  readonly #scheduler: Scheduler;
  readonly #detokenizer: Detokenizer;
  readonly #monitor: Monitor;
  readonly #live: Set<LiveRequest> = new Set();
  readonly #requestOf: WeakMap<Sequence, LiveRequest> = new WeakMap();
  readonly #counts = { promptTokens: 0, outputTokens: 0 };
  /** Of sequences, and of streams of text. */
  #nextId = 0;

  constructor(scheduler: Scheduler, detokenizer: Detokenizer, monitor: Monitor) {
    this.#scheduler = scheduler;
    this.#detokenizer = detokenizer;
    this.#monitor = monitor;
  }

  get size(): number {
    return this.#live.size;
  }

  /** Requests that have no sequence yet. */
  get numBeginning(): number {
    let count = 0;
    for (const { sequences } of this.#live) if (sequences.size === 0) count++;
    return count;
  }

  /** Tokens of prompts that were computed and of outputs, so far. */
  get counts(): { readonly promptTokens: number; readonly outputTokens: number } {
    return { ...this.#counts };
  }

  /** It has ended already where its signal was aborted before. */
  add(checked: CheckedRequest, onSettled?: OnSettled): LiveRequest {
    const request = new LiveRequest(checked, this, onSettled);
    if (request.isDone) return request;
    this.#live.add(request);
    this.#monitor.queued(request);
    return request;
  }

  /** Queues its first sequence. */
  begin(request: LiveRequest, admission: Admission): void {
    const first = beginRequest(request, admission, () => this.#nextId++);
    for (const output of request.outputs) {
      this.#detokenizer.open(output, admission.promptTokenIds);
    }
    this.#own(first, request, request.brancher === undefined ? request.outputs[0] : undefined);
    this.#scheduler.add(first);
  }

  /** @param isOwnersWish - see {@link LiveRequest.fail} */
  failAll(error: PagodaError, isOwnersWish = false): void {
    for (const request of [...this.#live]) request.fail(error, isOwnersWish);
  }

  fail(sequence: Sequence, error: PagodaError): void {
    this.#requestOf.get(sequence)!.fail(error);
  }

  /** A step begins. Returns the requests that it runs for the first time. */
  start({ sequences }: ScheduledStep): LiveRequest[] {
    const started: LiveRequest[] = [];
    for (const { sequence } of sequences) {
      const request = this.#requestOf.get(sequence)!;
      if (request.start(sequence)) started.push(request);
    }
    return started;
  }

  tellPreemptions(): void {
    const preempted = this.#scheduler.takePreempted();
    const requests = new Set(preempted.map((sequence) => this.#requestOf.get(sequence)!));
    for (const request of requests) this.#monitor.preempted(request);
  }

  /** What a step drew goes its way. */
  emit(drawn: readonly DrawnToken[], logprobs: ReadonlyMap<Sequence, TokenLogprob>): void {
    const emissions: Emission[] = [];
    for (const { sequence, token, finishReason } of drawn) {
      const request = this.#requestOf.get(sequence)!;
      if (request.isDone) continue; // another sequence of it has failed in this step
      if (request.markDrawn()) this.#counts.promptTokens += sequence.promptLength;
      const logprob = logprobs.get(sequence);
      const output = request.sequences.get(sequence);
      if (output !== undefined) emissions.push(emission(output, token, finishReason, logprob));
      else if (finishReason === "error") request.fail(nonFinite(0));
      else emissions.push(...this.#branch(request, sequence, token, logprob));
    }
    this.#deliver(emissions);
  }

  nextStreamId(): number {
    return this.#nextId++;
  }

  outputEnded({ sequences }: LiveRequest, output: LiveOutput): void {
    for (const [sequence, drawn] of sequences) {
      if (drawn === output) this.#scheduler.abort(sequence);
    }
    this.#detokenizer.close(output);
  }

  requestEnded(request: LiveRequest, outcome: Outcome): void {
    if (!this.#live.delete(request)) return; // its signal was aborted already
    for (const sequence of request.sequences.keys()) this.#scheduler.abort(sequence);
    for (const output of request.outputs) this.#detokenizer.close(output);
    this.#monitor.finished(request, outcome);
  }

  conclude({ sequences }: LiveRequest, brancher: Brancher): void {
    for (const sequence of sequences.keys()) this.#scheduler.abort(sequence);
    this.#deliver(brancher.conclude());
  }

  #deliver(emissions: readonly Emission[]): void {
    for (const { tokenIds, finishReason } of emissions) {
      if (finishReason !== "error") this.#counts.outputTokens += tokenIds.length;
    }
    this.#detokenizer.emit(emissions);
  }

  /** Replaces sequences by forks once all of their group were drawn for. Returns what is known of the outputs then. */
  #branch(
    request: LiveRequest,
    sequence: Sequence,
    token: number,
    logprob: TokenLogprob | undefined,
  ): readonly Emission[] {
    try {
      const branching = request.brancher!.drawn(sequence, token, logprob);
      if (branching === undefined) return [];
      const { parents, forks, emissions } = branching;
      const children = this.#scheduler.replace(parents, forks);
      for (const parent of parents) request.sequences.delete(parent);
      for (const [i, child] of children.entries()) this.#own(child, request, forks[i]!.output);
      request.brancher!.began(children);
      return emissions;
    } catch (error) {
      request.fail(error);
      return [];
    }
  }

  #own(sequence: Sequence, request: LiveRequest, output: LiveOutput | undefined): void {
    this.#requestOf.set(sequence, request);
    request.sequences.set(sequence, output);
  }
}

function emission(
  output: LiveOutput,
  token: number,
  finishReason: DrawnToken["finishReason"],
  logprob: TokenLogprob | undefined,
): Emission {
  return {
    output,
    tokenIds: [token],
    ...(finishReason !== undefined && { finishReason }),
    ...(logprob !== undefined && { logprobs: [logprob] }),
  };
}
