import type { ChatRequest } from "../engine/types.js";
import { maxLogprobs } from "../sampling/sampling-params.js";
import type { ChatMessage } from "../loading/chat.js";
import { badRequest } from "./api-error.js";
import { defined } from "./defined.js";
import { Fields, invalidType, invalidValue } from "./fields.js";
import { generationFields, readGeneration } from "./generation-fields.js";
import { answerFields, openRequest, readAnswerOptions, type AnswerOptions } from "./request.js";
import { readMaxTokens } from "./sampling-fields.js";
import { commonIgnored, commonUnsupported, type FieldSupport } from "./support.js";

const support: FieldSupport = {
  supported: [
    ...answerFields,
    ...generationFields,
    "messages",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
  ],
  ignored: [...commonIgnored, "parallel_tool_calls"],
  unsupported: {
    ...commonUnsupported,
    tools: ["[]"],
    tool_choice: ['"none"', '"auto"'],
    functions: ["[]"],
    function_call: ['"none"', '"auto"'],
    modalities: ['["text"]'],
    audio: [],
    prediction: [],
    reasoning_effort: [],
    verbosity: [],
    web_search_options: [],
    moderation: [],
    echo: ["false"],
    add_generation_prompt: ["true"],
    continue_final_message: ["false"],
    add_special_tokens: ["false"],
    chat_template: [],
    chat_template_kwargs: ["{}"],
  },
};

export interface ChatCompletionRequest extends AnswerOptions {
  readonly request: ChatRequest;
}

/** Reads the body of POST /v1/chat/completions. */
export function parseChatRequest(body: unknown, model: string): ChatCompletionRequest {
  const fields = openRequest(body, support, model);
  const request = {
    messages: readMessages(fields),
    ...readGeneration(fields),
    ...defined({ maxTokens: maxTokens(fields), logprobs: numLogprobs(fields) }),
  };
  return { ...readAnswerOptions(fields, request), request };
}

/** `logprobs` says whether, `top_logprobs` how many alternatives there are. */
function numLogprobs(fields: Fields): number | undefined {
  const isWanted = fields.boolean("logprobs") ?? false;
  const count = fields.integer("top_logprobs", { min: 0, max: maxLogprobs });
  if (count !== undefined && count > 0 && !isWanted) {
    throw badRequest("`top_logprobs` needs `logprobs: true`", "top_logprobs", "invalid_value");
  }
  return isWanted ? (count ?? 0) : undefined;
}

/** `max_completion_tokens` is the newer name of `max_tokens`. */
function maxTokens(fields: Fields): number | undefined {
  const older = readMaxTokens(fields, "max_tokens");
  const newer = readMaxTokens(fields, "max_completion_tokens");
  if (older !== undefined && newer !== undefined && older !== newer) {
    const message = "`max_tokens` and `max_completion_tokens` differ; give one of them";
    throw badRequest(message, "max_tokens", "invalid_value");
  }
  return newer ?? older;
}

function readMessages(fields: Fields): readonly ChatMessage[] {
  const messages = fields.array("messages");
  if (messages === undefined) throw fields.missing("messages");
  if (messages.length === 0) throw invalidValue("messages", "at least one message", messages);
  for (const [i, message] of messages.entries()) checkMessage(message, `messages[${i}]`);
  return messages as readonly ChatMessage[];
}

const roles = ["system", "developer", "user", "assistant", "tool"];

/** Checks the fields that templates rely on; further ones reach the template as they are. */
function checkMessage(value: unknown, path: string): void {
  const message = new Fields(value, path);
  const role = message.string("role");
  if (role === undefined) throw message.missing("role");
  if (!roles.includes(role)) {
    throw invalidValue(message.path("role"), `one of ${roles.join(", ")}`, role);
  }
  message.string("name");
  message.string("tool_call_id");
  const calls = message.array("tool_calls");
  for (const [i, call] of (calls ?? []).entries()) {
    checkToolCall(call, message.path(`tool_calls[${i}]`));
  }
  const hasContent = checkContent(message.raw("content"), message.path("content"));
  if (!hasContent && calls === undefined) throw message.missing("content");
}

function checkContent(content: unknown, path: string): boolean {
  if (content === undefined) return false;
  if (typeof content === "string") return true;
  if (!Array.isArray(content)) throw invalidType(path, "a string or an array of parts", content);
  if (content.length === 0) throw invalidValue(path, "at least one part", content);
  for (const [i, part] of content.entries()) checkPart(part, `${path}[${i}]`);
  return true;
}

function checkPart(value: unknown, path: string): void {
  const part = new Fields(value, path);
  const type = part.string("type");
  if (type === undefined) throw part.missing("type");
  if (type !== "text") {
    const shown = JSON.stringify(type.slice(0, 40));
    const message = `Content of type ${shown} in \`${part.path("type")}\` is not supported yet`;
    throw badRequest(message, part.path("type"), "unsupported_value");
  }
  if (part.string("text") === undefined) throw part.missing("text");
}

function checkToolCall(value: unknown, path: string): void {
  const call = new Fields(value, path);
  call.string("id");
  const called = call.object("function");
  if (called === undefined) throw call.missing("function");
  if (called.string("name") === undefined) throw called.missing("name");
  if (called.string("arguments") === undefined) throw called.missing("arguments");
}
