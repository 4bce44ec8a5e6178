// Prepares kernel modules for this engine: chooses the relaxed or the plain variant, and says in the
// memory import whether the memory is shared, which depends on where the code runs and not on how it
// was compiled. Does not look at the kernels' code.

import { ArtefactError, DeviceError } from "../../errors.ts";

const importSection = 2;
/** Kinds of imports in the binary format. */
const kind = { function: 0, table: 1, memory: 2, global: 3 } as const;
const hasMaximum = 1;
const isShared = 2;

/**
 * A copy of `module` whose memory import is shared or not. Nothing else changes: without atomic instructions
 * the same code is valid for both. Throws ArtefactError when the bytes are no module or import no memory.
 */
export function withSharedMemory(module: Uint8Array, shared: boolean): Uint8Array {
  const bytes = new Uint8Array(module);
  let at = 8;
  const byte = (): number => {
    const value = bytes[at++];
    if (value === undefined) throw new ArtefactError("the kernels' module ends in the middle of a section");
    return value;
  };
  const leb = (): number => {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const part = byte();
      value += (part & 127) * 2 ** shift;
      if (part < 128) return value;
    }
    throw new ArtefactError("the kernels' module has a number that is too long");
  };
  const limits = (): void => {
    const flags = byte();
    leb();
    if ((flags & hasMaximum) !== 0) leb();
  };
  if (bytes.length < 8 || String.fromCharCode(...bytes.subarray(0, 4)) !== "\0asm") {
    throw new ArtefactError("the kernels are not a WebAssembly module");
  }
  while (at < bytes.length) {
    const id = byte();
    const size = leb();
    const end = at + size;
    if (id !== importSection) {
      at = end;
      continue;
    }
    for (let count = leb(); count > 0; count--) {
      for (let text = 0; text < 2; text++) {
        const length = leb();
        at += length;
      }
      switch (byte()) {
        case kind.function:
          leb();
          break;
        case kind.table:
          byte();
          limits();
          break;
        case kind.global:
          at += 2;
          break;
        case kind.memory: {
          const flags = bytes[at] ?? 0;
          if (shared && (flags & hasMaximum) === 0)
            throw new ArtefactError("the kernels import a memory without a maximum; it cannot be shared");
          bytes[at] = shared ? flags | isShared : flags & ~isShared;
          return bytes;
        }
        default:
          throw new ArtefactError("the kernels' module has an import of an unknown kind");
      }
    }
    break;
  }
  throw new ArtefactError("the kernels' module imports no memory");
}

/** "auto" takes relaxed SIMD where the engine has it. */
export type SimdChoice = "auto" | "plain" | "relaxed";

/** The bytes this engine should compile. Throws DeviceError when it can run neither variant. */
export function chooseVariant(
  code: { readonly plain: Uint8Array; readonly relaxed?: Uint8Array },
  simd: SimdChoice,
  shared: boolean,
): Uint8Array {
  if (simd !== "plain" && code.relaxed !== undefined) {
    const relaxed = withSharedMemory(code.relaxed, shared);
    if (WebAssembly.validate(relaxed)) return relaxed;
  }
  if (simd === "relaxed") throw new DeviceError("relaxed SIMD was asked for, and this engine cannot run these kernels with it");
  const plain = withSharedMemory(code.plain, shared);
  if (!WebAssembly.validate(plain)) {
    throw new DeviceError(
      "this engine cannot run the kernels: they are damaged, or it lacks WebAssembly SIMD (Node 16, Chrome 91, Firefox 89, Safari 16.4 have it)",
    );
  }
  return plain;
}
