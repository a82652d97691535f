import type { IncomingMessage, ServerResponse } from "node:http";
import type { Engine } from "../engine/types.js";
import { checkInteger } from "../arguments.js";
import { PagodaError } from "../errors.js";
import { Metrics } from "./metrics.js";

/** Options of {@link toNodeHandler}. */
export interface HandlerOptions {
  /** The id under which the model is served. @default the name of its directory */
  readonly model?: string;
  /** Bytes of a request body at most; above it the answer is 413. @default 8 MiB */
  readonly maxBodyBytes?: number;
  /** Characters held for a stream whose client does not read; above it the client is cut off. At most 2^28. @default 2^20 */
  readonly maxBufferedChars?: number;
  /** Milliseconds for which a client may take nothing of what waits for it before it is cut off. @default 30000 */
  readonly stallTimeoutMs?: number;
  /** Told of every failure that is not the client's: what was answered with a status of 500 or above. */
  readonly onError?: (error: unknown) => void;
}

/** What every endpoint needs, made once a handler. */
export interface ServerContext {
  readonly engine: Engine;
  readonly model: string;
  /** Unix time in seconds of the handler's making, reported as the model's. */
  readonly created: number;
  readonly limits: Limits;
  readonly metrics: Metrics;
  /** To be told of every failure that is not the client's. Never throws. */
  report(error: unknown): void;
  /** The error after which the engine cannot serve any more. */
  fatal: PagodaError | undefined;
}

export type Limits = Required<
  Pick<HandlerOptions, "maxBodyBytes" | "maxBufferedChars" | "stallTimeoutMs">
>;

/** One request and its answer. */
export interface Exchange {
  readonly context: ServerContext;
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
}

export function createContext(engine: Engine, options: HandlerOptions): ServerContext {
  const onError = reporter(options.onError);
  const model = options.model ?? engine.info.model.name;
  return {
    engine,
    model,
    created: unixSeconds(),
    limits: {
      maxBodyBytes: positive("maxBodyBytes", options.maxBodyBytes, 8 * 2 ** 20),
      maxBufferedChars: positive("maxBufferedChars", options.maxBufferedChars, 2 ** 20, 2 ** 28),
      stallTimeoutMs: positive("stallTimeoutMs", options.stallTimeoutMs, 30_000),
    },
    metrics: new Metrics(engine, model),
    fatal: undefined,
    report(error) {
      if (PagodaError.is(error) && fatalCodes.has(error.code)) this.fatal ??= error;
      onError(error);
    },
  };
}

/** Calls a listener, if there is one, whose own errors must not end the process. */
export function reporter(onError: HandlerOptions["onError"]): (error: unknown) => void {
  return (error) => {
    try {
      onError?.(error);
    } catch {
      // Nobody is left to be told.
    }
  };
}

const fatalCodes: ReadonlySet<string> = new Set(["ERR_BACKEND_FAILED", "ERR_CLOSED"]);

/** The default maximum is the longest timer that Node takes. */
function positive(
  name: string,
  value: number | undefined,
  fallback: number,
  max: number = 2 ** 31 - 1,
): number {
  return checkInteger(name, value ?? fallback, { min: 1, max });
}

/** Whether nobody is left to answer. A response that waits behind another one does not notice it itself. */
export function isGone({ req, res }: Exchange): boolean {
  return res.destroyed || req.socket.destroyed;
}

export function unixSeconds(): number {
  return Math.floor(Date.now() / 1000);
}
