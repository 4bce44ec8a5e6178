// One bench of ours against its peers: results are compared first, then all are timed in turns.

import { difference, interleaved, mustAgree, spread, type Contestant, type Effort } from "./measure.ts";
import { log } from "./place.ts";
import type { Row } from "./rows.ts";

/** What the process that runs a bench was asked for. */
export interface Context {
  readonly threads: number;
  readonly quick: boolean;
  readonly engine: string;
}

export interface Ours extends Contestant {
  readonly variant?: "plain" | "relaxed";
  /** What the peers' results must agree with. */
  readonly result: Float32Array;
}

export interface Opened extends AsyncDisposable {
  readonly name: string;
  readonly run: () => Promise<unknown>;
  readonly timed?: () => Promise<number>;
  /** Of one run, in the order of ours. */
  readonly result: () => Promise<Float32Array>;
  readonly note?: string;
}

export interface Peer {
  readonly name: string;
  readonly goal?: number;
  /** Allowed difference, as a part of the largest value. */
  readonly tolerance: number;
  /** Throws when the peer cannot be had; the row then says why. */
  readonly open: () => Promise<Opened>;
}

export function effort(context: Context, seconds: number): Effort {
  return context.quick
    ? { rounds: 7, budget: seconds * 1000, least: 3, atLeast: 60, warmUp: 300 }
    : { rounds: 15, budget: seconds * 5000, least: 3, atLeast: 200, warmUp: 1000 };
}

/** A row for each peer. Throws when a peer's result differs from ours. */
export async function versus(name: string, context: Context, ours: Ours, peers: readonly Peer[], work: Effort): Promise<readonly Row[]> {
  const opened: { peer: Peer; model: Opened; difference: string }[] = [];
  const missing = new Map<Peer, string>();
  for (const peer of peers) {
    try {
      const model = await peer.open();
      opened.push({ peer, model, difference: "" });
    } catch (error) {
      missing.set(peer, error instanceof Error ? error.message : String(error));
    }
  }
  try {
    for (const entry of opened) entry.difference = agreement(`${name}, ${entry.peer.name}`, await entry.model.result(), ours, entry.peer);
    const times = await interleaved([ours, ...opened.map((entry) => entry.model)], work, (round) => {
      log(`${name}, ${threadsText(context.threads)}: round ${round + 1} of at most ${work.rounds}`);
    });
    const mine = times[0] ?? [];
    return peers.map((peer): Row => {
      const common = {
        name,
        threads: context.threads,
        ours: spread(mine).median,
        unit: "ms",
        rounds: mine.length,
        engine: context.engine,
        ...(peer.goal === undefined ? {} : { goal: peer.goal }),
        ...(ours.variant === undefined ? {} : { variant: ours.variant }),
      } as const;
      const at = opened.findIndex((entry) => entry.peer === peer);
      const entry = opened[at];
      if (entry === undefined) return { ...common, peer: null, peerName: peer.name, ratio: null, notRun: missing.get(peer) ?? "unknown" };
      const theirs = times[at + 1] ?? [];
      // A round's two were measured at nearly the same time: their ratio is steadier than that of the medians.
      const ratio = spread(theirs.map((t, i) => t / (mine[i] ?? NaN)));
      return {
        ...common,
        peer: spread(theirs).median,
        peerName: entry.model.name,
        ratio: ratio.median,
        spread: { ours: spread(mine), peer: spread(theirs), ratio },
        difference: entry.difference,
        ...(entry.model.note === undefined ? {} : { note: entry.model.note }),
      };
    });
  } finally {
    for (const { model } of opened) await model[Symbol.asyncDispose]();
  }
}

function agreement(what: string, found: Float32Array, ours: Ours, peer: Peer): string {
  mustAgree(what, found, ours.result, peer.tolerance);
  const { largest, scale } = difference(found, ours.result);
  return `${largest.toExponential(1)} of ${scale.toPrecision(3)}`;
}

export function threadsText(threads: number): string {
  return `${threads} thread${threads === 1 ? "" : "s"}`;
}

/** A row of something that has a limit instead of a peer. */
export function limited(
  context: Context,
  row: {
    readonly name: string;
    readonly ours: readonly number[];
    readonly limit: number;
    readonly limitName: string;
    readonly unit: Row["unit"];
    readonly note?: string;
  },
): Row {
  const mine = spread(row.ours);
  const peer = { median: row.limit, lower: row.limit, upper: row.limit };
  const ratio = row.limit / mine.median;
  if (!(ratio > 0 && ratio < Infinity)) throw new Error(`${row.name}: ${mine.median} was measured, and the limit is ${row.limit}`);
  return {
    name: row.name,
    threads: context.threads,
    ours: mine.median,
    peer: row.limit,
    peerName: row.limitName,
    ratio,
    unit: row.unit,
    rounds: row.ours.length,
    goal: 1,
    engine: context.engine,
    ...(row.ours.length > 1 ? { spread: { ours: mine, peer, ratio: spread(row.ours.map((v) => row.limit / v)) } } : {}),
    ...(row.note === undefined ? {} : { note: row.note }),
  };
}
