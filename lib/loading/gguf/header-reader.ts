import type { FileHandle } from "node:fs/promises";
import type { PagodaError } from "../../errors.js";
import { corrupt, type CheckpointFile } from "../safetensors-header.js";
import { unsupportedInFile } from "./unsupported.js";

/** Bytes read at once: what is parsed between two reads takes less than a millisecond. */
const chunkBytes = 64 * 1024;
/** A vocabulary of 262,144 tokens with its merges takes about 20 MB. */
const maxHeaderBytes = 256 * 2 ** 20;

/**
 * A cursor over an untrusted file. Every byte is checked to be there before it is read; nothing is
 * allocated by a length of the file. Values are read from a chunk at a time: `need` makes bytes
 * available, the synchronous methods then take them. As each chunk is an asynchronous read, a long
 * header does not hold the event loop.
 */
export class HeaderReader {
  readonly file: CheckpointFile;
  readonly #handle: FileHandle;
  #chunk: Buffer = Buffer.alloc(0);
  /** Of the chunk's first byte in the file. */
  #chunkStart = 0;
  /** Into the chunk; beyond its end after a skip. */
  #at = 0;

  constructor(handle: FileHandle, file: CheckpointFile) {
    this.#handle = handle;
    this.file = file;
  }

  /** Bytes from the start of the file. */
  get position(): number {
    return this.#chunkStart + this.#at;
  }

  /** Bytes of the file that are not read. */
  get remaining(): number {
    return this.file.bytes - this.position;
  }

  /** Whether `bytes` can be taken without another read. */
  has(bytes: number): boolean {
    return this.#chunk.length - this.#at >= bytes;
  }

  /** Makes the next `bytes` available. @throws ERR_MODEL_CORRUPT when the file ends before */
  async need(bytes: number): Promise<void> {
    if (this.has(bytes)) return;
    this.check(bytes);
    const position = this.position;
    const chunk = Buffer.alloc(Math.min(Math.max(bytes, chunkBytes), this.remaining));
    let filled = 0;
    while (filled < bytes) {
      const { bytesRead } = await this.#handle.read(
        chunk,
        filled,
        chunk.length - filled,
        position + filled,
      );
      if (bytesRead === 0) throw this.endsEarly();
      filled += bytesRead;
    }
    this.#chunk = chunk.subarray(0, filled);
    this.#chunkStart = position;
    this.#at = 0;
  }

  /** @throws ERR_MODEL_CORRUPT unless the file has `bytes` more; ERR_MODEL_UNSUPPORTED above 256 MB */
  check(bytes: number): void {
    if (bytes > this.remaining) throw this.endsEarly();
    if (this.position + bytes > maxHeaderBytes) {
      throw this.unsupported(`a header of more than ${maxHeaderBytes} bytes`);
    }
  }

  /** Goes on behind the next `bytes`, which need not be available. */
  skip(bytes: number): void {
    this.check(bytes);
    this.#at += bytes;
  }

  endsEarly(): PagodaError {
    return this.corrupt("the file ends inside its header");
  }

  corrupt(reason: string): PagodaError {
    return corrupt(this.file.path, reason);
  }

  unsupported(feature: string, supported?: readonly string[]): PagodaError {
    return unsupportedInFile(this.file.path, feature, supported);
  }

  // ---- take what `need` has made available

  bytes(length: number): Buffer {
    return this.#chunk.subarray(this.#at, (this.#at += length));
  }

  u8(): number {
    return this.#chunk.readUInt8(this.#at++);
  }

  u32(): number {
    const value = this.#chunk.readUInt32LE(this.#at);
    this.#at += 4;
    return value;
  }

  /** @throws ERR_MODEL_CORRUPT for 2^53 and above */
  u64(): number {
    const low = this.u32();
    const value = this.u32() * 2 ** 32 + low;
    if (Number.isSafeInteger(value)) return value;
    throw this.corrupt(`the number at byte ${this.position - 8} is not below 2^53`);
  }
}
