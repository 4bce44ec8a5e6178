// Which rows of the key-value cache hold what: a sequence is a list of tokens and the rows with their keys and values.
// Sequences that begin alike share rows; a row that no sequence has any more is used again. The cache itself is on the
// device and is not touched here.

/** Tokens, and the rows of those that were computed: the first of them. */
export class Sequence {
  readonly ids: number[];
  readonly rows: number[];
  constructor(ids: readonly number[] = [], rows: readonly number[] = []) {
    this.ids = [...ids];
    this.rows = [...rows];
  }
}

export class CacheRows {
  readonly capacity: number;
  /** Free rows, the one to be taken next at the end. Rows go out in ascending order from an empty cache. */
  readonly #free: number[];
  /** How many sequences have each row. */
  readonly #owners: Int32Array;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#free = Array.from({ length: capacity }, (_, i) => capacity - 1 - i);
    this.#owners = new Int32Array(capacity);
  }

  get free(): number {
    return this.#free.length;
  }

  /** Rows for the tokens of a sequence that have none. The caller has seen that there are enough. */
  extend(sequence: Sequence): void {
    while (sequence.rows.length < sequence.ids.length) {
      const row = this.#free.pop();
      if (row === undefined) throw new RangeError("the cache has no free row");
      this.#owners[row] = 1;
      sequence.rows.push(row);
    }
  }

  /** A sequence that goes on from another by a token, and shares its rows. */
  fork(from: Sequence, token: number): Sequence {
    for (const row of from.rows) this.#owners[row] = (this.#owners[row] ?? 0) + 1;
    return new Sequence([...from.ids, token], from.rows);
  }

  /** Takes tokens from `length` on away, and their rows. */
  cut(sequence: Sequence, length: number): void {
    this.release(sequence, length);
    sequence.ids.length = Math.min(sequence.ids.length, length);
  }

  /** Takes the rows of tokens from `length` on away, and leaves the tokens. */
  release(sequence: Sequence, length: number): void {
    while (sequence.rows.length > length) {
      const row = sequence.rows.pop() ?? 0;
      const owners = (this.#owners[row] ?? 0) - 1;
      this.#owners[row] = owners;
      if (owners === 0) this.#free.push(row);
    }
  }
}
