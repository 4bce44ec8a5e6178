// Symbolic sizes inside a kernel: as instructions, and the bytes of a kernel's scratch as a dim.

import { bytesOf } from "../../ir/dtype.ts";
import { dim, dimAdd, dimDiv, dimMul, type Atom, type Dim } from "../../ir/dim.ts";
import type { ImpFunction } from "../../ir/imp/types.ts";
import type { Code } from "./encoder.ts";
import { op } from "./opcodes.ts";

/** Bytes of private memory a thread needs: each block rounded up to 16. */
export function scratchBytes(fn: ImpFunction): Dim {
  return fn.scratch.reduce(
    (sum, s) => dimAdd(sum, dimMul(dim(16), dimDiv(dimAdd(dimMul(s.size, dim(bytesOf(s.dtype))), dim(15)), dim(16)))),
    dim(0),
  );
}

/** Leaves the size on the stack; `dims` has the local of each symbol. Division is of non-negative sizes. */
export function dimRender(d: Dim, dims: ReadonlyMap<string, number>, code: Code): void {
  code.i32(0);
  for (const m of d.monomials) {
    code.i32(m.coefficient);
    for (const atom of m.atoms) {
      atomRender(atom, dims, code);
      code.op(op.i32_mul);
    }
    code.op(op.i32_add);
  }
}

function atomRender(atom: Atom, dims: ReadonlyMap<string, number>, code: Code): void {
  if (atom.kind === "symbol") {
    const local = dims.get(atom.name);
    if (local === undefined) throw new Error(`no size ${atom.name}`);
    code.get(local);
    return;
  }
  dimRender(atom.a, dims, code);
  dimRender(atom.b, dims, code);
  if (atom.kind === "div") code.op(op.i32_div_s);
  else if (atom.kind === "mod") code.op(op.i32_rem_s);
  else {
    dimRender(atom.a, dims, code);
    dimRender(atom.b, dims, code);
    code.op(atom.kind === "min" ? op.i32_lt_s : op.i32_gt_s).op(op.select);
  }
}
