// What uhdc prints and where: data on stdout, progress and diagnostics on stderr. Colour only on a
// terminal and never when NO_COLOR is set.

export interface Terminal {
  readonly color: boolean;
  /** Whether lines of progress are shown. */
  readonly live?: boolean;
  out(text: string): void;
  err(text: string): void;
  /** A line that replaces the one before on a terminal; elsewhere nothing. */
  progress(text: string): void;
  /** Takes the progress line away. */
  done(): void;
}

export function processTerminal(): Terminal {
  const live = process.stderr.isTTY === true;
  const color = process.env["NO_COLOR"] === undefined && (live || process.env["FORCE_COLOR"] !== undefined);
  let open = false;
  const clear = (): void => {
    if (open) process.stderr.write("\r\u001b[K");
    open = false;
  };
  return {
    color,
    live,
    out(text) {
      clear();
      process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
    },
    err(text) {
      clear();
      process.stderr.write(text.endsWith("\n") ? text : `${text}\n`);
    },
    progress(text) {
      if (!live) return;
      clear();
      process.stderr.write(text.slice(0, (process.stderr.columns ?? 80) - 1));
      open = true;
    },
    done: clear,
  };
}

/** 1234567 → "1.23 M". For counts of operations. */
export function countText(count: number): string {
  const units = ["", " k", " M", " G", " T", " P"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(2)}${units[unit] ?? ""}`;
}

export function millisecondsText(ms: number): string {
  return ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(1)} ms`;
}

/** Left-aligned text columns, right-aligned where `right` says so, two spaces between. */
export function tableText(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => (right.includes(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
