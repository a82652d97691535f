import { checkObject, checkSignal } from "../arguments.js";
import { argumentError } from "../errors.js";
import type { ChatMessage } from "../loading/chat.js";
import { packageVersion } from "../version.js";
import type { Executor } from "./executor.js";
import { checkCacheSalt, checkVocabulary } from "./request.js";
import type { SessionBlocks } from "./session-blocks.js";
import { openSessionFile, writeSessionFile, type SessionFile } from "./session-file.js";
import { fitsExecutor, type SessionHeader } from "./session-format.js";
import { copyMessages } from "./session-messages.js";
import { LiveSession, type SessionHost, type SessionState } from "./session.js";
import type { Session, SessionOptions } from "./session-types.js";

/** What files of sessions have to do with the engine. */
export interface SessionStore {
  readonly blocks: SessionBlocks;
  readonly executor: Executor;
  /** Of the model, see `modelFingerprint`. */
  readonly fingerprint: string;
}

/** @throws ERR_ARGUMENT */
export function beginSession(host: SessionHost, options: SessionOptions): Session {
  checkObject("options", options);
  const { system, messages, cacheSalt } = options;
  const all = [...checkSystem(system), ...checkMessages(messages)];
  return new LiveSession(host, {
    kind: all.length > 0 ? "chat" : undefined,
    messages: all,
    tokenIds: new Int32Array(0),
    turns: [],
    cacheSalt: checkCacheSalt(cacheSalt),
  });
}

/** @throws see {@link Session.save} */
export async function saveSession(
  { blocks, executor, fingerprint }: SessionStore,
  path: string,
  { kind, messages, tokenIds, cacheSalt }: SessionState,
  signal: AbortSignal | undefined,
): Promise<void> {
  await blocks.read(tokenIds, cacheSalt, async ({ numTokens, numBlocks, bytes }) => {
    const { kvLayout, kvBlockBytes, limits } = executor;
    const header: SessionHeader = {
      fingerprint,
      kvLayout,
      kvBlockBytes,
      blockSize: limits.blockSize,
      numBlocks,
      numCachedTokens: numTokens,
      tokenIds,
      messages: kind === "text" ? null : messages,
      ...(cacheSalt !== undefined && { cacheSalt }),
      createdBy: `pagoda-llm ${packageVersion()}`,
    };
    await writeSessionFile(path, header, bytes, { ...(signal && { signal }) });
  });
}

/** @throws see `Engine.restoreSession` */
export async function restoreSession(
  host: SessionHost,
  store: SessionStore,
  path: string,
  options: { readonly signal?: AbortSignal },
): Promise<Session> {
  checkObject("options", options);
  const signal = checkSignal("signal", options.signal);
  const aborting = signal === undefined ? {} : { signal };
  const file = await openSessionFile(path, { fingerprint: store.fingerprint, ...aborting });
  try {
    const { tokenIds } = file.header;
    checkVocabulary(tokenIds, store.executor.limits.vocabSize);
    await restoreBlocks(store, file, aborting);
    host.checkUsable();
    return new LiveSession(host, stateOf(file.header));
  } finally {
    await file.close();
  }
}

/** Blocks of another layout, or for which there is no room, are computed again when they are needed. */
async function restoreBlocks(
  { blocks, executor }: SessionStore,
  { header, readKv }: SessionFile,
  aborting: { signal?: AbortSignal },
): Promise<void> {
  if (!fitsExecutor(header, executor)) return;
  const { tokenIds, cacheSalt, numBlocks, numCachedTokens: numTokens } = header;
  if (numTokens % header.blockSize !== 0) return;
  await blocks.write(tokenIds, cacheSalt, { numTokens, numBlocks, bytes: readKv(aborting) });
}

function stateOf({ messages, tokenIds, cacheSalt }: SessionHeader): SessionState {
  const all = (messages ?? []) as readonly ChatMessage[];
  const isBegun = messages === null || all.length > 0;
  return {
    kind: isBegun ? (messages === null ? "text" : "chat") : undefined,
    messages: all,
    tokenIds,
    turns: [{ numMessages: all.length, numTokens: tokenIds.length }],
    cacheSalt,
  };
}

function checkSystem(system: unknown): ChatMessage[] {
  if (system === undefined) return [];
  if (typeof system === "string") return [{ role: "system", content: system }];
  throw argumentError("system", "a string", system);
}

function checkMessages(messages: unknown): ChatMessage[] {
  if (messages === undefined) return [];
  if (Array.isArray(messages))
    return messages.length === 0 ? [] : copyMessages("messages", messages);
  throw argumentError("messages", "an array of messages", messages);
}
