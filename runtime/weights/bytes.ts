// Where the bytes of a file are: on disk, in memory, or in a browser's File. Reading is by range, so
// that a checkpoint of many gigabytes is never in memory as a whole. Does not know any format.

import { importNode } from "../platform.ts";

/** A file of known size that can be read in pieces. */
export interface ByteSource extends AsyncDisposable {
  /** For error messages. */
  readonly name: string;
  readonly size: number;
  /** Fills `target` with the bytes from `offset`. Throws when they are not there. */
  read(offset: number, target: Uint8Array): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** `source` may be a path (Node), bytes, or a Blob. Throws the system's error when a path cannot be opened. */
export async function openBytes(source: string | Uint8Array | Blob, name?: string): Promise<ByteSource> {
  if (typeof source === "string") return openFile(source);
  return source instanceof Uint8Array ? fromMemory(source, name ?? "bytes in memory") : fromBlob(source, name ?? "blob");
}

/** Opens, uses and closes. (Written out because the oldest engines we support do not know `await using`.) */
export async function withBytes<T>(from: string | Uint8Array | Blob, use: (source: ByteSource) => Promise<T>, name?: string): Promise<T> {
  const source = await openBytes(from, name);
  try {
    return await use(source);
  } finally {
    await source[Symbol.asyncDispose]();
  }
}

/** Everything in it. Check `size` first. */
export async function readAll(source: ByteSource): Promise<Uint8Array> {
  const bytes = new Uint8Array(source.size);
  await source.read(0, bytes);
  return bytes;
}

async function openFile(path: string): Promise<ByteSource> {
  const { open } = await importNode<typeof import("node:fs/promises")>("fs/promises");
  const handle = await open(path, "r");
  try {
    const stat = await handle.stat();
    if (!stat.isFile()) throw new Error(`${path} is not a file`);
    return {
      name: path,
      size: stat.size,
      async read(offset, target) {
        let done = 0;
        while (done < target.byteLength) {
          const { bytesRead } = await handle.read(target, done, target.byteLength - done, offset + done);
          if (bytesRead === 0) throw new Error(`${path} ended at byte ${offset + done}; it was longer when it was opened`);
          done += bytesRead;
        }
      },
      [Symbol.asyncDispose]: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

function fromMemory(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    async read(offset, target) {
      if (offset + target.byteLength > bytes.byteLength) throw new Error(`${name} has no bytes ${offset}…${offset + target.byteLength}`);
      target.set(bytes.subarray(offset, offset + target.byteLength));
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}

function fromBlob(blob: Blob, name: string): ByteSource {
  return {
    name,
    size: blob.size,
    async read(offset, target) {
      const part = await blob.slice(offset, offset + target.byteLength).arrayBuffer();
      if (part.byteLength !== target.byteLength) throw new Error(`${name} has no bytes ${offset}…${offset + target.byteLength}`);
      target.set(new Uint8Array(part));
    },
    [Symbol.asyncDispose]: async () => undefined,
  };
}
