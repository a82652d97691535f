import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { ApiError } from "./api-error.js";
import type { NodeHandler } from "./handler.js";
import { sendError } from "./send.js";

/** Counts the requests that are being answered, so that a server can close when none is left. */
export class Drain {
  readonly #handler: NodeHandler;
  #active = 0;
  #closing: Promise<void> | undefined;
  /** Called when the last active request has ended while closing. */
  #onIdle: () => void = () => undefined;

  constructor(handler: NodeHandler) {
    this.#handler = handler;
  }

  handle(req: IncomingMessage, res: ServerResponse): void {
    if (this.#closing !== undefined) return refuse(res);
    this.#active++;
    // A response that waits behind another one on its connection has no "close" of its own when the connection goes.
    const done = (): void => {
      res.off("close", done);
      req.socket.off("close", done);
      this.#active--;
      if (this.#active === 0) this.#onIdle();
    };
    res.on("close", done);
    req.socket.on("close", done);
    this.#handler(req, res);
  }

  /** Resolves when the server is closed; running answers get `graceMs` to end. */
  close(server: Server, graceMs: number): Promise<void> {
    this.#closing ??= this.#close(server, graceMs);
    return this.#closing;
  }

  async #close(server: Server, graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => void server.close(() => resolve()));
    if (this.#active > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, graceMs);
        this.#onIdle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    server.closeAllConnections();
    await closed;
  }
}

function refuse(res: ServerResponse): void {
  res.on("error", () => undefined);
  const headers = { connection: "close", "retry-after": "5" };
  const message = "The server is shutting down";
  sendError(res, new ApiError(503, "service_unavailable_error", message, { headers }), 1000);
}
