import type { GenerateRequest } from "../engine/types.js";
import { ApiError, badRequest } from "./api-error.js";
import { Fields } from "./fields.js";
import { checkSupport, type FieldSupport } from "./support.js";

/** How the client wants the answer. */
export interface AnswerOptions {
  /** Choices a prompt. */
  readonly n: number;
  /** Server-sent events instead of one JSON object. */
  readonly stream: boolean;
  /** A last event with the usage. */
  readonly includeUsage: boolean;
  /** Token ids beside the text (an extension, named as in vLLM). */
  readonly returnTokenIds: boolean;
}

/** The fields that {@link readAnswerOptions} and {@link openRequest} read. */
export const answerFields = ["model", "stream", "stream_options", "return_token_ids"] as const;

/** The checks with which both endpoints begin: an object, no unknown fields, no model but the one that is served. */
export function openRequest(body: unknown, support: FieldSupport, model: string): Fields {
  const fields = new Fields(body);
  checkSupport(fields, support);
  const asked = fields.string("model");
  if (asked !== undefined && asked !== model) throw modelNotFound(asked);
  return fields;
}

export function modelNotFound(id: string): ApiError {
  const name = id.length > 100 ? `${id.slice(0, 100)}…` : id;
  return new ApiError(404, "invalid_request_error", `The model \`${name}\` does not exist`, {
    param: "model",
    code: "model_not_found",
  });
}

type Outputs = Pick<GenerateRequest, "n" | "bestOf" | "promptLogprobs">;

export function readAnswerOptions(fields: Fields, request: Outputs): AnswerOptions {
  const stream = fields.boolean("stream") ?? false;
  if (stream) checkStreamable(request);
  const options = fields.object("stream_options");
  if (options !== undefined && !stream) {
    throw badRequest("`stream_options` needs `stream: true`", "stream_options", "invalid_value");
  }
  options?.boolean("include_obfuscation");
  return {
    n: request.n ?? 1,
    stream,
    includeUsage: options?.boolean("include_usage") ?? false,
    returnTokenIds: fields.boolean("return_token_ids") ?? false,
  };
}

/** The best of many outputs are known when all have ended; and streams tell nothing of prompts, as in vLLM. */
function checkStreamable({ n = 1, bestOf = n, promptLogprobs }: Outputs): void {
  if (bestOf > n) throw notStreamed("best_of");
  if (promptLogprobs !== undefined) throw notStreamed("prompt_logprobs");
}

function notStreamed(name: string): ApiError {
  return badRequest(`\`${name}\` cannot be streamed`, name, "invalid_value");
}
