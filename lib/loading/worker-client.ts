import { Worker, type ResourceLimits } from "node:worker_threads";
import { PagodaError, type ErrorCode } from "../errors.js";
import type { RequestName, WorkerReply, WorkerRequest } from "./tokenizer-protocol.js";
import type { WorkerRequests, WorkerSetup } from "./tokenizer-protocol.js";

export interface WorkerClientOptions {
  readonly setup: WorkerSetup;
  /** A request that takes longer ends the worker. */
  readonly timeoutMilliseconds: number;
  /** The code of the error when the worker ends by time-out, lack of memory or a crash. */
  readonly failureCode: ErrorCode;
  /** Whether the next request starts a fresh worker after one has ended; else all fail. */
  readonly restarts: boolean;
  readonly resourceLimits?: ResourceLimits;
}

interface Job {
  readonly request: WorkerRequest;
  readonly transfer: readonly ArrayBuffer[];
  readonly resolve: (output: never) => void;
  readonly reject: (error: unknown) => void;
}

/** How long a worker may take to start, in milliseconds; generous, as machines may be busy. */
const startTimeout = 30_000;

/**
 * Requests to one worker thread, one at a time and in order, under a time limit. The thread starts
 * with the first request and keeps the process alive only while a request is pending. JavaScript
 * that does not end can only be stopped with its thread, so a time-out terminates the worker; what
 * is still queued runs in a fresh one.
 */
export class WorkerClient {
  readonly #options: WorkerClientOptions;
  readonly #queue: Job[] = [];
  /** The job that the worker has; it stays first in the queue until it is settled. */
  #current: Job | undefined;
  #worker: Worker | undefined;
  #isReady = false;
  #timer: NodeJS.Timeout | undefined;
  /** Why every further request is rejected. */
  #ended: PagodaError | undefined;

  constructor(options: WorkerClientOptions) {
    this.#options = options;
  }

  request<K extends RequestName>(
    name: K,
    input: WorkerRequests[K]["input"],
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<WorkerRequests[K]["output"]> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) {
        reject(this.#ended);
        return;
      }
      this.#queue.push({ request: { name, input }, transfer, resolve, reject });
      this.#advance();
    });
  }

  /** Starts the thread before the first request does. */
  start(): void {
    if (this.#ended === undefined) this.#launch();
  }

  /** Rejects what is pending with `error` and ends the thread. */
  async close(error: PagodaError): Promise<void> {
    this.#ended ??= error;
    const worker = this.#detach();
    for (const job of this.#queue.splice(0)) job.reject(this.#ended);
    await worker?.terminate();
  }

  /** Starts what can be started now. */
  #advance(): void {
    if (this.#current !== undefined) return;
    const job = this.#queue[0];
    if (job === undefined) {
      this.#worker?.unref();
      return;
    }
    const worker = this.#launch();
    worker?.ref();
    if (worker === undefined || !this.#isReady) return;
    this.#current = job;
    this.#arm(worker, this.#options.timeoutMilliseconds);
    try {
      worker.postMessage(job.request, job.transfer);
    } catch (error) {
      this.#lose((error as Error).message);
    }
  }

  /** The thread, started if there is none; undefined when it cannot be started. */
  #launch(): Worker | undefined {
    try {
      return (this.#worker ??= this.#create());
    } catch (error) {
      this.#lose((error as Error).message);
      return undefined;
    }
  }

  #create(): Worker {
    const worker = new Worker(new URL("./tokenizer-worker.js", import.meta.url), {
      workerData: this.#options.setup,
      execArgv: [],
      ...(this.#options.resourceLimits && { resourceLimits: this.#options.resourceLimits }),
    });
    this.#arm(worker, startTimeout);
    worker.on("message", (reply: WorkerReply) => this.#receive(worker, reply));
    worker.on("error", (error) => this.#fail(worker, error.message));
    worker.on("exit", () => this.#fail(worker, "its thread ended"));
    return worker;
  }

  #receive(worker: Worker, reply: WorkerReply): void {
    if (worker !== this.#worker) return;
    this.#disarm();
    if (reply.kind === "ready") {
      this.#isReady = true;
    } else {
      const job = this.#current;
      this.#current = undefined;
      this.#queue.shift();
      if (reply.kind === "result") job?.resolve(reply.output as never);
      else job?.reject(toError(reply));
    }
    this.#advance();
  }

  /** Ignores what a worker says after it was given up. */
  #fail(worker: Worker, reason: string): void {
    if (worker === this.#worker) this.#lose(reason);
  }

  /** The worker is lost, and with it the job that it had or was started for. */
  #lose(reason: string): void {
    void this.#detach()?.terminate();
    const { failureCode, restarts, setup } = this.#options;
    const message = `The tokenizer's worker (${setup.role}) failed: ${reason}`;
    const error = new PagodaError(failureCode, message, { details: { role: setup.role, reason } });
    if (!restarts) this.#ended = error;
    const lost = restarts ? this.#queue.splice(0, 1) : this.#queue.splice(0);
    for (const job of lost) job.reject(error);
    this.#advance();
  }

  #detach(): Worker | undefined {
    const worker = this.#worker;
    this.#disarm();
    this.#worker = undefined;
    this.#current = undefined;
    this.#isReady = false;
    return worker;
  }

  #arm(worker: Worker, milliseconds: number): void {
    const timer = setTimeout(() => {
      // When the event loop was busy, the reply may be waiting: look at messages first.
      setImmediate(() => {
        if (timer === this.#timer) this.#fail(worker, `it took longer than ${milliseconds} ms`);
      });
    }, milliseconds);
    this.#timer = timer;
  }

  #disarm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

function toError(reply: Extract<WorkerReply, { kind: "error" }>): PagodaError {
  return new PagodaError(reply.code as ErrorCode, reply.message, { details: { ...reply.details } });
}
