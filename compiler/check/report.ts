// Collects diagnostics: each mistake once, however many instances of a module show it. Does not print.

import type { Diagnostic, Note } from "../diagnostics/index.ts";
import type { Span } from "../ir/loc.ts";
import { joinUses, type Missing } from "./misspelt.ts";

interface Details {
  readonly expected?: string | undefined;
  readonly found?: string | undefined;
  readonly notes?: readonly Note[];
  readonly help?: string | undefined;
  readonly missing?: Missing;
}

/** Calls and uses around an error that are told. */
const maximumUses = 6;

function distinct(notes: readonly Note[]): readonly Note[] {
  const key = (n: Note): string => (n.span === undefined ? n.message : `${n.span.file}:${n.span.start}-${n.span.end}`);
  return notes.filter((n, i) => notes.findIndex((m) => key(m) === key(n)) === i);
}

/** After this many errors the rest would not be read. */
const maximumErrors = 200;

function keyOf(code: string, span: Span): string {
  return `${code} ${span.file}:${span.start}-${span.end}`;
}

export class Reporter {
  readonly #seen = new Set<string>();
  readonly #all: Diagnostic[] = [];
  readonly #missing = new Map<Diagnostic, Missing>();
  /** While positive, errors are dropped (a second look at code that was reported). */
  #muted = 0;
  /** Called for each error that is new or repeated: an elaboration that had one gives no graph. */
  errors = 0;
  /** Where the code being checked is used, for notes of errors inside modules. */
  uses: readonly Note[] = [];

  error(code: string, span: Span, message: string, d: Details = {}): void {
    if (this.#muted > 0) return;
    this.errors++;
    const key = keyOf(code, span);
    if (this.#seen.has(key) || this.#all.length >= maximumErrors) return;
    this.#seen.add(key);
    const told: Diagnostic = {
      severity: "error",
      code,
      span,
      message,
      ...(d.expected === undefined ? {} : { expected: d.expected }),
      ...(d.found === undefined ? {} : { found: d.found }),
      // Conflicts of sizes may come from any call or use around; other mistakes are where they are.
      notes: distinct([...(d.notes ?? []), ...this.uses.slice(0, code.startsWith("UHD03") ? maximumUses : 1)]),
      ...(d.help === undefined ? {} : { help: d.help }),
    };
    this.#all.push(told);
    if (d.missing !== undefined) this.#missing.set(told, d.missing);
  }

  /** A name that is declared again where it has been: `before` is the first place. */
  twice(name: string, span: Span, before: Span): void {
    this.error("UHD0102", span, `${name} is declared twice`, { notes: [{ span: before, message: "it is declared here" }] });
  }

  /** Diagnostics of the parser, kept as they are. */
  adopt(diagnostics: readonly Diagnostic[]): void {
    for (const d of diagnostics) {
      if (d.severity === "error") this.errors++;
      this.#all.push(d);
    }
  }

  /** How many diagnostics there are, for `since` and `takeBack`. */
  mark(): number {
    return this.#all.length;
  }

  since(mark: number): readonly Diagnostic[] {
    return this.#all.slice(mark);
  }

  /** Takes back those since `mark` that `drop` names. They may be reported again. */
  takeBack(mark: number, drop: (d: Diagnostic) => boolean): void {
    const kept = this.#all.slice(mark).filter((d) => !drop(d));
    for (const d of this.#all.slice(mark)) if (drop(d)) this.#seen.delete(keyOf(d.code, d.span));
    this.#all.splice(mark, Infinity, ...kept);
  }

  /** Runs `f` without keeping what it reports. */
  quietly<R>(f: () => R): R {
    this.#muted++;
    try {
      return f();
    } finally {
      this.#muted--;
    }
  }

  /** In the order of files, then of places. `sources` has the text of each. */
  sorted(sources: ReadonlyMap<string, string>): readonly Diagnostic[] {
    const files = [...sources.keys()];
    const place = (d: Diagnostic): number => files.indexOf(d.span.file);
    return [...joinUses(this.#all, this.#missing, sources)].sort(
      (a, b) => place(a) - place(b) || a.span.start - b.span.start || a.span.end - b.span.end,
    );
  }
}

/** ` did you mean …` as a help line. */
export function didYouMean(near: string | undefined): string | undefined {
  return near === undefined ? undefined : `did you mean "${near}"?`;
}

/** The same for a use of `name`, with a note at the declaration of what may be meant. */
export function suggestion(name: string, near: string | undefined, declared: Span | undefined): Details {
  if (near === undefined || declared === undefined) return { help: didYouMean(near), notes: [] };
  const notes = [{ span: declared, message: `${near} is declared here` }];
  return { help: didYouMean(near), notes, missing: { name, near, declared } };
}
