// A GGUF file's tensors as the rest of the runtime reads them: blocks become f32, LLaMA-family names become those of the
// public Hugging Face checkpoints, and the rows of queries and keys go back to where those have them.
//
// Note [Rows of queries and keys]
//   Rotary embedding turns pairs of numbers of a head of size D. Hugging Face's LLaMA pairs i with i + D/2 ("rotate
//   half"); llama.cpp runs the architecture "llama" with pairs (2i, 2i + 1), so its converter moves the rows of
//   attn_q and attn_k (weights and biases): within each head, row j·D/2 + i of Hugging Face (j = 0, 1; i < D/2) becomes
//   row 2i + j. We move it back: row h·D + j·D/2 + i of `q_proj` is row h·D + 2i + j of `attn_q`. D is the number of
//   rows divided by llama.attention.head_count (for keys, llama.attention.head_count_kv).
//   Only "llama" (LLaMA, Vicuna, Mistral, SmolLM2, …) is moved. qwen2 and qwen3 have Hugging Face's order in GGUF too.
//   The names of other architectures stay as the file has them, and so do their rows.

import { GgufError } from "../errors.ts";
import { elementCount } from "../tensor.ts";
import { storedWidth } from "./convert.ts";
import type { GgufFile, GgufTensor } from "./gguf.ts";
import type { GgmlType } from "./quants.ts";
import type { OpenCheckpoint, StoredTensor } from "./stored.ts";

/** Architectures whose names are known, and whether rows of queries and keys were moved. */
const architectures: Readonly<Record<string, { readonly moved: boolean }>> = {
  llama: { moved: true },
  qwen2: { moved: false },
  qwen3: { moved: false },
};

const outer: Readonly<Record<string, string>> = {
  token_embd: "model.embed_tokens",
  output_norm: "model.norm",
  output: "lm_head",
};

const inner: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

/** The public checkpoint's name of a LLaMA-family tensor; undefined for one that has none. */
export function huggingFaceName(name: string): string | undefined {
  const match = /^(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)$/.exec(name);
  if (match === null) return undefined;
  const [, layer, part = "", kind] = match;
  const table = layer === undefined ? outer : inner;
  if (!Object.hasOwn(table, part)) return undefined;
  return `${layer === undefined ? "" : `model.layers.${layer}.`}${table[part]}.${kind}`;
}

/** Bytes of blocks that are read at once. */
const piece = 1 << 20;

/** The file as a checkpoint. Throws GgufError for a "llama" file whose heads do not divide its rows. Closes with `file`. */
export function ggufCheckpoint(file: GgufFile): OpenCheckpoint {
  const { name } = file.source;
  const architecture = file.metadata.get("general.architecture");
  const known = typeof architecture === "string" && Object.hasOwn(architectures, architecture) ? architectures[architecture] : undefined;
  const tensors = new Map<string, StoredTensor>();
  for (const [own, tensor] of file.tensors) {
    const stored = storedIn(file, own, tensor);
    const public_ = known === undefined ? undefined : huggingFaceName(own);
    const heads = known?.moved === true ? headsOf(file, String(architecture), own) : undefined;
    const ordered = heads === undefined ? stored : movedBack(stored, heads, own, name);
    const as = public_ ?? own;
    if (tensors.has(as)) throw new GgufError(`${name} has two tensors for ${JSON.stringify(as)}`);
    tensors.set(as, public_ === undefined ? ordered : { ...ordered, nameInFile: own });
  }
  return { name, format: "gguf", tensors, metadata: file.metadata, close: () => file[Symbol.asyncDispose]() };
}

/** Heads of a tensor whose rows were moved; undefined for the others. */
function headsOf(file: GgufFile, architecture: string, tensor: string): number | undefined {
  const match = /^blk\.\d+\.attn_([qk])\.(?:weight|bias)$/.exec(tensor);
  if (match === null) return undefined;
  const key = `${architecture}.attention.head_count`;
  const heads = (match[1] === "k" ? file.metadata.get(`${key}_kv`) : undefined) ?? file.metadata.get(key);
  if (typeof heads === "number" && Number.isInteger(heads) && heads > 0) return heads;
  throw new GgufError(
    `${file.source.name} does not say in ${key} how many heads ${tensor} has, so its rows cannot be put in Hugging Face's order`,
  );
}

