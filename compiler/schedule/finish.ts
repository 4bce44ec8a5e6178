// What every builder ends with: the Imp function of a kernel around its statements. Apart from lower.ts, which
// calls the builders, so that imports make no circle.

import { dimSymbols, type Dim } from "../ir/dim.ts";
import type { ImpBuffer, ImpFunction, ImpStmt } from "../ir/imp/types.ts";
import type { Kernel } from "../ir/kernel/types.ts";
import type { Emitter } from "./emit.ts";

/** The name of the variable that holds the number of the unit. */
export const unitName = "unit";

function impBuffers(kernel: Kernel): readonly ImpBuffer[] {
  return kernel.buffers.map((b) => ({ name: b.name, dtype: b.dtype, access: b.access === "update" ? "readwrite" : b.access }));
}

/** The name of the variable that holds the number of the invocation within its workgroup. */
export const laneName = "lane";

export function finish(
  kernel: Kernel,
  emitter: Emitter,
  units: Dim,
  body: readonly ImpStmt[],
  scratch: ImpFunction["scratch"] = [],
  { lanes, subgroup }: Pick<ImpFunction, "lanes" | "subgroup"> = { lanes: 1 },
): ImpFunction {
  for (const name of dimSymbols(units)) emitter.dims.add(name);
  for (const s of scratch) for (const name of dimSymbols(s.size)) emitter.dims.add(name);
  return {
    name: kernel.name,
    buffers: impBuffers(kernel),
    dims: [...emitter.dims].sort(),
    scratch,
    units,
    unit: unitName,
    lanes,
    ...(lanes === 1 ? {} : { lane: laneName }),
    ...(subgroup === undefined ? {} : { subgroup }),
    body,
    sources: kernel.sources,
  };
}
