// Programs compiled for WebGPU without a GPU: a device that runs one variant of their functions in the emulator, lanes,
// barriers and subgroups included.

import type { WebGpuCompiled } from "../compiler/compile.ts";
import { bytesOf } from "../compiler/ir/dtype.ts";
import { compileImp } from "../compiler/ir/imp/eval.ts";
import type { RefTensor } from "../ops/define.ts";
import { Session, type SessionOptions } from "../runtime/session.ts";
import { arrays } from "../runtime/tensor.ts";
import { InterpreterDevice } from "./conformance/interpreter-device.ts";
import { fromRuntime, toRuntime } from "./conformance/tensors.ts";

export type Tensors = Readonly<Record<string, RefTensor>>;

/** A device that interprets one variant of the kernels. */
export function gpuEmulator({ plan, imp }: Pick<WebGpuCompiled, "plan" | "imp">, variant: number): InterpreterDevice {
  const known = new Map((imp.variants[variant] ?? []).map((fn) => [fn.name, { fn, run: compileImp(fn) }]));
  return new InterpreterDevice("webgpu emulator", new Set(plan.kernels.map((k) => k.name)), (kernel, bytes, dims, units) => {
    const found = known.get(kernel);
    if (found === undefined) throw new Error(`there is no function ${kernel}`);
    const { buffers, dims: names } = found.fn;
    const memory = buffers.map((b, i) => {
      const given = bytes[i] ?? new Uint8Array(0);
      return [b.name, new arrays[b.dtype](given.buffer, given.byteOffset, Math.floor(given.byteLength / bytesOf(b.dtype)))] as const;
    });
    found.run(Object.fromEntries(memory), Object.fromEntries(names.map((n, i) => [n, dims[i] ?? NaN])), { begin: 0, end: units });
  });
}

/** What the graph gives on the emulator. */
export async function emulated(
  compiled: WebGpuCompiled,
  variant: number,
  inputs: Tensors,
  options: Omit<SessionOptions, "device"> = {},
): Promise<Tensors> {
  const session = await Session.create(compiled, { ...options, device: gpuEmulator(compiled, variant) });
  const given = Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, toRuntime(t)]));
  const { outputs } = await session.run(given);
  return Object.fromEntries(Object.entries(outputs).map(([name, t]) => [name, fromRuntime(t)]));
}
