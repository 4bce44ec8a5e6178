#!/usr/bin/env node
// The command line. Only declares commands and their options; each command's work is in commands/, loaded
// when it is asked for, so that `uhdc --help` and `uhdc check` start at once.

import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { readFileSync } from "node:fs";
import { CliError } from "./errors.ts";
import { processTerminal } from "./terminal.ts";
import { memoryOption } from "./memory-option.ts";
import { declareTrain } from "./train-command.ts";
import type { CommonOptions } from "./common.ts";
import { quantiseChoices } from "./quantising.ts";
import { samplingOptions } from "./sampling.ts";
import type { ChatOptions } from "./commands/chat.ts";
import type { CompileOptions } from "./commands/compile.ts";
import type { ConvertOptions } from "./commands/convert.ts";
import type { DoctorOptions } from "./commands/doctor.ts";
import type { ExplainOptions } from "./commands/explain.ts";
import type { FormatOptions } from "./commands/fmt.ts";
import type { InspectOptions } from "./commands/inspect.ts";
import type { RunOptions } from "./commands/run.ts";
import type { ShapeOptions } from "./commands/shape.ts";

const terminal = processTerminal();

function collect(value: string, before: readonly string[]): readonly string[] {
  return [...before, value];
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError(`expected a whole number, found "${text}"`);
  return value;
}

function version(): string {
  // The package file is two folders up in the sources and three in the build.
  for (const up of ["../../package.json", "../../../package.json"]) {
    try {
      const found: unknown = JSON.parse(readFileSync(new URL(up, import.meta.url), "utf8"));
      if (typeof found === "object" && found !== null && "name" in found && found.name === "uhd" && "version" in found)
        return String(found.version);
    } catch {
      continue;
    }
  }
  return "unknown";
}

const setOption = (): Option =>
  new Option("--set <name=value>", "give a config value; may be repeated")
    .argParser<readonly string[]>((v, b) => collect(v, b ?? []))
    .default([], "none");
const jsonOption = (): Option => new Option("--json", "print data instead of text").default(false);
const graphOption = (): Option =>
  new Option("--graph <name>", "which graph of the file; needed when it has several and none has the file's name");
const sizeOption = (about = "value of an input dimension, as in --size H=1080; may be repeated"): Option =>
  new Option("--size <name=value>", about).argParser<readonly string[]>((v, b) => collect(v, b ?? [])).default([], "none");
const deviceOption = (names: readonly string[]): Option =>
  new Option(
    "--device <name>",
    "where to run: auto takes a GPU where there is one; webgpu also one that computes on the CPU" +
      (names.includes("reference") ? "; reference is float64, slow" : ""),
  )
    .choices(names)
    .default("auto");
const withSampling = (command: Command): Command => samplingOptions().reduce((c, option) => c.addOption(option), command);
const prefixOption = (): Option =>
  new Option("--weights-prefix <prefix>", "what the checkpoint puts before the graph's names, or FROM=TO; may be repeated")
    .argParser<readonly string[]>((v, b) => collect(v, b ?? []))
    .default([], "none");
const quantiseOption = (fallback: string): Option =>
  new Option(
    "--quantise <form>",
    `hold the weights of products and tables packed: int8 (q8_0) or int4 (q4_0), in blocks of 32; ${fallback} by default`,
  ).choices(quantiseChoices);
const activationsOption = (): Option =>
  new Option(
    "--activations <type>",
    "what few rows are multiplied with packed weights as: int16, rounded within blocks of 32, or f32, not rounded and slower",
  ).choices(["int16", "f32"]);
const fusionOptions = (command: Command): Command =>
  command
    .addOption(new Option("--fusion-gas <n>", "stop fusing after n decisions, to find the one that is wrong").argParser(count))
    .addOption(new Option("--no-fuse", "one kernel for each operation"))
    .addOption(quantiseOption("none"))
    .addOption(activationsOption());

