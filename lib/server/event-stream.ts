import type { ServerResponse } from "node:http";

export interface EventStreamLimits {
  /** Characters that may wait while the client does not read. */
  readonly maxBufferedChars: number;
  /** Milliseconds for which the client may take nothing of what waits. */
  readonly stallTimeoutMs: number;
}

/**
 * Server-sent events on a response. `send` never blocks: events of one turn of the event loop leave in one write, and
 * events for a client that is not reading are held. A client that reads nothing for too long, or for which too much is
 * held, is cut off; the response then emits "close", by which its owner learns that nobody listens any more.
 */
export class EventStream {
  readonly #res: ServerResponse;
  readonly #limits: EventStreamLimits;
  #held = "";
  /** The socket's buffer is full; it says "drain" when there is room again. */
  #blocked = false;
  #flushScheduled = false;

  constructor(res: ServerResponse, limits: EventStreamLimits) {
    this.#res = res;
    this.#limits = limits;
    res.on("timeout", () => res.destroy());
    res.on("drain", () => this.#resume());
  }

  /** Whether the head has been sent, after which errors can only be told as an event. */
  get isOpen(): boolean {
    return this.#res.headersSent;
  }

  /** Sends the head; does nothing the second time. */
  open(): void {
    if (this.#res.headersSent || this.#res.destroyed) return;
    this.#res.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      "x-accel-buffering": "no",
    });
    this.#res.flushHeaders();
  }

  /** Queues an event; an object is sent as JSON. */
  send(data: object | string): void {
    if (this.#res.destroyed) return;
    this.open();
    const text = typeof data === "string" ? data : JSON.stringify(data);
    this.#held += `data: ${text}\n\n`;
    if (this.#blocked) {
      if (this.#held.length > this.#limits.maxBufferedChars) this.#res.destroy();
    } else if (!this.#flushScheduled) {
      this.#flushScheduled = true;
      setImmediate(() => this.#flush());
    }
  }

  /** Sends what is held and ends the response. */
  end(): void {
    if (this.#res.destroyed) return;
    this.#res.setTimeout(this.#limits.stallTimeoutMs);
    this.#res.end(this.#held);
    this.#held = "";
  }

  #flush(): void {
    this.#flushScheduled = false;
    if (this.#held === "" || this.#res.destroyed) return;
    const text = this.#held;
    this.#held = "";
    this.#blocked = !this.#res.write(text);
    if (this.#blocked) this.#res.setTimeout(this.#limits.stallTimeoutMs);
  }

  #resume(): void {
    if (!this.#blocked) return;
    this.#blocked = false;
    this.#res.setTimeout(0);
    this.#flush();
  }
}
