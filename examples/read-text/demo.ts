// Answers questions about a picture with the trained UHD-tiny of this folder, offline: as arguments, or one a line.

import path from "node:path";
import { createInterface } from "node:readline/promises";
import { parseArgs, type ParseArgsConfig } from "node:util";
import { messageOf, UhdError } from "../../runtime/errors.ts";
import { Reader } from "./reader.ts";

const help = `Answers questions about the text in a picture with UHD-tiny, a model of 0.7 million parameters that was trained here.

  npm run demo                                                   questions about an example, one a line
  npm run demo -- IMAGE                                          about a picture of yours
  npm run demo -- IMAGE "what is the number?" "how many words?"  and no more
  npm run demo -- IMAGE "what is the number?" --json

It knows what is printed in big letters and digits (A-Z, 0-9), and these questions:
  what is the number?   what is the code?   what is the word?
  what colour is the number?   where is the code?   what is at the top left?   how many words?
examples/read-text/model/README.md says how it was made, how often it is right, and what it cannot do.

  --threads <n>   default: those of the machine
  --json          a line of data for each question`;

const example = "examples/read-text/example.png";

const options = {
  threads: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const satisfies ParseArgsConfig["options"];

function given() {
  try {
    return parseArgs({ options, allowPositionals: true });
  } catch (error) {
    console.error(`${messageOf(error)}\n  help: npm run demo -- --help`);
    process.exit(2);
  }
}

async function main(): Promise<void> {
  const { values, positionals } = given();
  if (values.help) {
    console.log(help);
    return;
  }
  const [named, ...questions] = positionals;
  const threads = values.threads === undefined ? undefined : Number(values.threads);
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
    console.error(`--threads takes 1 or more, found "${String(values.threads)}"`);
    process.exit(2);
  }
  const image = named === undefined ? example : path.resolve(process.env.UHD_CWD ?? ".", named);
  const model = "examples/read-text/model";
  await using reader = await Reader.open({ graph: "graphs/uhd-tiny.uhd", model: `${model}/model.safetensors`, tokenizer: model, threads });
  const ask = async (question: string): Promise<void> => {
    const began = performance.now();
    const answer = await reader.answer(image, question);
    const milliseconds = Math.round(performance.now() - began);
    if (values.json) console.log(JSON.stringify({ image: named ?? example, question, answer, milliseconds }));
    else console.log(questions.length > 0 ? `${question} ${answer}` : answer);
  };
  if (questions.length > 0) {
    for (const question of questions) await ask(question);
    return;
  }
  const live = process.stdin.isTTY && !values.json;
  if (live) console.error(`${named ?? example}: ask, one question a line, as in: what is the number?`);
  for await (const line of createInterface({ input: process.stdin })) if (line.trim() !== "") await ask(line.trim());
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UhdError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