function build(): Command {
  const program = new Command("uhdc")
    .description("Checks, compiles, runs and explains .uhd programs: dataflow graphs for vision-language models.")
    .version(version())
    .showHelpAfterError("(add --help for the options)")
    .exitOverride()
    .configureOutput({ writeOut: (text) => terminal.out(text), writeErr: (text) => terminal.err(text) })
    .addHelpText(
      "after",
      `
Examples:
  uhdc check graphs/llava-uhd.uhd
  uhdc shape graphs/slicing.uhd paper 1920 1080
  uhdc explain graphs/llava-uhd.uhd --image-size 672x1008
  uhdc run graphs/llava-uhd.uhd --image photo.jpg --init seeded:1 -o out/
  uhdc compile graphs/llava-uhd.uhd -o out/

Exit codes: 0 ok; 1 the program or its inputs are wrong; 2 the command line is wrong; 3 the device cannot do it.`,
    );

  program
    .command("check")
    .description("report every error of the files, with its place")
    .argument("<files...>", ".uhd files")
    .addOption(setOption())
    .addOption(jsonOption())
    .addHelpText("after", "\nExamples:\n  uhdc check graphs/*.uhd\n  uhdc check --json my.uhd | jq '.diagnostics[].message'")
    .action(async (files: string[], options: CommonOptions) => (await import("./commands/check.ts")).check(files, options, terminal));

  program
    .command("fmt")
    .description("format files in place; comments are kept")
    .argument("<files...>", ".uhd files, or - for standard input")
    .option("--check", "change nothing; exit with 1 when a file is not formatted", false)
    .addHelpText("after", "\nExamples:\n  uhdc fmt graphs/*.uhd\n  uhdc fmt --check graphs/*.uhd\n  uhdc fmt - < a.uhd > b.uhd")
    .action(async (files: string[], options: FormatOptions) => (await import("./commands/fmt.ts")).fmt(files, options, terminal));

  program
    .command("shape")
    .description("evaluate a shape function and print what it gives as JSON")
    .argument("<file>", ".uhd file")
    .argument("<function>", "name of a fn in the file")
    .argument("[args...]", "its arguments: numbers, true, false, or JSON")
    .option("--batch", "read one argument list a line from standard input; print one result a line", false)
    .addOption(setOption())
    .addHelpText(
      "after",
      "\nExamples:\n  uhdc shape graphs/slicing.uhd paper 1920 1080\n  printf '672 1008\\n300 1200\\n' | uhdc shape graphs/slicing.uhd v1 --batch",
    )
    .action(async (file: string, name: string, args: string[], options: ShapeOptions) =>
      (await import("./commands/shape.ts")).shape(file, name, args, options, terminal),
    );

  fusionOptions(
    program
      .command("compile")
      .description("compile a graph to an artefact: plan, kernels, manifest and a typed TypeScript module")
      .argument("<file>", ".uhd file")
      .option("-o, --out <folder>", "where to write the artefact")
      .addOption(new Option("--target <target>", "what the kernels are for (default: wasm)").choices(["wasm", "webgpu"]))
      .option("--model <path>", "take the sizes of the language model from this GGUF file or Hugging Face folder; --set still wins")
      .addOption(
        new Option("--emit <level>", "print one level instead of writing the artefact").choices([
          "graph",
          "kernel",
          "imp",
          "plan",
          "wasm",
          "wgsl",
        ]),
      )
      .addOption(
        new Option("--dump-after <pass>", "print the program after this pass; may be repeated")
          .argParser<readonly string[]>((v, b) => collect(v, b ?? []))
          .default([], "none"),
      )
      .addOption(graphOption())
      .addOption(setOption())
      .addOption(jsonOption()),
  )
    .addHelpText(
      "after",
      "\nExamples:\n  uhdc compile graphs/llava-uhd.uhd -o out/\n  uhdc compile graphs/clip-vit.uhd --emit kernel\n  uhdc compile graphs/resampler.uhd --emit wasm > kernels.wasm\n  uhdc compile graphs/clip-vit.uhd --target webgpu -o out-gpu/\n  uhdc compile graphs/llava-uhd.uhd --set width=5120 -o out-13b/\n  uhdc compile graphs/llama.uhd --model model.gguf -o out-chat/",
    )
    .action(async (file: string, options: CompileOptions) => (await import("./commands/compile.ts")).compile(file, options, terminal));

  fusionOptions(
    program
      .command("run")
      .description("run a graph on an image or on tensors and write its outputs, or ask it something")
      .argument("<file>", ".uhd file, or the folder of an artefact")
      .option("--image <photo...>", "JPEG, PNG or WebP; with --prompt there may be several, or none")
      .option("--input <file...>", "tensors with the names of the graph's inputs: safetensors; seeded:N makes those that no file has")
      .addOption(sizeOption("an integer or a list of the graph, or with --input seeded:N a dimension; may be repeated"))
      .option(
        "--prompt <text>",
        "ask a graph with a language model, and print its answer; photos stand where the text has <image>, or first",
      )
      .option("--system <text>", "with --prompt: what the assistant is told first")
      .option(
        "--tokenizer <path>",
        "with --prompt: a GGUF file, or a folder with tokenizer.json or tokenizer.model; the first checkpoint otherwise",
      )
      .option("--template <name>", "with --prompt: chat template, vicuna_v1 or plain; the tokenizer's own otherwise")
      .addOption(new Option("--max-tokens <n>", "with --prompt: most tokens of the answer").argParser(count))
      .option("-o, --out <folder>", "where to write the outputs, and of a sliced photo the contact sheet", "out")
      .option("--weights <path...>", "checkpoints: safetensors, GGUF, PyTorch archives, their indexes, or Hugging Face folders")
      .addOption(prefixOption())
      .option("--ignore-extra", "accept tensors of the checkpoint that the graph does not use", false)
      .option("--init <rule>", "make weights when there is no checkpoint: seeded:N")
      .addOption(new Option("--threads <n>", "threads to use").argParser(count))
      .addOption(deviceOption(["auto", "webgpu", "wasm", "reference"]))
      .option("--profile", "measure each kernel, by the device's own clock where it has one, in a second run", false)
      .option("--verify", "compare what each kernel wrote with the float64 references, given what it read; slow", false)
      .option("--trace <file>", "write what ran when, for chrome://tracing or ui.perfetto.dev")
      .addOption(graphOption())
      .addOption(setOption())
      .addOption(jsonOption()),
  )
    .addHelpText(
      "after",
      '\nExamples:\n  uhdc run graphs/llava-uhd.uhd --image photo.jpg --init seeded:1\n  uhdc run graphs/llava-uhd.uhd --image photo.jpg --weights clip.safetensors projector.safetensors -o out/\n  uhdc run out/ --image photo.jpg --init seeded:1 --json\n  uhdc run graphs/resampler.uhd --input seeded:1 --size h=24 --size w=24 --init seeded:1 --profile\n  uhdc run graphs/llava-uhd-chat.uhd --image photo.jpg --prompt "What is this?" --weights llava-uhd-7b/ clip.safetensors --ignore-extra\n  uhdc run graphs/llama.uhd --set width=2048 --prompt Hello --tokenizer model.gguf --init seeded:1',
    )
    .action(async (file: string, options: RunOptions) => (await import("./commands/run.ts")).run(file, options, terminal));

  fusionOptions(
    program
      .command("explain")
      .description("show each kernel with its source lines, operations, bytes, memory, and why neighbours were not fused")
      .argument("<file>", ".uhd file")
      .option("--image-size <WxH>", "size of the image input, as in 1920x1080")
      .option("--train", "explain the training step of the file's train section", false)
      .addOption(memoryOption())
      .addOption(sizeOption())
      .addOption(graphOption())
      .addOption(setOption())
      .addOption(jsonOption()),
  )
    .addHelpText(
      "after",
      '\nExamples:\n  uhdc explain graphs/llava-uhd.uhd --image-size 672x1008\n  uhdc explain --train graphs/train/pretrain.uhd --size N=551 --size L=40 --size \'images=[[672,1008]]\' --size \'samples=[{"tokens":40,"images":[0]}]\'\n  uhdc explain --train --memory 30MiB graphs/uhd-tiny.uhd --size N=896 --size L=64 --size \'images=[[300,240],[300,240]]\' --size \'samples=[{"tokens":32,"images":[0]},{"tokens":32,"images":[0]}]\'\n  uhdc explain graphs/clip-vit.uhd --graph encoder --size T=577 --json',
    )
    .action(async (file: string, options: ExplainOptions) => (await import("./commands/explain.ts")).explain(file, options, terminal));

  program
    .command("inspect")
    .description("list the tensors and the metadata of a checkpoint, or the parameters of an artefact")
    .argument("<file>", "safetensors, GGUF, PyTorch archive, their index, a Hugging Face folder, or an artefact")
    .addOption(jsonOption())
    .addHelpText("after", "\nExamples:\n  uhdc inspect model.gguf\n  uhdc inspect --json vicuna-7b/ | jq .total")
    .action(async (file: string, options: InspectOptions) => (await import("./commands/inspect.ts")).inspect(file, options, terminal));

  program
    .command("convert")
    .description("write checkpoints as one safetensors file")
    .argument("<inputs...>", "what inspect takes, artefacts aside; several must hold different tensors")
    .requiredOption("-o, --out <file>", "the safetensors file")
    .addOption(
      new Option("--dtype <dtype>", "what floats become; by default they stay, and blocks become f32").choices(["f32", "f16", "bf16"]),
    )
    .addOption(
      new Option(
        "--quantise <form>",
        "pack matrices whose rows are multiples of 32, in blocks of 32: int8 (q8_0), int4 (q4_0), q4_1; blocks of that form stay",
      ).choices(quantiseChoices.filter((c) => c !== "none")),
    )
    .addOption(
      new Option("--keep <text>", "with --quantise: matrices whose names contain this stay; may be repeated")
        .argParser<readonly string[]>((v, b) => collect(v, b ?? []))
        .default([], "none"),
    )
    .addOption(
      new Option("--rename <from=to>", "replace what names begin with; may be repeated")
        .argParser<readonly string[]>((v, b) => collect(v, b ?? []))
        .default([], "none"),
    )
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\nExamples:\n  uhdc convert model.gguf -o model.safetensors --dtype bf16\n  uhdc convert vicuna-7b/ -o vicuna-q4.safetensors --quantise int4\n  uhdc convert pytorch_model.bin -o clip.safetensors --rename vision_model.=",
    )
    .action(async (inputs: string[], options: ConvertOptions) =>
      (await import("./commands/convert.ts")).convert(inputs, options, terminal),
    );

  program
    .command("doctor")
    .description("tell what this machine can run graphs on, what is missing, and the command that installs it")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\nExamples:\n  uhdc doctor\n  uhdc doctor --json | jq '.adapters[].description'\n\nExit codes: 0 something runs here; 3 nothing does.",
    )
    .action(async (options: DoctorOptions) => (await import("./commands/doctor.ts")).doctor(options, terminal));

  withSampling(
    program
      .command("chat")
      .description("a language model of the LLaMA family answers; with photos where it has a projector")
      .argument("<model>", "GGUF file, or a Hugging Face folder (config.json, safetensors, tokenizer)")
      .option("--prompt <text>", "ask this and end; without it, a line of standard input is a turn")
      .option("--image <photo...>", "JPEG, PNG or WebP: shown with the first turn, where its text has <image>, or first")
      .option("--system <text>", "what the assistant is told first")
      .option("--template <name>", "chat template: vicuna_v1 or plain; the model's own otherwise")
      .addOption(new Option("--max-tokens <n>", "most tokens of an answer").argParser(count).default(512)),
  )
    .option("--vision <path...>", "checkpoints of the vision encoder and the projector, where the model does not hold them")
    .addOption(prefixOption())
    .option("--ignore-extra", "leave out tensors that the graph does not use", false)
    .option("--init <rule>", "make the weights that no checkpoint gives: seeded:N; answers then mean nothing")
    .addOption(setOption())
    .addOption(deviceOption(["auto", "webgpu", "wasm"]))
    .addOption(quantiseOption("as the file has them"))
    .addOption(activationsOption())
    .addOption(new Option("--context <n>", "tokens the cache holds; the model's own limit or 2048, whichever is less").argParser(count))
    .addOption(new Option("--threads <n>", "threads to use").argParser(count))
    .addOption(new Option("--json", "print events, one a line: pieces as they come, then the answer with its figures").default(false))
    .addHelpText(
      "after",
      `
In a conversation, /image PATH shows a photo with what you say next, /reset begins anew, /help says so.

Examples:
  uhdc chat SmolLM2-135M-Instruct.gguf
  uhdc chat vicuna-7b/ --template vicuna_v1 --prompt "What is a resampler?"
  uhdc chat model.gguf --temperature 0.7 --top-p 0.9 --seed 1 --prompt "Tell me a story"
  uhdc chat model.gguf --beams 5 --prompt "Translate to French: good morning"
  uhdc chat llava-uhd-7b/ --vision clip.safetensors --ignore-extra --image photo.jpg --prompt "What is this?"
  uhdc chat model.gguf --prompt "Hello" --json | jq -j 'select(.event == "piece").text'`,
    )
    .action(async (model: string, options: ChatOptions) => (await import("./commands/chat.ts")).chat(model, options, terminal));

  declareTrain(program, terminal);

  return program;
}

async function main(): Promise<number> {
  try {
    await build().parseAsync();
    return 0;
  } catch (error) {
    terminal.done();
    if (error instanceof CliError) {
      if (error.message !== "") terminal.err(error.message);
      return error.code;
    }
    // Commander has already printed its message; help and version end with code 0.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    const { explainFailure } = await import("./failures.ts");
    const failure = explainFailure(error);
    terminal.err(failure.message);
    return failure.code;
  }
}

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // The reader went away (`uhdc … | head`): nothing more to say.
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

process.exitCode = await main();
