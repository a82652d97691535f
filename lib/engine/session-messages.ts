import { checkObject } from "../arguments.js";
import { argumentError } from "../errors.js";
import type { ChatMessage } from "../loading/chat.js";

/**
 * Copies of a message, or of several; a text is one of the user.
 *
 * @throws ERR_ARGUMENT
 */
export function copyMessages(parameter: string, value: unknown): ChatMessage[] {
  if (typeof value === "string") return [{ role: "user", content: value }];
  const messages: unknown[] = Array.isArray(value) ? value : [value];
  if (messages.length === 0) throw argumentError(parameter, "at least one message", value);
  return messages.map((message, index) => {
    const name = Array.isArray(value) ? `${parameter}[${index}]` : parameter;
    checkObject(name, message);
    return copy(name, message as ChatMessage);
  });
}

function copy(parameter: string, message: ChatMessage): ChatMessage {
  try {
    return structuredClone(message);
  } catch {
    throw argumentError(parameter, "plain data", message);
  }
}
