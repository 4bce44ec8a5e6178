// `npm run demo`: the UHD-tiny that comes with the package answers questions about a picture, on the CPU, with nothing from
// outside. Answers go to stdout, a line each; what was done goes to stderr. What it can read: model/README.md.

import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import sharp from "sharp";
import { ImageError, UhdError } from "../../runtime/errors.ts";
import { Reader } from "./reader.ts";

// The bundle stands in dist/examples.
const root = fileURLToPath(new URL("../../", import.meta.url));
const folder = path.join(root, "examples/read-text");
const sample = path.join(folder, "sample.png");
const usual = [
  "what is the number?",
  "what is the code?",
  "what is the word?",
  "what colour is the number?",
  "where is the number?",
  "how many words?",
];

const help = `Asks UHD-tiny about a picture: about 1.4 MB of parameters, trained by examples/read-text/train.mjs.

  npm run demo -- [picture] [question …]

  picture      JPEG, PNG or WebP; default ${path.relative(root, sample)}
  question     of the kinds that it was trained on; default, of each kind one
  --json       one object a line instead of text
  --threads n  default: those of the machine

Examples
  npm run demo
  npm run demo -- sign.png "what is the number?"
  npm run demo -- sign.png "what is at the top left?" --json`;

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: "boolean", default: false },
      threads: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(help);
    return 0;
  }
  const threads = values.threads === undefined ? undefined : Number(values.threads);
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
    console.error(`--threads takes a whole number from 1, not ${JSON.stringify(values.threads)}`);
    return 2;
  }
  const [given, ...asked] = positionals;
  // npm runs scripts in the package's folder; names are of the folder that it was called in.
  const picture = given === undefined ? sample : path.resolve(process.env["INIT_CWD"] ?? process.cwd(), given);
  const began = performance.now();
  const { width, height } = await sharp(picture)
    .metadata()
    .catch((cause: unknown) => {
      throw new ImageError(`${picture}: no picture that can be read (${cause instanceof Error ? cause.message : String(cause)})`, {
        cause,
      });
    });
  await using reader = await Reader.open({
    graph: path.join(root, "graphs/uhd-tiny.uhd"),
    model: path.join(folder, "model/model.safetensors"),
    tokenizer: path.join(folder, "model"),
    threads,
  });
  console.error(`${picture}: ${width} × ${height}; ready after ${seconds(began)}`);
  for (const question of asked.length > 0 ? asked : usual) {
    const from = performance.now();
    const answer = await reader.answer(picture, question);
    const milliseconds = Math.round(performance.now() - from);
    console.log(values.json ? JSON.stringify({ picture, question, answer, milliseconds }) : `${question.padEnd(28)} ${answer}`);
  }
  console.error(`done after ${seconds(began)}`);
  return 0;
}

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;

try {
  process.exitCode = await main();
} catch (error) {
  const usage = error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS");
  console.error(usage ? `${error.message}\n\n${help}` : error instanceof UhdError ? error.message : error);
  process.exitCode = usage ? 2 : 1;
}
