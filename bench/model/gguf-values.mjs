// Numbers, texts and typed values as GGUF files hold them.

export function integer(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function long(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** Length and bytes. */
export function text(value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([long(bytes.length), bytes]);
}

// ---- values with their types

export function u32(value) {
  return Buffer.concat([integer(4), integer(value)]);
}

export function f32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([integer(6), bytes]);
}

export function string(value) {
  return Buffer.concat([integer(8), text(value)]);
}

export function array(type, items) {
  return Buffer.concat([integer(9), integer(type), long(items.length), ...items]);
}
