import type { ServerResponse } from "node:http";
import type { ApiError } from "./api-error.js";

/** Sends a whole body; a client that takes nothing of it for `stallTimeoutMs` is cut off. */
export function sendText(
  res: ServerResponse,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>>,
  stallTimeoutMs: number,
): void {
  if (res.destroyed || res.headersSent) return;
  res.writeHead(status, { ...headers, "content-length": String(Buffer.byteLength(text)) });
  res.on("timeout", () => res.destroy());
  res.setTimeout(stallTimeoutMs);
  res.end(text);
}

export const jsonHeaders: Readonly<Record<string, string>> = { "content-type": "application/json" };

export function sendJson(
  res: ServerResponse,
  status: number,
  body: object,
  stallTimeoutMs: number,
  headers: Readonly<Record<string, string>> = {},
): void {
  sendText(res, status, JSON.stringify(body), { ...jsonHeaders, ...headers }, stallTimeoutMs);
}

export function sendError(res: ServerResponse, error: ApiError, stallTimeoutMs: number): void {
  sendJson(res, error.status, error.body(), stallTimeoutMs, error.headers);
}
