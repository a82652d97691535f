import { sendAnswer } from "./answer.js";
import type { AnswerShape } from "./answer-body.js";
import { readJsonBody } from "./body.js";
import { parseChatRequest } from "./chat-request.js";
import { chatLogprobs } from "./logprobs.js";
import type { Exchange } from "./options.js";

const shape: AnswerShape = {
  idPrefix: "chatcmpl-",
  input: "messages",
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  opening: { delta: { role: "assistant", content: "" } },
  promptLogprobsIn: "answer",
  whole: (text) => ({ message: { role: "assistant", content: text, refusal: null } }),
  piece: (text) => ({ delta: text === "" ? {} : { content: text } }),
  logprobs: chatLogprobs,
};

/** POST /v1/chat/completions */
export async function chatCompletions(exchange: Exchange): Promise<void> {
  const { context, req } = exchange;
  const body = await readJsonBody(req, context.limits.maxBodyBytes);
  const { request, ...options } = parseChatRequest(body, context.model);
  await sendAnswer(exchange, options, shape, (signal) => [
    context.engine.chat({ ...request, signal }),
  ]);
}
