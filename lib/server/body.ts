import type { IncomingMessage } from "node:http";
import { ApiError, badRequest } from "./api-error.js";
import { JsonShape, type JsonLimits } from "./json-shape.js";

/**
 * Keeps what JSON.parse takes below some tens of milliseconds. A chat request nests about five deep and has two keys a
 * message; token ids are the most values that a request may need.
 */
const jsonLimits: JsonLimits = { depth: 64, keys: 2 ** 16, values: 2 ** 18 };

/** Reads and parses a JSON body of at most `limit` bytes; rejects with an ApiError of 400, 413 or 415. */
export async function readJsonBody(req: IncomingMessage, limit: number): Promise<unknown> {
  checkContentHeaders(req);
  const parsed = parsedByFramework(req);
  if (parsed !== undefined) return parsed;
  const declared = Number(req.headers["content-length"] ?? 0);
  if (declared > limit) throw tooLarge(`more than ${limit} bytes`);
  return parseJson(await readBytes(req, limit));
}

/**
 * Reads on and throws away what is left of a body, so that the client sees the answer instead of a reset connection.
 * A client that goes on for more than `limit` bytes is cut off.
 */
export function discardBody(req: IncomingMessage, limit: number): void {
  let left = limit;
  req.on("data", (chunk: Buffer) => {
    left -= chunk.length;
    if (left < 0) req.destroy();
  });
}

/** A framework that has read the body leaves it in `body`. */
function parsedByFramework(req: IncomingMessage): unknown {
  const { body } = req as { body?: unknown };
  if (typeof body === "string") return parseJson(Buffer.from(body));
  return body instanceof Uint8Array ? parseJson(body) : body;
}

function checkContentHeaders(req: IncomingMessage): void {
  const encoding = req.headers["content-encoding"];
  if (encoding !== undefined && encoding.trim().toLowerCase() !== "identity") {
    throw unsupportedMedia("Compressed request bodies are not supported", {
      "accept-encoding": "identity",
    });
  }
  const [type, ...parameters] = (req.headers["content-type"] ?? "").toLowerCase().split(";");
  const charset = parameters.map((text) => text.trim()).find((text) => text.startsWith("charset="));
  const isUtf8 = charset === undefined || /^charset="?utf-?8"?$/.test(charset);
  if (type?.trim() !== "application/json" || !isUtf8) {
    throw unsupportedMedia("The request needs the header `Content-Type: application/json` (UTF-8)");
  }
}

function unsupportedMedia(message: string, headers: Record<string, string> = {}): ApiError {
  const code = "unsupported_media_type";
  return new ApiError(415, "invalid_request_error", message, { code, headers });
}

function tooLarge(what: string): ApiError {
  const message = `The request body has ${what}`;
  return new ApiError(413, "invalid_request_error", message, { code: "request_too_large" });
}

function badShape(exceeded: keyof JsonLimits): ApiError {
  const limit = jsonLimits[exceeded];
  if (exceeded === "depth") return badRequest(`The body nests more than ${limit} deep`);
  return tooLarge(`more than ${limit} ${exceeded}`);
}

/** The stream is left open when this rejects, so that an answer can still be sent. */
function readBytes(req: IncomingMessage, limit: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    const shape = new JsonShape(jsonLimits);
    let length = 0;
    const settle = (act: () => void): void => {
      req.off("data", onData).off("end", onEnd).off("close", onClose).off("error", onClose);
      act();
    };
    const onData = (chunk: Buffer): void => {
      length += chunk.length;
      chunks.push(chunk);
      if (length > limit) return settle(() => reject(tooLarge(`more than ${limit} bytes`)));
      const exceeded = shape.accept(chunk);
      if (exceeded !== undefined) settle(() => reject(badShape(exceeded)));
    };
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks, length)));
    const onClose = (): void => settle(() => reject(badRequest("The body is incomplete")));
    req.on("data", onData).on("end", onEnd).on("close", onClose).on("error", onClose);
  });
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    const reason = error instanceof SyntaxError ? "it is not valid JSON" : "it is not valid UTF-8";
    throw badRequest(`The body could not be parsed: ${reason}`);
  }
}
