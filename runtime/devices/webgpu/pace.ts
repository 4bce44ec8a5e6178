// How much work goes into one command buffer. Work is in units that take about a nanosecond on a fast GPU; how long they
// take here is learnt from what has run. Does not measure anything itself.

import type { Command } from "../../device.ts";

/** Milliseconds that a piece should take. */
const piece = 50;
/** What starting a command costs, in units of work. */
const start = 2000;

export interface Piece {
  readonly first: number;
  readonly end: number;
  readonly work: number;
}

export class Pace {
  /** Units of work in a millisecond. */
  #speed: number;

  constructor(software: boolean) {
    this.#speed = software ? 1e4 : 1e6;
  }

  /** By operations or by bytes moved, whichever takes longer. */
  static work(command: Command): number {
    const [flops, bytes] = command.k === "dispatch" ? [command.flops, command.bytes] : [0, 2 * command.from.bytes];
    return start + Math.max(flops / 5000, bytes / 500);
  }

  pieces(commands: readonly Command[]): readonly Piece[] {
    const most = this.#speed * piece;
    const pieces: Piece[] = [];
    let first = 0;
    let work = 0;
    for (const [i, command] of commands.entries()) {
      work += Pace.work(command);
      if (work < most && i + 1 < commands.length) continue;
      pieces.push({ first, end: i + 1, work });
      first = i + 1;
      work = 0;
    }
    return pieces;
  }

  /** Slowly, since the first run of a kernel may include its compilation; and within what any device can do. */
  learn(work: number, milliseconds: number): void {
    const found = work / Math.max(milliseconds, 0.1);
    this.#speed = Math.min(1e8, Math.max(1e3, this.#speed * Math.min(2, Math.max(0.8, found / this.#speed))));
  }
}
