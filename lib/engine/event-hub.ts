import { channel, type Channel } from "node:diagnostics_channel";
import { checkObject, checkSignal } from "../arguments.js";
import { argumentError, describe } from "../errors.js";
import { onAbort } from "./abort.js";
import type { EngineEventListener, EngineEvents } from "./events.js";

type EventName = keyof EngineEvents;

interface Registration {
  readonly listener: (event: never) => unknown;
  /** Takes the listener off its signal. */
  stopListening: () => void;
  hasFailed: boolean;
}

const channels: Readonly<Record<EventName, Channel>> = {
  "request:queued": channel("pagoda:request:queued"),
  "request:start": channel("pagoda:request:start"),
  "request:preempted": channel("pagoda:request:preempted"),
  "request:finish": channel("pagoda:request:finish"),
  step: channel("pagoda:step"),
  cache: channel("pagoda:cache"),
};

/**
 * Brings an engine's events to its listeners and to the process's diagnostics channels.
 *
 * What a listener throws, or rejects with, never reaches the engine: the first failure of each listener is a process
 * warning with the code PAGODA_LISTENER, and the listener goes on being called.
 */
export class EventHub {
  /** Lists are replaced, never changed, so that listeners may come and go while an event is told. */
  readonly #registrations: Map<EventName, readonly Registration[]> = new Map();

  /** As {@link Engine.on}. */
  on<K extends EventName>(
    event: K,
    listener: EngineEventListener<K>,
    options: { readonly signal?: AbortSignal } = {},
  ): () => void {
    if (!Object.hasOwn(channels, event)) {
      throw argumentError("event", `one of ${Object.keys(channels).join(", ")}`, event);
    }
    if (typeof listener !== "function") throw argumentError("listener", "a function", listener);
    checkObject("options", options);
    const signal = checkSignal("signal", options.signal);
    if (signal?.aborted) return () => {};
    const registration: Registration = { listener, stopListening: () => {}, hasFailed: false };
    const remove = (): void => this.#remove(event, registration);
    registration.stopListening = onAbort(signal, remove);
    this.#registrations.set(event, [...(this.#registrations.get(event) ?? []), registration]);
    return remove;
  }

  isObserved(name: EventName): boolean {
    return this.#registrations.has(name) || channels[name].hasSubscribers;
  }

  /** Tells an event; `record` is called only if somebody listens. */
  emit<K extends EventName>(name: K, record: () => EngineEvents[K]): void {
    if (!this.isObserved(name)) return;
    const registrations = this.#registrations.get(name) ?? [];
    const event = record();
    channels[name].publish(event);
    for (const registration of registrations) call(registration, event, name);
  }

  /** Takes all listeners off, also from their signals. */
  close(): void {
    for (const registrations of this.#registrations.values()) {
      for (const { stopListening } of registrations) stopListening();
    }
    this.#registrations.clear();
  }

  #remove(event: EventName, registration: Registration): void {
    registration.stopListening();
    const left = this.#registrations.get(event)?.filter((other) => other !== registration) ?? [];
    if (left.length > 0) this.#registrations.set(event, left);
    else this.#registrations.delete(event);
  }
}

function call(registration: Registration, event: object, name: EventName): void {
  const fail = (error: unknown): void => warn(registration, error, name);
  try {
    const result = registration.listener(event as never);
    if (result instanceof Promise) result.catch(fail);
  } catch (error) {
    fail(error);
  }
}

function warn(registration: Registration, error: unknown, name: EventName): void {
  if (registration.hasFailed) return;
  registration.hasFailed = true;
  const isError = error instanceof Error;
  process.emitWarning(
    `A listener of "${name}" failed: ${isError ? error.message : describe(error)}`,
    {
      type: "PagodaWarning",
      code: "PAGODA_LISTENER",
      ...(isError && error.stack !== undefined && { detail: error.stack }),
    },
  );
}
