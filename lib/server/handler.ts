import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Engine } from "../engine/types.js";
import { toApiError } from "./api-error.js";
import { discardBody } from "./body.js";
import {
  createContext,
  isGone,
  type Exchange,
  type HandlerOptions,
  type ServerContext,
} from "./options.js";
import { match } from "./router.js";
import { sendError } from "./send.js";

/** Handles one request; it never throws and returns at once. */
export type NodeHandler = (req: IncomingMessage, res: ServerResponse) => void;

/**
 * The OpenAI-compatible endpoints of an engine as a `node:http` request listener, which every Node framework can mount:
 * `/v1/chat/completions`, `/v1/completions`, `/v1/models`, `/health`, `/metrics`. Only the path after the mount point is looked at.
 *
 * @throws PagodaError ERR_ARGUMENT when an option is out of range.
 */
export function toNodeHandler(engine: Engine, options: HandlerOptions = {}): NodeHandler {
  return handlerOf(createContext(engine, options));
}

/** As {@link toNodeHandler}, with a context whose end the caller decides. */
export function handlerOf(context: ServerContext): NodeHandler {
  return (req, res) => {
    // A client that goes away is noticed by "close"; nothing is left to do about its errors.
    res.on("error", () => undefined);
    const exchange = { context, req, res };
    handle(exchange)
      .catch((error: unknown) => fail(exchange, error))
      .catch(() => res.destroy());
  };
}

async function handle(exchange: Exchange): Promise<void> {
  const { req, res } = exchange;
  res.setHeader("x-request-id", randomUUID());
  const { endpoint, id } = match(req.method ?? "", req.url ?? "");
  await endpoint(exchange, id);
}

function fail(exchange: Exchange, error: unknown): void {
  if (isGone(exchange)) return;
  const { context, req, res } = exchange;
  const { maxBodyBytes, stallTimeoutMs } = context.limits;
  const answer = toApiError(error);
  if (answer.status >= 500) context.report(answer.cause ?? answer);
  if (!req.complete) discardBody(req, 4 * maxBodyBytes);
  sendError(res, answer, stallTimeoutMs);
}
