// The reference's training data: a JSON list of records, or one record a line. A file may be larger than memory: it is
// read once to find where each record lies and what is wrong with it, and a record is read again when its turn comes.
// Nothing in it is trusted. Does not tokenise, and opens no pictures.

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import path from "node:path";
import { messageOf } from "../errors.ts";
import { isRecord } from "../json.ts";
import { imageToken, type Message } from "../text/chat.ts";
import { openBytes, type ByteSource } from "../weights/bytes.ts";
import { jsonElements, type JsonElement } from "./elements.ts";
import { TrainingDataError } from "./errors.ts";
import type { ModalityLength } from "./order.ts";

export interface TrainingRecord {
  /** Its place in the file, from 0. */
  readonly index: number;
  readonly id: string | undefined;
  /** Path of its picture, under the folder of pictures. */
  readonly image: string | undefined;
  /** User and assistant in turn; "<image>\n" stands at the front of its turn. */
  readonly messages: readonly Message[];
}

/** A record that cannot be trained on. */
export interface BadRecord {
  readonly index: number;
  readonly id: string | undefined;
  /** `data.json, record 3 ("a"), line 17` */
  readonly place: string;
  readonly reason: string;
}

export interface RecordFileOptions {
  /** Folder of the pictures; what is missing there is told. Without it no record may have a picture. */
  readonly images?: string | undefined;
}

/** An open data file. `places` and `bad` together are all of its records. */
export class RecordFile implements AsyncDisposable {
  readonly name: string;
  /** Of all of the file's bytes. */
  readonly sha256: string;
  readonly bad: readonly BadRecord[];
  /** Length of each usable record, in the order of the file: what `epochOrder` takes. */
  readonly lengths: readonly ModalityLength[];
  readonly #source: ByteSource;
  readonly #elements: readonly JsonElement[];

  private constructor(
    source: ByteSource,
    elements: readonly JsonElement[],
    lengths: readonly ModalityLength[],
    bad: readonly BadRecord[],
    sha256: string,
  ) {
    this.name = source.name;
    this.sha256 = sha256;
    this.bad = bad;
    this.lengths = lengths;
    this.#source = source;
    this.#elements = elements;
  }

