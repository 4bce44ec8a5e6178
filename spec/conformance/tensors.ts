// Tensors of the reference (float64) as tensors of the runtime (typed arrays), and back. Exact: the values of
// generated inputs are elements of their dtype.

import type { RefTensor } from "../../ops/define.ts";
import { decodeElements, encodeElements } from "../../ops/reference/elements.ts";
import type { Tensor } from "../../runtime/tensor.ts";

export { bf16Bits, bf16Value, decodeElements, encodeElements, f16Bits, f16Value } from "../../ops/reference/elements.ts";

export function toRuntime(t: RefTensor): Tensor {
  return { dtype: t.dtype, shape: t.shape, data: encodeElements(t.dtype, t.data) } as Tensor;
}

export function fromRuntime(t: Tensor): RefTensor {
  return { dtype: t.dtype, shape: t.shape, data: decodeElements(t.dtype, t.data) };
}
