import { setMaxListeners } from "node:events";
import type { Delta, Generation, GenerateResult } from "../engine/types.js";
import { AnswerBody, type AnswerShape } from "./answer-body.js";
import { toApiError } from "./api-error.js";
import { EventStream } from "./event-stream.js";
import { isGone, type Exchange } from "./options.js";
import type { AnswerOptions } from "./request.js";
import { jsonHeaders, sendText } from "./send.js";

/** A stream's head is sent with its first token, or after this time when the queue or the prompt is long. */
const headDelayMs = 2000;

/** Starts the generations of a request, one a prompt; all of them end when the signal fires. */
export type Start = (signal: AbortSignal) => readonly Generation[];

/**
 * Runs a request and sends its answer. When the client goes, or any of the generations fails, all of them are cancelled.
 * Rejects only with what can still be answered with a status of its own.
 */
export async function sendAnswer(
  exchange: Exchange,
  options: AnswerOptions,
  shape: AnswerShape,
  start: Start,
): Promise<void> {
  const { context, req, res } = exchange;
  const controller = new AbortController();
  setMaxListeners(0, controller.signal); // one listener a prompt
  const abort = (): void => controller.abort();
  req.socket.on("close", abort);
  const body = new AnswerBody(shape, context.model, context.engine.tokenizer, options);
  try {
    if (isGone(exchange)) return;
    const generations = start(controller.signal);
    if (options.stream) await sendStream(exchange, options, body, generations);
    else {
      const text = await body.whole(await Promise.all(generations));
      sendText(res, 200, text, jsonHeaders, context.limits.stallTimeoutMs);
    }
  } catch (error) {
    throw toApiError(error, shape.input);
  } finally {
    req.socket.off("close", abort);
    abort();
  }
}

async function sendStream(
  exchange: Exchange,
  options: AnswerOptions,
  body: AnswerBody,
  generations: readonly Generation[],
): Promise<void> {
  const events = new EventStream(exchange.res, exchange.context.limits);
  const timer = setTimeout(() => openChoice(events, body, 0), headDelayMs);
  try {
    const pumps = generations.map((generation, prompt) => pump(events, body, generation, prompt));
    const results = await Promise.all(pumps);
    if (options.includeUsage) events.send(body.usage(results));
    events.send("[DONE]");
  } catch (error) {
    if (!events.isOpen) throw error;
    failStream(exchange, events, error);
  } finally {
    clearTimeout(timer);
  }
  events.end();
}

/** Sends the head and a choice's opening chunk, if there is one; each of them once. */
function openChoice(events: EventStream, body: AnswerBody, index: number): void {
  events.open();
  const chunk = body.opening(index);
  if (chunk !== undefined) events.send(chunk);
}

/** Turns the outputs of a prompt into events. It never waits for the client: the stream holds what the client does not take. */
async function pump(
  events: EventStream,
  body: AnswerBody,
  generation: Generation,
  prompt: number,
): Promise<GenerateResult> {
  const ended: Delta[] = [];
  for await (const delta of generation) {
    openChoice(events, body, body.choiceIndex(prompt, delta.index));
    if (delta.finishReason !== undefined && body.endsWithPrompt) {
      ended.push(delta);
      continue;
    }
    const chunk = await body.piece(prompt, delta);
    if (chunk !== undefined) events.send(chunk);
  }
  const result = await generation;
  for (const delta of ended) events.send(await body.lastPiece(prompt, delta, result));
  return result;
}

/** An error after the head can only be told as an event; the missing [DONE] shows that the answer is not whole. */
function failStream(exchange: Exchange, events: EventStream, error: unknown): void {
  if (isGone(exchange)) return;
  const answer = toApiError(error);
  if (answer.status >= 500) exchange.context.report(error);
  events.send(answer.body());
}
