// Declares uhdc train and its options; the work is in commands/train.ts, loaded when it is asked for.

import { InvalidArgumentError, Option, type Command } from "commander";
import type { TrainOptions } from "./commands/train.ts";
import { deviceNames } from "./device.ts";
import { memoryOption } from "./memory-option.ts";
import type { Terminal } from "./terminal.ts";

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError(`expected a whole number, found "${text}"`);
  return value;
}

export function declareTrain(program: Command, terminal: Terminal): void {
  program
    .command("train")
    .description("train what the file's train section says, on conversations about images")
    .argument("<file>", ".uhd file with a train section")
    .requiredOption("--data <file>", "conversations: a JSON list, or a record a line")
    .option("--images <folder>", "where the records' images are")
    .requiredOption("--out <folder>", "checkpoints, metrics, the curve of the loss, and the trained parameters")
    .requiredOption("--tokenizer <path>", "a GGUF file, or a folder with tokenizer.json or tokenizer.model")
    .option("--template <name>", "chat template: vicuna_v1 or plain; the tokenizer's own otherwise")
    .option(
      "--resume",
      "go on from the newest checkpoint in the folder; on the same device equal to the bit to a training that was not stopped; another one is refused",
      false,
    )
    .addOption(new Option("--steps <n>", "steps in all; the file's own number or one epoch otherwise").argParser(count))
    .addOption(new Option("--epochs <n>", "the same in epochs").argParser(count))
    .addOption(
      new Option("--batch <n>", "samples a run; a step is as many runs as the file's `accumulate` says").argParser(count).default(1),
    )
    .addOption(new Option("--max-length <n>", "most tokens of a sample's text; what is beyond is cut off").argParser(count).default(2048))
    .addOption(new Option("--seed <n>", "decides the order of the records").argParser(count).default(0))
    .addOption(new Option("--on-bad <what>", "what becomes of records that cannot be used").choices(["skip", "stop"]).default("stop"))
    .addOption(new Option("--save <n>", "steps between checkpoints").argParser(count).default(500))
    .addOption(new Option("--keep <n>", "checkpoints that stay").argParser(count).default(2))
    .option("--weights <path...>", "checkpoints that the parameters begin from: see uhdc run")
    .option("--ignore-extra", "accept tensors of the checkpoint that the graph does not use", false)
    .option("--init <rule>", "make the parameters that no checkpoint gives: seeded:N")
    .addOption(
      new Option(
        "--device <name>",
        "where to train: auto takes a GPU where there is one; webgpu also one that computes on the CPU; reference is float64, slow",
      )
        .choices(deviceNames)
        .default("auto"),
    )
    .addOption(new Option("--threads <n>", "threads of the wasm device").argParser(count))
    .addOption(memoryOption())
    .addOption(
      new Option("--size <name=value>", "with --memory: sizes for which it holds, as in uhdc explain; the data's largest batches otherwise")
        .argParser<readonly string[]>((v, b) => [...(b ?? []), v])
        .default([], "none"),
    )
    .addOption(
      new Option("--set <name=value>", "give a config value; may be repeated")
        .argParser<readonly string[]>((v, b) => [...(b ?? []), v])
        .default([], "none"),
    )
    .addOption(new Option("--json", "print data instead of text").default(false))
    .addHelpText(
      "after",
      `
Ctrl-C saves and ends. Records are those of the LLaVA family:
  {"id": "a", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]}

Examples:
  uhdc train graphs/uhd-tiny.uhd --data train.json --images images/ --tokenizer tokenizer/ --out out/ --init seeded:1
  uhdc train graphs/uhd-tiny.uhd --data train.json --images images/ --tokenizer tokenizer/ --out out/ --init seeded:1 --resume
  uhdc train graphs/uhd-tiny.uhd --data train.json --images images/ --tokenizer tokenizer/ --out out/ --init seeded:1 --batch 16 --memory 100MiB`,
    )
    .action(async (file: string, options: TrainOptions) => (await import("./commands/train.ts")).train(file, options, terminal));
}
