// Plan IR: what a device does, in order, with every buffer's place. JSON-able: the artefact is this
// plus the kernels' bytes plus a manifest. The runtime imports these types and host-eval/bind only.

import type { DType } from "../dtype.ts";
import type { HostProgram, HostTable } from "./host.ts";
import type { Packed } from "./packed.ts";
import type { RowsOf } from "./rows.ts";

/** Canonical text of a Dim: see compiler/ir/dim.ts. */
export type DimText = string;

export interface PlanSymbol {
  readonly name: string;
  readonly lower: number;
  readonly upper?: number;
  /** An integer that the caller gives at each run, by this name. */
  readonly argument?: true;
}

/** What must hold of a run's sizes besides the bounds of symbols; `says` is what is wrong where it does not. */
export interface PlanLimit {
  readonly value: DimText;
  readonly most: DimText;
  readonly says: string;
}

/** Index into Plan.buffers. */
export type BufferId = number;

export interface PlanBuffer {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly DimText[];
  /** Elements beyond the shape that kernels may touch (tile padding); allocated, contents unspecified. */
  readonly slack: number;
  /**
   * input: written by the caller each run. table: written from host code each run. param: a checkpoint
   * tensor in its own layout. constant: bytes in the artefact. persistent: made by `prepare` from params,
   * kept. arena: lives from step `first` to step `last` inclusive. output: kept until the next run.
   */
  readonly place:
    | { readonly k: "input" | "output" | "param" | "persistent" | "state" }
    | { readonly k: "table"; readonly table: number }
    | { readonly k: "constant"; readonly data: readonly number[] }
    | { readonly k: "arena"; readonly first: number; readonly last: number };
}

export type Step =
  | {
      readonly k: "dispatch";
      /** A name in Plan.kernels. */
      readonly kernel: string;
      /** Buffers in the order of the kernel's own buffer list. */
      readonly buffers: readonly BufferId[];
      /** Sizes the kernel asks for, in the order of its `dims`. */
      readonly dims: readonly DimText[];
      /** Extents of the parallel axes; the first ones are divided over threads. */
      readonly extents: readonly DimText[];
      /** `file:line:col` chains of the .uhd code this step does. */
      readonly sources: readonly string[];
      /** Operations (2 per multiply-add) and bytes read + written, as dims. */
      readonly flops: DimText;
      readonly bytes: DimText;
      /** Why the step was not merged with the one before; empty when it could not have been. */
      readonly unfused?: string;
      /** The stage of the pipeline, for timing: the outermost module or graph function, e.g. "clip-vit". */
      readonly stage: string;
    }
  | { readonly k: "copy"; readonly from: BufferId; readonly to: BufferId };

export interface PlanKernel {
  readonly name: string;
  /** Names of the sizes, in argument order. */
  readonly dims: readonly string[];
  readonly bufferCount: number;
  /** How many of the buffers are written: the last ones. One when left out. */
  readonly written?: number;
  /** Bytes of scratch a thread needs, as a dim over `dims`. */
  readonly scratch: DimText;
  /** How many independent units of work there are, as a dim over `dims`. Threads take ranges of units. */
  readonly units: DimText;
}

export interface PlanParam {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly buffer: BufferId;
  readonly init?: { readonly kind: "constant"; readonly value: number } | { readonly kind: "normal"; readonly std: number };
  /** It is a part of the packed form of a weight: the checkpoint has the weight. */
  readonly packed?: Packed;
  /** It is some rows of the checkpoint's tensor. */
  readonly rows?: RowsOf;
}

export interface Plan {
  readonly format: "uhd-plan";
  readonly version: 1;
  readonly name: string;
  readonly symbols: readonly PlanSymbol[];
  readonly limits: readonly PlanLimit[];
  readonly host: HostProgram;
  readonly tables: readonly HostTable[];
  readonly inputs: readonly { readonly name: string; readonly buffer: BufferId }[];
  readonly outputs: readonly { readonly name: string; readonly buffer: BufferId }[];
  readonly params: readonly PlanParam[];
  /** `update` replaces the state's contents after the last step; where it is the state's own buffer, steps have written what is new. */
  readonly states: readonly { readonly name: string; readonly buffer: BufferId; readonly update?: BufferId }[];
  readonly buffers: readonly PlanBuffer[];
  readonly kernels: readonly PlanKernel[];
  /** Run once after the params are loaded: packing, merged projections, everything that depends on params alone. */
  readonly prepare: readonly Step[];
  /** Run each time. */
  readonly steps: readonly Step[];
}