  /** Throws TrainingDataError when the file cannot be read or is no list of records. Bad records are only listed. */
  static async open(file: string, options: RecordFileOptions = {}): Promise<RecordFile> {
    let source: ByteSource;
    try {
      source = await openBytes(file);
    } catch (cause) {
      throw new TrainingDataError(`${file} cannot be read: ${messageOf(cause)}`, { cause });
    }
    try {
      const hash = createHash("sha256");
      const elements: JsonElement[] = [];
      const lengths: ModalityLength[] = [];
      const bad: BadRecord[] = [];
      const exists = knownFiles();
      let index = 0;
      for await (const { element, text } of jsonElements(source, (bytes) => hash.update(bytes))) {
        const found = { ...element, index: index++ };
        try {
          const record = parseRecord(text(), found.index);
          if (record.image !== undefined) checkPicture(record, record.image, options.images, exists);
          elements.push(found);
          lengths.push(lengthOf(record));
        } catch (error) {
          if (!(error instanceof RecordProblem)) throw error;
          bad.push({ index: found.index, id: error.id, place: placeOf(file, found, error.id), reason: error.message });
        }
      }
      return new RecordFile(source, elements, lengths, bad, hash.digest("hex"));
    } catch (error) {
      await source[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The usable record number `at`, counted as `lengths` does. */
  async read(at: number): Promise<TrainingRecord> {
    const element = this.#element(at);
    const bytes = new Uint8Array(element.end - element.start);
    try {
      await this.#source.read(element.start, bytes);
      return parseRecord(new TextDecoder("utf-8", { fatal: true }).decode(bytes), element.index);
    } catch (cause) {
      throw new TrainingDataError(`${this.name} has changed since it was opened: record ${element.index}: ${messageOf(cause)}`, { cause });
    }
  }

  /** Says of a record that was fine until its turn came why it is not. */
  problem(at: number, id: string | undefined, reason: string): BadRecord {
    const element = this.#element(at);
    return { index: element.index, id, place: placeOf(this.name, element, id), reason };
  }

  #element(at: number): JsonElement {
    const element = this.#elements[at];
    if (element === undefined) throw new RangeError(`there is no record ${at}; there are ${this.#elements.length}`);
    return element;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#source[Symbol.asyncDispose]();
  }
}

/** What is wrong with one record. Never leaves this file. */
class RecordProblem extends Error {
  readonly id: string | undefined;
  constructor(message: string, id: string | undefined) {
    super(message);
    this.id = id;
  }
}

function placeOf(file: string, element: JsonElement, id: string | undefined): string {
  return `${file}, record ${element.index}${id === undefined ? "" : ` (${JSON.stringify(id)})`}, line ${element.line}`;
}

const roles: Readonly<Record<string, "user" | "assistant">> = { human: "user", gpt: "assistant" };

function parseRecord(text: string, index: number): TrainingRecord {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new RecordProblem(`is not JSON: ${messageOf(cause)}`, undefined);
  }
  if (!isRecord(json)) throw new RecordProblem("is not an object", undefined);
  const id = typeof json.id === "string" || typeof json.id === "number" ? String(json.id) : undefined;
  const fail = (what: string): never => {
    throw new RecordProblem(what, id);
  };
  const { image, conversations } = json;
  if (image !== undefined && image !== null && (typeof image !== "string" || image === "")) fail("its image is not the path of a file");
  if (!Array.isArray(conversations) || conversations.length === 0) return fail("has no conversations");
  const messages = conversations.map((turn: unknown, i) => messageOfTurn(turn, i, fail));
  if (messages.length % 2 !== 0) fail("ends with a question that nobody answers");
  const shown = messages.reduce((n, { content }) => n + content.split(imageToken).length - 1, 0);
  const picture = typeof image === "string" ? image : undefined;
  if (picture !== undefined && shown === 0) fail(`has the image ${picture} and no ${imageToken} in its turns`);
  if (picture === undefined && shown > 0) fail(`has ${imageToken} in its turns and no image`);
  if (shown > 1) fail(`has ${imageToken} ${shown} times and one image`);
  return { index, id, image: picture, messages };
}

function messageOfTurn(turn: unknown, at: number, fail: (what: string) => never): Message & { readonly content: string } {
  if (!isRecord(turn) || typeof turn.from !== "string" || typeof turn.value !== "string")
    return fail(`its turn ${at} has no "from" or no "value"`);
  const role = Object.hasOwn(roles, turn.from) ? roles[turn.from] : undefined;
  if (role === undefined) return fail(`its turn ${at} has the unknown role ${JSON.stringify(turn.from)}; there are human and gpt`);
  const due = at % 2 === 0 ? "user" : "assistant";
  if (role !== due) return fail(`its turn ${at} is of ${turn.from}, out of turn`);
  if (!turn.value.includes(imageToken)) return { role, content: turn.value };
  if (role === "assistant") return fail(`its turn ${at}, an answer, has ${imageToken}`);
  // As the reference: wherever the picture stands in its turn, it goes to the front, a newline after it.
  const rest = turn.value.replace(imageToken, "").trim();
  return { role, content: `${imageToken}\n${rest}`.trim() };
}

/** Words that spaces part, negative when there is no picture. */
function lengthOf({ messages, image }: TrainingRecord): ModalityLength {
  const words = messages.reduce(
    (n, { content }) => n + (typeof content === "string" ? content.split(/\s+/).filter((w) => w !== "").length : 0),
    0,
  );
  return image === undefined ? -Math.max(1, words) : Math.max(1, words);
}

/** Many records show one picture: each file is looked for once. */
function knownFiles(): (file: string) => boolean {
  const known = new Map<string, boolean>();
  return (file) => {
    const before = known.get(file) ?? existsSync(file);
    known.set(file, before);
    return before;
  };
}

/** Where a record's picture is. Undefined when the path leads out of the folder. */
export function picturePath(image: string, folder: string): string | undefined {
  const inside = path.relative(folder, path.resolve(folder, image));
  return inside === "" || inside === ".." || inside.startsWith(`..${path.sep}`) || path.isAbsolute(inside)
    ? undefined
    : path.join(folder, inside);
}

function checkPicture({ id }: TrainingRecord, image: string, folder: string | undefined, exists: (file: string) => boolean): void {
  if (folder === undefined) throw new RecordProblem(`has the image ${image}, and no folder of images was given`, id);
  const file = picturePath(image, folder);
  if (file === undefined) throw new RecordProblem(`its image ${image} is outside ${folder}`, id);
  if (!exists(file)) throw new RecordProblem(`its image ${file} is missing`, id);
}
