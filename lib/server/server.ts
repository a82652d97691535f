import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions as HttpOptions,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import type { Engine } from "../engine/types.js";
import { checkInteger } from "../arguments.js";
import { ApiError } from "./api-error.js";
import { toNodeHandler } from "./handler.js";
import type { HandlerOptions } from "./options.js";
import { sendError } from "./send.js";

/** Options of {@link startServer}. */
export interface ServerOptions extends HandlerOptions {
  /** @default "127.0.0.1" */
  readonly host?: string;
  /** 0 picks a free one. @default 8000 */
  readonly port?: number;
  /** Connections at most; further ones are closed at once. @default 4096 */
  readonly maxConnections?: number;
  /** Milliseconds for the head of a request. @default 10000 */
  readonly headersTimeoutMs?: number;
  /** Milliseconds for a whole request; an answer may take as long as it needs. @default 30000 */
  readonly requestTimeoutMs?: number;
}

/** A server that listens. */
export interface RunningServer {
  readonly host: string;
  readonly port: number;
  /** Such as `http://127.0.0.1:8000`. */
  readonly url: string;
  /**
   * Takes no new requests, lets the running ones end for at most `graceMs`, then cuts the rest off. The engine stays open.
   * @default 10000
   */
  close(graceMs?: number): Promise<void>;
}

/**
 * Serves an engine over HTTP until `close`.
 *
 * @throws PagodaError ERR_ARGUMENT when an option is out of range; the system's error when the address cannot be used.
 */
export async function startServer(
  engine: Engine,
  options: ServerOptions = {},
): Promise<RunningServer> {
  const { host = "127.0.0.1", maxConnections = 4096 } = options;
  const port = checkInteger("port", options.port ?? 8000, { min: 0, max: 65_535 });
  const drain = new Drain(toNodeHandler(engine, options));
  const server = createServer(httpLimits(options), (req, res) => drain.handle(req, res));
  server.maxConnections = checkInteger("maxConnections", maxConnections, { min: 1, max: 65_535 });
  // Each request that waits on a pipelined connection listens for its end.
  server.on("connection", (socket) => socket.setMaxListeners(0));
  await listen(server, host, port);
  server.on("error", options.onError ?? (() => undefined));
  const bound = (server.address() as AddressInfo).port;
  const name = host.includes(":") ? `[${host}]` : host;
  return {
    host,
    port: bound,
    url: `http://${name}:${bound}`,
    close: (graceMs = 10_000) => drain.close(server, graceMs),
  };
}

function httpLimits(options: ServerOptions): HttpOptions {
  const range = { min: 1, max: 2 ** 31 - 1 };
  const { headersTimeoutMs = 10_000, requestTimeoutMs = 30_000 } = options;
  return {
    headersTimeout: checkInteger("headersTimeoutMs", headersTimeoutMs, range),
    requestTimeout: checkInteger("requestTimeoutMs", requestTimeoutMs, range),
    // How often the two above are looked at.
    connectionsCheckingInterval: 1000,
    keepAliveTimeout: 5000,
    maxHeaderSize: 16_384,
  };
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

/** Counts the requests that are being answered, so that a server can close when none is left. */
class Drain {
  readonly #handler: (req: IncomingMessage, res: ServerResponse) => void;
  #active = 0;
  #closing: Promise<void> | undefined;
  /** Called when the last active request has ended while closing. */
  #onIdle: () => void = () => undefined;

  constructor(handler: (req: IncomingMessage, res: ServerResponse) => void) {
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
