// What a train section says, after checking, and how its patterns choose parameters. Builds nothing.

import type { LossScaling, Schedule } from "../ir/plan/training.ts";

export interface OptimiserSettings {
  readonly name: "adamw";
  readonly rate: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  /** Share of itself that a parameter loses a step, times the rate. */
  readonly decay: number;
  /** Patterns of parameters that do not decay. */
  readonly undecayed: readonly string[];
  /** Patterns with rates of their own; the first that matches counts. */
  readonly rates: readonly (readonly [string, number])[];
}

/** Low-rank additions: a matrix W that a target names becomes W + alpha/rank · B·A, of which A and B are trained. */
export interface LoraSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly targets: readonly string[];
  /** Patterns of what `targets` would take too much. */
  readonly except: readonly string[];
  readonly rate?: number;
}

/** The element types that products may be computed of, besides f32. */
export type HalfType = "f16" | "bf16";

export interface TrainSettings {
  /** A graph of the file. */
  readonly graph: string;
  /** One of its outputs, f32[]. */
  readonly loss: string;
  /** Patterns of parameters that are trained, and of those among them that are not. */
  readonly trainable: readonly string[];
  readonly frozen: readonly string[];
  readonly optimiser: OptimiserSettings;
  readonly schedule: Schedule;
  readonly clip?: number;
  readonly accumulate: number;
  readonly steps?: number;
  readonly lora?: LoraSettings;
  /** Of what products are computed; f32 when left out. */
  readonly compute?: HalfType;
  /** By what the loss is multiplied before it is differentiated, so that small derivatives are not lost in f16. */
  readonly scaling?: LossScaling;
}

const compiled = new Map<string, RegExp>();

/** Does a pattern choose a checkpoint name? `*` stands for anything without a dot, `**` for anything. */
export function matches(pattern: string, name: string): boolean {
  let made = compiled.get(pattern);
  if (made === undefined) {
    const parts = pattern
      .split(/(\*\*|\*)/)
      .map((p) => (p === "**" ? ".*" : p === "*" ? "[^.]*" : p.replace(/[.+?^${}()|[\]\\]/g, "\\$&")));
    made = new RegExp(`^${parts.join("")}$`);
    compiled.set(pattern, made);
  }
  return made.test(name);
}

export function matchesAny(patterns: readonly string[], name: string): boolean {
  return patterns.some((p) => matches(p, name));
}
