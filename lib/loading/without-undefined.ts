type Present<T> = { [K in keyof T]: Exclude<T[K], undefined> };

/** The fields that are there, so that the result spreads over defaults. */
export function withoutUndefined<T extends object>(fields: T): Present<T> {
  const present = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(present) as Present<T>;
}
