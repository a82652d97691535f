import { createServer, type Server, type ServerOptions as HttpOptions } from "node:http";
import type { AddressInfo } from "node:net";
import type { Engine } from "../engine/types.js";
import { checkInteger } from "../arguments.js";
import { argumentError } from "../errors.js";
import { Drain } from "./drain.js";
import { handlerOf } from "./handler.js";
import { createContext, reporter, type HandlerOptions } from "./options.js";

/** Options of {@link startServer}. */
export interface ServerOptions extends HandlerOptions {
  /** @default "127.0.0.1" */
  readonly host?: string;
  /** 0 picks a free one. @default 8000 */
  readonly port?: number;
  /** Connections at most; further ones are closed at once. @default 4096 */
  readonly maxConnections?: number;
  /** Milliseconds for the head of a request, at most `requestTimeoutMs`. @default 10000 */
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
  // An empty host would mean all addresses.
  if (typeof host !== "string" || host === "") throw argumentError("host", "a host name", host);
  const port = checkInteger("port", options.port ?? 8000, { min: 0, max: 65_535 });
  const context = createContext(engine, options);
  const drain = new Drain(handlerOf(context));
  const server = createServer(httpLimits(options), (req, res) => drain.handle(req, res));
  server.maxConnections = checkInteger("maxConnections", maxConnections, { min: 1, max: 65_535 });
  // Each request that waits on a pipelined connection listens for its end.
  server.on("connection", (socket) => socket.setMaxListeners(0));
  await listen(server, host, port);
  server.on("error", reporter(options.onError));
  const bound = (server.address() as AddressInfo).port;
  const name = host.includes(":") ? `[${host}]` : host;
  return {
    host,
    port: bound,
    url: `http://${name}:${bound}`,
    close: (graceMs = 10_000) =>
      drain.close(server, graceMs).finally(() => context.metrics.close()),
  };
}

function httpLimits(options: ServerOptions): HttpOptions {
  const { requestTimeoutMs = 30_000 } = options;
  const { headersTimeoutMs = Math.min(10_000, requestTimeoutMs) } = options;
  const whole = checkInteger("requestTimeoutMs", requestTimeoutMs, { min: 1, max: 2 ** 31 - 1 });
  return {
    headersTimeout: checkInteger("headersTimeoutMs", headersTimeoutMs, { min: 1, max: whole }),
    requestTimeout: whole,
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
