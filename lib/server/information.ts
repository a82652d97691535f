import type { Exchange, ServerContext } from "./options.js";
import { modelNotFound } from "./request.js";
import { sendJson, sendText } from "./send.js";

const welcome =
  "Pagoda serves POST /v1/chat/completions, POST /v1/completions, GET /v1/models, GET /health and GET /metrics.\n";

/** GET / */
export function index({ context, res }: Exchange): void {
  const headers = { "content-type": "text/plain; charset=utf-8" };
  sendText(res, 200, welcome, headers, context.limits.stallTimeoutMs);
}

/** GET /health; an error status once the engine has failed. */
export function health({ context, res }: Exchange): void {
  if (context.fatal !== undefined) throw context.fatal;
  const body = { status: "ok", model: context.model, stats: context.engine.stats() };
  sendJson(res, 200, body, context.limits.stallTimeoutMs);
}

/** GET /metrics, in Prometheus' text format 0.0.4; also once the engine has failed. */
export function metrics({ context, res }: Exchange): void {
  const headers = { "content-type": "text/plain; version=0.0.4; charset=utf-8" };
  sendText(res, 200, context.metrics.text(), headers, context.limits.stallTimeoutMs);
}

/** GET /v1/models */
export function models({ context, res }: Exchange): void {
  const body = { object: "list", data: [modelObject(context)] };
  sendJson(res, 200, body, context.limits.stallTimeoutMs);
}

/** GET /v1/models/{id} */
export function model({ context, res }: Exchange, id: string): void {
  if (id !== context.model) throw modelNotFound(id);
  sendJson(res, 200, modelObject(context), context.limits.stallTimeoutMs);
}

/** `max_model_len` is an extension, named as in vLLM. */
function modelObject({ model, created, engine }: ServerContext): object {
  const max_model_len = engine.info.model.maxModelLen;
  return { id: model, object: "model", created, owned_by: "pagoda", max_model_len };
}
