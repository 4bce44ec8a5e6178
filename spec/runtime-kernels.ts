// Small kernels written by hand, byte by byte, so that the runtime is tested without the compiler. They
// keep the interface of compiled ones: (args, begin, end, scratch), args pointing at buffer addresses and sizes.

const i32 = 0x7f;
// prettier-ignore
const op = {
  unreachable: 0x00, block: 0x02, loop: 0x03, if: 0x04, end: 0x0b, br: 0x0c, brIf: 0x0d, get: 0x20, set: 0x21,
  load: 0x28, loadF32: 0x2a, store: 0x36, storeF32: 0x38, constant: 0x41, constantF32: 0x43,
  eq: 0x46, lt: 0x48, ge: 0x4e, add: 0x6a, mul: 0x6c, addF32: 0x92, mulF32: 0x94,
} as const;
const none = 0x40;

function leb(value: number): number[] {
  const out: number[] = [];
  for (let v = value; ;) {
    const byte = v & 127;
    v >>= 7;
    if ((v === 0 && (byte & 64) === 0) || (v === -1 && (byte & 64) !== 0)) return [...out, byte];
    out.push(byte | 128);
  }
}

function unsigned(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)];
}

function section(id: number, items: readonly (readonly number[])[]): number[] {
  const body = [...unsigned(items.length), ...items.flat()];
  return [id, ...unsigned(body.length), ...body];
}

function text(name: string): number[] {
  return [name.length, ...new TextEncoder().encode(name)];
}

const get = (local: number): number[] => [op.get, local];
const constant = (value: number): number[] => [op.constant, ...leb(value)];
/** The i32 argument number `n`. */
const argument = (n: number): number[] => [...get(0), op.load, 2, ...unsigned(4 * n)];
/** The address of element (unit number) of the 4-byte buffer that argument `n` points at. */
const element = (n: number): number[] => [...argument(n), ...get(1), ...constant(4), op.mul, op.add];
/** `body` for each unit; local 1 counts. */
// prettier-ignore
const eachUnit = (body: readonly number[]): number[] => [
  op.block, none, op.loop, none, ...get(1), ...get(2), op.ge, op.brIf, 1,
  ...body,
  ...get(1), ...constant(1), op.add, op.set, 1, op.br, 0, op.end, op.end,
];

const f32 = (value: number): number[] => [op.constantF32, ...new Uint8Array(new Float32Array([value]).buffer)];

// prettier-ignore
const bodies: Readonly<Record<string, readonly number[]>> = {
  /** (x, y): y[u] = 2·x[u] + 1, f32. */
  affine: eachUnit([...element(1), ...element(0), op.loadF32, 2, 0, ...f32(2), op.mulF32, ...f32(1), op.addF32, op.storeF32, 2, 0]),
  /** (y; n): counts to n in the thread's own scratch, then y[u] = that count, i32: wrong when two threads share scratch. */
  count: eachUnit([
    ...get(3), ...constant(0), op.store, 2, 0,
    op.block, none, op.loop, none, ...get(3), op.load, 2, 0, ...argument(1), op.ge, op.brIf, 1,
    ...get(3), ...get(3), op.load, 2, 0, ...constant(1), op.add, op.store, 2, 0, op.br, 0, op.end, op.end,
    ...element(0), ...get(3), op.load, 2, 0, op.store, 2, 0,
  ]),
  /** (y; bad, n): y[u] = 1 after counting to n; unit `bad` traps. */
  trap: eachUnit([
    ...get(3), ...constant(0), op.store, 2, 0,
    op.block, none, op.loop, none, ...get(3), op.load, 2, 0, ...argument(2), op.ge, op.brIf, 1,
    ...get(3), ...get(3), op.load, 2, 0, ...constant(1), op.add, op.store, 2, 0, op.br, 0, op.end, op.end,
    ...get(1), ...argument(1), op.eq, op.if, none, op.unreachable, op.end,
    ...element(0), ...constant(1), op.store, 2, 0,
  ]),
};

/** A module with the kernels affine, count and trap; its memory import is declared shared, as compiled ones are. */
export function handKernels(): Uint8Array {
  const names = Object.keys(bodies);
  // prettier-ignore
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [[0x60, 4, i32, i32, i32, i32, 0]]),
    ...section(2, [[...text("env"), ...text("memory"), 2, 3, 1, ...unsigned(65536)]]),
    ...section(3, names.map(() => [0])),
    ...section(7, names.map((name, i) => [...text(name), 0, i])),
    ...section(10, names.map((name) => {
      const code = [0, ...(bodies[name] ?? []), op.end];
      return [...unsigned(code.length), ...code];
    })),
  ]);
}
