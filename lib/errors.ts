/** Every code a {@link PagodaError} can carry, with what it means. */
export const errorCodes = {
  ERR_ARGUMENT: "An argument is of the wrong type or out of range; details.parameter names it",
  ERR_NATIVE_NOT_FOUND: "No native addon for this platform could be loaded",
  ERR_BACKEND_UNAVAILABLE: "The asked backend cannot be used on this machine; the message says why",
  ERR_BACKEND_UNSUPPORTED: "The backend lacks ops that the model needs; details.ops lists them",
  ERR_BACKEND_FAILED: "A native operation failed; the engine cannot go on",
  ERR_MODEL_NOT_FOUND:
    "The model directory, or a file it must have, does not exist or cannot be read",
  ERR_MODEL_UNSUPPORTED:
    "The model's architecture or a feature of it is unknown; details.supported lists what is known",
  ERR_MODEL_CORRUPT: "A file of the model breaks its format; details.file names it",
  ERR_CONFIG_INVALID:
    "config.json lacks a needed field or has an invalid one; details.field names it",
  ERR_TENSOR_MISMATCH:
    "A weight is missing or has the wrong shape or dtype; details.tensor names it",
  ERR_TOKENIZER_MISSING: "The model directory has no tokenizer, so only token ids can be used",
  ERR_TOKENIZER_INVALID: "tokenizer.json could not be used",
  ERR_CHAT_TEMPLATE: "The chat template is missing, invalid, or refused the messages",
  ERR_EMPTY_PROMPT: "The prompt has no tokens",
  ERR_TOKEN_ID: "A token id is not an integer inside the vocabulary",
  ERR_CONTEXT_LENGTH: "The prompt does not fit the context length or the KV cache",
  ERR_MEMORY: "Memory for weights, KV cache or workspace could not be allocated",
  ERR_SESSION_BUSY: "The session's last turn has not ended yet; fork the session to branch",
  ERR_QUEUE_FULL: "Too many requests are waiting; try again later",
  ERR_NON_FINITE: "The model produced logits that are NaN or infinite for this request",
  ERR_SESSION_NOT_FOUND: "The session file does not exist or cannot be read",
  ERR_SESSION_CORRUPT:
    "The session file breaks its format, is damaged, or is of an unknown version; details.reason says what",
  ERR_SESSION_MISMATCH:
    "The session belongs to another model; details.expected and details.received are fingerprints",
  ERR_SESSION_WRITE: "The session file could not be written; the cause says why",
  ERR_ABORTED: "The operation was cancelled by its AbortSignal or by cancel()",
  ERR_CLOSED: "The engine is closed",
  ERR_INTERNAL: "An invariant of the engine does not hold; please report it",
} as const;

export type ErrorCode = keyof typeof errorCodes;

const marker: unique symbol = Symbol.for("pagoda-llm.error");

/** Codes after which the same call may succeed later, unchanged. */
const retryable: ReadonlySet<ErrorCode> = new Set(["ERR_QUEUE_FULL", "ERR_MEMORY"]);

/** The only error class that this package throws on purpose. */
export class PagodaError extends Error {
  /** Stable, machine-readable. */
  readonly code: ErrorCode;
  /** Plain data about the failure, e.g. `{ parameter: "topP", received: 2 }`. */
  readonly details: Readonly<Record<string, unknown>>;
  /** Whether the same call may succeed later, unchanged. */
  readonly retryable: boolean;

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: Record<string, unknown>; cause?: unknown } = {},
  ) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.name = "PagodaError";
    this.code = code;
    this.details = Object.freeze({ ...options.details });
    this.retryable = retryable.has(code);
    Object.defineProperty(this, marker, { value: true });
  }

  /** Works across several copies of this package, where `instanceof` would not. */
  static is(error: unknown, code?: ErrorCode): error is PagodaError {
    if (typeof error !== "object" || error === null || !(marker in error)) return false;
    return code === undefined || (error as unknown as PagodaError).code === code;
  }
}

/** A sentence such as: Expected an integer in [1, 8] for `topK` but received -3. */
export function argumentError(parameter: string, expected: string, received: unknown): PagodaError {
  return new PagodaError(
    "ERR_ARGUMENT",
    `Expected ${expected} for \`${parameter}\` but received ${describe(received)}`,
    {
      details: {
        parameter,
        received: isPlain(received) ? received : describe(received),
      },
    },
  );
}

/** Name of the object's class, without trusting what the object says of itself. */
function typeName(value: object): string {
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype === null) return "null";
  const constructor: unknown = Object.getOwnPropertyDescriptor(prototype, "constructor")?.value;
  return typeof constructor === "function" ? constructor.name : "unknown";
}

/** Whether a value survives JSON as it is. */
function isPlain(value: unknown): boolean {
  return (
    value === null ||
    typeof value === "boolean" ||
    typeof value === "string" ||
    Number.isFinite(value)
  );
}

/** A short, safe rendering of any value for an error message. */
export function describe(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "function") return "a function";
  if (typeof value === "symbol") return "a symbol";
  if (value !== null && typeof value === "object") return `an object of type ${typeName(value)}`;
  return String(value);
}

/** Throws ERR_INTERNAL when an invariant of our own code does not hold. Never used to check input. */
export function assert(condition: unknown, why: string): asserts condition {
  if (!condition) throw new PagodaError("ERR_INTERNAL", `Invariant broken: ${why}`);
}