function storedIn({ source }: GgufFile, name: string, { type, shape, begin, end }: GgufTensor): StoredTensor {
  const about = { type: type.name, shape, bytes: end - begin };
  if (type.plain !== undefined) {
    return { ...about, dtype: type.plain, read: (at, target) => source.read(begin + at, target) };
  }
  const { decode, block, bytes: size } = type;
  if (decode === undefined) {
    const refuse = async (): Promise<void> => {
      throw new GgufError(`tensor ${name} of ${source.name} is ${type.name}, which cannot be read`);
    };
    return { ...about, dtype: "F32", read: refuse };
  }
  const blocks = { bytes: size, read: (first: number, target: Uint8Array) => source.read(begin + first * size, target) };
  return { ...about, dtype: "F32", blocks, read: blocksAsFloats({ block, bytes: size, decode }, blocks.read) };
}

/** Reads blocks as the f32 numbers they stand for, any of them. */
export function blocksAsFloats(
  { block, bytes: size, decode }: Pick<GgmlType, "block" | "bytes" | "decode">,
  readBlocks: (first: number, target: Uint8Array) => Promise<void>,
): StoredTensor["read"] {
  const atOnce = Math.floor(piece / size);
  return async (at, target) => {
    const out = new Float32Array(target.buffer, target.byteOffset, target.byteLength / 4);
    let done = 0;
    const raw = new Uint8Array(Math.min(atOnce, Math.ceil(out.length / block) + 1) * size);
    while (done < out.length) {
      const element = at / 4 + done;
      const first = Math.floor(element / block);
      const skip = element - first * block;
      const blocks = Math.min(raw.byteLength / size, Math.ceil((skip + out.length - done) / block));
      const bytes = raw.subarray(0, blocks * size);
      await readBlocks(first, bytes);
      const count = Math.min(blocks * block - skip, out.length - done);
      const whole = skip === 0 && count === blocks * block;
      const into = whole ? out.subarray(done, done + count) : new Float32Array(blocks * block);
      decode?.(bytes, into);
      if (!whole) out.set(into.subarray(skip, skip + count), done);
      done += count;
    }
  };
}

/** `stored` with the rows of each head as Note [Rows of queries and keys] says. */
function movedBack(stored: StoredTensor, heads: number, name: string, file: string): StoredTensor {
  const rows = stored.shape[0] ?? 0;
  const head = rows / heads;
  if (!Number.isInteger(head) || head % 2 !== 0) {
    throw new GgufError(`${file}: the ${rows} rows of ${name} are not ${heads} heads of an even size`);
  }
  const elements = elementCount(stored.shape);
  const bytesOfRow = (all: number): number => (rows === 0 ? 0 : all / rows);
  const read = rowsBack((at, target) => stored.read(at, target), bytesOfRow(elements * storedWidth(stored.dtype)), head);
  const { blocks } = stored;
  if (blocks === undefined) return { ...stored, read };
  // Rows are whole blocks: GGUF refuses others.
  const raw = rowsBack((at, target) => blocks.read(at / blocks.bytes, target), bytesOfRow(stored.bytes), head);
  return { ...stored, read, blocks: { ...blocks, read: (first, target) => raw(first * blocks.bytes, target) } };
}

type Read = (begin: number, target: Uint8Array) => Promise<void>;

/** Reads rows of `row` bytes by the numbers that they have once each head's are moved back. */
function rowsBack(read: Read, row: number, head: number): Read {
  const half = head / 2;
  const atOnce = Math.max(1, Math.floor(piece / Math.max(1, row)));
  return async (begin, target) => {
    let done = 0;
    // One for all of the call: garbage counts too, while it is there.
    let space: Uint8Array | undefined;
    while (done < target.byteLength) {
      const to = Math.floor((begin + done) / row);
      const skip = begin + done - to * row;
      const within = to % head;
      const j = within < half ? 0 : 1;
      const from = to - within + 2 * (within - j * half) + j;
      // Rows one after another here are every second one of the file, to the end of the half.
      const wanted = Math.ceil((skip + target.byteLength - done) / row);
      const count = Math.min(wanted, half - (within - j * half), atOnce);
      const part = target.subarray(done, Math.min(target.byteLength, done + count * row - skip));
      if (count === 1) {
        await read(from * row + skip, part);
      } else {
        space ??= new Uint8Array((2 * Math.min(atOnce, half) - 1) * row);
        const span = space.subarray(0, (2 * count - 1) * row);
        await read(from * row, span);
        for (let i = 0; i < count; i++) {
          const at = Math.max(0, i * row - skip);
          const cut = i === 0 ? skip : 0;
          part.set(span.subarray(2 * i * row + cut, 2 * i * row + cut + Math.min(row - cut, part.byteLength - at)), at);
        }
      }
      done += part.byteLength;
    }
  };
}
