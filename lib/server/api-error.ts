import { PagodaError, type ErrorCode } from "../errors.js";

export type ApiErrorType =
  "invalid_request_error" | "rate_limit_error" | "server_error" | "service_unavailable_error";

interface ApiErrorInit {
  /** The request field at fault. */
  readonly param?: string | undefined;
  readonly code?: string | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** An answer that is an error. Used inside the server only; a caller of the package never sees it. */
export class ApiError extends Error {
  readonly status: number;
  readonly type: ApiErrorType;
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(status: number, type: ApiErrorType, message: string, init: ApiErrorInit = {}) {
    super(message, { cause: init.cause });
    this.name = "ApiError";
    this.status = status;
    this.type = type;
    this.param = init.param ?? null;
    this.code = init.code ?? null;
    this.headers = init.headers ?? {};
  }

  /** The body of the answer, in OpenAI's shape. */
  body(): { error: { message: string; type: string; param: string | null; code: string | null } } {
    const { message, type, param, code } = this;
    return { error: { message, type, param, code } };
  }
}

/** A 400 that names the request field at fault. */
export function badRequest(message: string, param?: string, code?: string): ApiError {
  return new ApiError(400, "invalid_request_error", message, { param, code });
}

interface Mapping {
  readonly status: number;
  readonly type: ApiErrorType;
  /** OpenAI's code where it has one; else the engine's own code is passed on. */
  readonly code?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

const invalid: Mapping = { status: 400, type: "invalid_request_error" };

/** How the engine's errors are answered; codes that are not listed are a 500. */
const mappings: Partial<Record<ErrorCode, Mapping>> = {
  ERR_ARGUMENT: { ...invalid, code: "invalid_value" },
  ERR_TOKEN_ID: { ...invalid, code: "invalid_value" },
  ERR_EMPTY_PROMPT: { ...invalid, code: "invalid_value" },
  ERR_CONTEXT_LENGTH: { ...invalid, code: "context_length_exceeded" },
  ERR_TOKENIZER_MISSING: invalid,
  ERR_CHAT_TEMPLATE: invalid,
  ERR_QUEUE_FULL: {
    status: 429,
    type: "rate_limit_error",
    code: "rate_limit_exceeded",
    headers: { "retry-after": "1" },
  },
  ERR_MEMORY: { status: 503, type: "service_unavailable_error", headers: { "retry-after": "5" } },
  ERR_CLOSED: { status: 503, type: "service_unavailable_error" },
  ERR_ABORTED: { status: 503, type: "service_unavailable_error" },
};

/**
 * Turns whatever was thrown into an answer. What is not the client's fault and not our own wording stays inside.
 *
 * @param input - the request field that holds the prompt
 */
export function toApiError(error: unknown, input?: string): ApiError {
  if (error instanceof ApiError) return error;
  if (!PagodaError.is(error)) {
    const message = "The server had an error while processing the request";
    return new ApiError(500, "server_error", message, { cause: error });
  }
  const mapping = mappings[error.code] ?? { status: 500, type: "server_error" as const };
  return new ApiError(mapping.status, mapping.type, error.message, {
    param: inputCodes.has(error.code) ? input : requestField(error),
    code: mapping.code ?? error.code,
    headers: mapping.headers ?? {},
    cause: error,
  });
}

/** Codes that are about the prompt as a whole. */
const inputCodes: ReadonlySet<ErrorCode> = new Set([
  "ERR_EMPTY_PROMPT",
  "ERR_CONTEXT_LENGTH",
  "ERR_TOKENIZER_MISSING",
  "ERR_CHAT_TEMPLATE",
]);

/** The HTTP name of the engine's parameter: `topP` becomes `top_p`. */
function requestField(error: PagodaError): string | undefined {
  const { parameter } = error.details;
  if (typeof parameter !== "string") return undefined;
  return parameter.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
