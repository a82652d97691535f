import { sendAnswer } from "./answer.js";
import type { AnswerShape } from "./answer-body.js";
import { readJsonBody } from "./body.js";
import { parseCompletionRequest } from "./completion-request.js";
import { completionLogprobs } from "./logprobs.js";
import type { Exchange } from "./options.js";

const shape: AnswerShape = {
  idPrefix: "cmpl-",
  input: "prompt",
  object: "text_completion",
  chunkObject: "text_completion",
  promptLogprobsIn: "choice",
  whole: (text) => ({ text }),
  piece: (text) => ({ text }),
  logprobs: completionLogprobs,
};

/** POST /v1/completions */
export async function completions(exchange: Exchange): Promise<void> {
  const { context, req } = exchange;
  const body = await readJsonBody(req, context.limits.maxBodyBytes);
  const { prompts, request, ...options } = parseCompletionRequest(body, context.model);
  await sendAnswer(exchange, options, shape, (signal) =>
    prompts.map((prompt) => context.engine.generate({ ...request, prompt, signal })),
  );
}
