// Names of Imp IR as identifiers of WGSL. Every kind of name has a prefix of its own, so that none is a word of the
// language and kinds do not meet.

/** Gives each name one identifier: `prefix` and what of the name WGSL allows. */
export class Names {
  readonly #prefix: string;
  readonly #known = new Map<string, string>();
  readonly #taken = new Set<string>();

  constructor(prefix: string) {
    this.#prefix = prefix;
  }

  of(name: string): string {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const plain = this.#prefix + name.replace(/[^A-Za-z0-9]+/g, "_").slice(0, 40);
    let made = plain;
    for (let n = 2; this.#taken.has(made); n++) made = `${plain}_${n}`;
    this.#taken.add(made);
    this.#known.set(name, made);
    return made;
  }
}
