// UHD-tiny as it answers: questions about a picture, each by itself, with the likeliest letters. What questions about one
// picture have in common is computed once. Trains and evaluates nothing.

import { readFileSync } from "node:fs";
import { loadProgram } from "../../compiler/check/index.ts";
import { compileGraph } from "../../compiler/compile.ts";
import { load, type Model } from "../../runtime/model/load.ts";

export interface ReaderOptions {
  /** The .uhd file. */
  readonly graph: string;
  readonly config?: Readonly<Record<string, string>>;
  /** The trained parameters. */
  readonly model: string;
  /** A folder. */
  readonly tokenizer: string;
  readonly threads?: number | undefined;
}

/** Most letters of an answer. */
const longest = 24;

export class Reader implements AsyncDisposable {
  readonly #model: Model;

  private constructor(model: Model) {
    this.#model = model;
  }

  static async open({ graph: file, config = {}, model, tokenizer, threads }: ReaderOptions): Promise<Reader> {
    const program = loadProgram(file, { readText: (name) => readFileSync(name, "utf8"), config });
    const graph = program.graphs.get("uhd_tiny");
    if (graph === undefined) throw new Error(`${file} has no graph uhd_tiny: ${program.diagnostics[0]?.message ?? ""}`);
    return new Reader(await load({ graph: compileGraph(graph), vision: model, tokenizer, threads }));
  }

  /** `image` is a file: JPEG, PNG or WebP. Throws ImageError for what is none. */
  async answer(image: string, question: string): Promise<string> {
    let text = "";
    const messages = [{ role: "user", content: `<image>\n${question}` }] as const;
    for await (const piece of this.#model.generate({ messages, images: [image], maximumTokens: longest, temperature: 0 })) text += piece;
    return text;
  }

  close(): Promise<void> {
    return this.#model.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
