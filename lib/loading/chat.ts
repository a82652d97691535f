import { argumentError } from "../errors.js";

/** One part of a message whose content is a list, as in OpenAI's chat API. */
export interface ChatContentPart {
  readonly type: string;
  readonly text?: string;
  readonly [field: string]: unknown;
}

/** A call that the assistant made. `arguments` is JSON text (OpenAI) or already an object. */
export interface ChatToolCall {
  readonly id?: string;
  readonly type?: "function";
  readonly function: { readonly name: string; readonly arguments: unknown };
}

/** One message of a conversation, in OpenAI's shape; further fields reach the template untouched. */
export interface ChatMessage {
  /** Usually `system`, `user`, `assistant` or `tool`; the template decides what it accepts. */
  readonly role: string;
  readonly content?: string | null | readonly ChatContentPart[];
  readonly name?: string;
  readonly tool_calls?: readonly ChatToolCall[];
  readonly tool_call_id?: string;
  readonly [field: string]: unknown;
}

export interface ChatTemplateOptions {
  /** Ends the text where the assistant's answer begins. @default false */
  readonly addGenerationPrompt?: boolean;
  /** Tool definitions in OpenAI's shape, as plain data; the template sees `none` when absent. */
  readonly tools?: unknown;
  /** Further variables of the template, e.g. `{ enable_thinking: false }`. */
  readonly kwargs?: Readonly<Record<string, unknown>>;
}

/** The chat templates of a tokenizer and the variables that its config gives them. */
export interface ChatTemplates {
  /** Jinja source by name; a tokenizer with one template calls it `default`. */
  readonly sources: Readonly<Record<string, string>>;
  /** Special tokens by their names in tokenizer_config.json, e.g. `bos_token`. */
  readonly variables: Readonly<Record<string, string | readonly string[]>>;
}

/** One rendering, as plain JSON data. */
export interface ChatRequest {
  readonly messages: unknown;
  readonly addGenerationPrompt: boolean;
  /** Null when there are none, as in Python. */
  readonly tools: unknown;
  readonly kwargs: Readonly<Record<string, unknown>>;
}

/** Names that belong to the renderer; no variable of a request may replace them. */
export const reservedVariables: ReadonlySet<string> = new Set([
  "messages",
  "tools",
  "add_generation_prompt",
  "raise_exception",
  "strftime_now",
  "range",
  "namespace",
  "true",
  "false",
  "none",
  "True",
  "False",
  "None",
]);

/**
 * The conversation as plain data for a template, checked and brought into the form that templates
 * are written for: `arguments` of tool calls as objects, and text parts joined by newlines unless
 * one of the templates loops over the parts itself.
 *
 * @throws ERR_ARGUMENT naming the part of `messages` that is not as it should be.
 */
export function templateMessages(
  messages: readonly ChatMessage[],
  templates: Iterable<string>,
): unknown[] {
  if (!Array.isArray(messages)) throw argumentError("messages", "a list of messages", messages);
  const keepParts = [...templates].some((source) => loopOverParts.test(source));
  return messages.map((message: unknown, index) => {
    const name = `messages[${index}]`;
    if (!isRecord(message)) throw argumentError(name, "an object", message);
    const { role, content, tool_calls: calls } = message;
    if (typeof role !== "string") throw argumentError(`${name}.role`, "a string", role);
    return {
      ...message,
      ...(Array.isArray(content) && !keepParts
        ? { content: joinParts(content, `${name}.content`) }
        : {}),
      ...(Array.isArray(calls) ? { tool_calls: calls.map(parseArguments) } : {}),
    };
  });
}

/** Such as `for part in message.content` or `for item in message['content']`. */
const loopOverParts = /\bfor\s+\w+\s+in\s+\w*(?:\.|\[\s*['"])?content\b/;

function joinParts(parts: readonly unknown[], name: string): string {
  const texts = parts.map((part, index) => {
    if (typeof part === "string") return part;
    if (isRecord(part) && part["type"] === "text" && typeof part["text"] === "string") {
      return part["text"];
    }
    throw argumentError(`${name}[${index}]`, 'a part with `type: "text"` and `text`', part);
  });
  return texts.join("\n");
}

/** JSON text of an object becomes that object; anything else stays as it is. */
function parseArguments(call: unknown): unknown {
  const called = isRecord(call) ? call["function"] : undefined;
  if (!isRecord(called) || typeof called["arguments"] !== "string") return call;
  try {
    const parsed: unknown = JSON.parse(called["arguments"]);
    if (!isRecord(parsed)) return call;
    return { ...(call as object), function: { ...called, arguments: parsed } };
  } catch {
    return call;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
