// Writes the artefact folder that spec/artefact.md defines: plan, kernels, manifest with hashes and a typed
// module made with ts-morph. Does not load artefacts (runtime/artefact.ts does).

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync, existsSync, readdirSync } from "node:fs";
import path from "node:path";
import type { DType } from "./ir/dtype.ts";
import { givenTypeText, type GivenType } from "./ir/plan/given.ts";
import type { Plan, PlanBuffer } from "./ir/plan/types.ts";
import type { WgslVariant } from "./compile.ts";

/** A plan with its kernels for the target it was made for. */
export type ArtefactParts = { readonly plan: Plan } & (
  { readonly modules: { readonly plain: Uint8Array; readonly relaxed: Uint8Array } } | { readonly wgsl: readonly WgslVariant[] }
);

/** Every name that a file of an artefact may have, whatever its target. */
const ownNames: ReadonlySet<string> = new Set([
  "plan.json",
  "kernels.plain.wasm",
  "kernels.relaxed.wasm",
  "kernels.wgsl.json",
  "index.ts",
  "index.js",
  "manifest.json",
]);

export class ArtefactWriteError extends Error {
  override readonly name = "ArtefactWriteError";
}

/** `llava_uhd` → `llavaUhd`. */
function camelCase(name: string): string {
  return name.replace(/[-_]+(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function pascalCase(name: string): string {
  const camel = camelCase(name);
  return camel.charAt(0).toUpperCase() + camel.slice(1);
}

/** Every file of the artefact, by name. Deterministic: the same plan gives the same bytes. */
export async function artefactFiles(parts: ArtefactParts): Promise<ReadonlyMap<string, Uint8Array>> {
  const encode = (text: string): Uint8Array => new TextEncoder().encode(text);
  const loaded = new Map<string, Uint8Array>([
    ["plan.json", encode(`${JSON.stringify(parts.plan)}\n`)],
    ...("wgsl" in parts
      ? [["kernels.wgsl.json", encode(`${JSON.stringify({ format: "uhd-wgsl", version: 1, variants: parts.wgsl })}\n`)] as const]
      : ([
          ["kernels.plain.wasm", parts.modules.plain],
          ["kernels.relaxed.wasm", parts.modules.relaxed],
        ] as const)),
  ]);
  const files: Record<string, { bytes: number; sha256: string }> = {};
  for (const [name, bytes] of loaded) files[name] = { bytes: bytes.byteLength, sha256: createHash("sha256").update(bytes).digest("hex") };
  const manifest = { format: "uhd-artefact", version: 1, name: parts.plan.name, files };
  return new Map([
    ...loaded,
    ["index.ts", encode(await typedModule(parts.plan))],
    ["index.js", encode(plainModule(parts.plan))],
    ["manifest.json", encode(`${JSON.stringify(manifest, null, 2)}\n`)],
  ]);
}

/**
 * Writes the artefact at `folder` and returns its files. What is there before stays until everything is written beside it:
 * a folder that holds nothing else is replaced whole; in one that also holds other files ours are replaced one by one, the
 * manifest last. Refuses a folder with files of these names that are not an artefact's. Throws ArtefactWriteError.
 */
export async function writeArtefact(folder: string, parts: ArtefactParts): Promise<ReadonlyMap<string, Uint8Array>> {
  const files = await artefactFiles(parts);
  const target = path.resolve(folder);
  try {
    const present = existsSync(target) ? readdirSync(target) : undefined;
    const clash = present?.find((name) => files.has(name));
    if (clash !== undefined && !holdsArtefact(target))
      throw new ArtefactWriteError(`${folder} has a file ${clash} that is not an artefact's; choose another folder`);
    if (present?.some((name) => !ownNames.has(name)) === true) replaceFiles(target, files);
    else replaceFolder(target, files);
  } catch (cause) {
    if (cause instanceof ArtefactWriteError) throw cause;
    throw new ArtefactWriteError(`${folder} cannot be written: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  return files;
}

function holdsArtefact(folder: string): boolean {
  const manifest = path.join(folder, "manifest.json");
  return existsSync(manifest) && readFileSync(manifest, "utf8").includes('"uhd-artefact"');
}

function replaceFolder(target: string, files: ReadonlyMap<string, Uint8Array>): void {
  mkdirSync(path.dirname(target), { recursive: true });
  const temporary = `${target}.${process.pid}.tmp`;
  try {
    mkdirSync(temporary);
    for (const [name, bytes] of files) writeFileSync(path.join(temporary, name), bytes);
    swap(temporary, target);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** Puts `made` at `target`; what was there goes away only after that, and comes back when it fails. */
function swap(made: string, target: string): void {
  const old = `${target}.${process.pid}.old`;
  const present = existsSync(target);
  if (present) renameSync(target, old);
  try {
    renameSync(made, target);
  } catch (error) {
    if (present) renameSync(old, target);
    throw error;
  }
  rmSync(old, { recursive: true, force: true });
}

function replaceFiles(target: string, files: ReadonlyMap<string, Uint8Array>): void {
  const temporary = (name: string): string => path.join(target, `.${name}.${process.pid}.tmp`);
  try {
    for (const [name, bytes] of files) writeFileSync(temporary(name), bytes);
    for (const name of files.keys()) renameSync(temporary(name), path.join(target, name));
    // Kernels for another target, which the new manifest does not list.
    for (const name of ownNames) if (!files.has(name)) rmSync(path.join(target, name), { force: true });
  } finally {
    for (const name of files.keys()) rmSync(temporary(name), { recursive: true, force: true });
  }
}

const arrayOf: Readonly<Record<DType, string>> = {
  f32: "Float32Array",
  f16: "Uint16Array",
  bf16: "Uint16Array",
  u8: "Uint8Array",
  i8: "Int8Array",
  i32: "Int32Array",
  bool: "Uint8Array",
};

function bufferOf(plan: Plan, id: number): PlanBuffer {
  const buffer = plan.buffers[id];
  if (buffer === undefined) throw new ArtefactWriteError(`plan ${plan.name} names buffer ${id}, which it does not have`);
  return buffer;
}

/** What both modules do: everything but the types. */
function statements(plan: Plan, cast: string): readonly string[] {
  const outputs = plan.outputs.map((o) => `${o.name}: outputs[${JSON.stringify(o.name)}]`).join(", ");
  return [
    "const session = await Session.create(await loadArtefact(here), options);",
    `return {
  async run(inputs, runOptions) {
    const { outputs } = await session.run({ ...inputs }, runOptions);
    return { ${outputs} }${cast};
  },
  async [Symbol.asyncDispose]() {
    await session[Symbol.asyncDispose]();
  },
};`,
  ];
}

const here = 'new URL(".", import.meta.url)';

function heading(plan: Plan): string {
  return `// The graph ${plan.name}, compiled by uhdc. Generated: change the .uhd file and compile again.\n\n`;
}

function purpose(plan: Plan): string {
  return `Loads the kernels and the weights of ${plan.name}. Close it with \`await using\` or \`[Symbol.asyncDispose]()\`.`;
}

/** Weights must come from somewhere, unless there are none. */
function defaultOptions(plan: Plan): "{}" | undefined {
  return plan.params.length === 0 ? "{}" : undefined;
}

function plainModule(plan: Plan): string {
  const initial = defaultOptions(plan);
  const body = statements(plan, "")
    .join("\n")
    .replaceAll(/^(?=.)/gm, "  ");
  return `${heading(plan)}import { loadArtefact, Session } from "uhd";

const here = ${here};

/** ${purpose(plan)} */
export async function ${camelCase(plan.name)}(options${initial === undefined ? "" : ` = ${initial}`}) {
${body}
}
`;
}

/** The module with types. ts-morph is loaded only here: it takes a third of a second. */
async function typedModule(plan: Plan): Promise<string> {
  const { IndentationText, Project, VariableDeclarationKind } = await import("ts-morph");
  const project = new Project({
    useInMemoryFileSystem: true,
    skipLoadingLibFiles: true,
    manipulationSettings: { indentationText: IndentationText.TwoSpaces },
  });
  const type = pascalCase(plan.name);
  const file = project.createSourceFile("index.ts", "");
  file.addImportDeclaration({
    leadingTrivia: heading(plan),
    moduleSpecifier: "uhd",
    namedImports: ["loadArtefact", "Session", { name: "SessionOptions", isTypeOnly: true }, { name: "Tensor", isTypeOnly: true }],
  });
  const property = (entry: { readonly name: string; readonly buffer: number }) => {
    const buffer = bufferOf(plan, entry.buffer);
    return {
      name: entry.name,
      type: `Tensor<"${buffer.dtype}">`,
      isReadonly: true,
      docs: [`${buffer.dtype}[${buffer.shape.join(", ")}], row-major, data in a ${arrayOf[buffer.dtype]}`],
    };
  };
  const integers = plan.symbols.flatMap(({ name, lower, upper, argument }) =>
    argument === true ? [{ name, type: "number", isReadonly: true, docs: [`an integer, ${lower}…${upper ?? ""}`] }] : [],
  );
  const values = (plan.host.given ?? []).map(({ name, type: of }) => ({
    name,
    type: typeOfGiven(of),
    isReadonly: true,
    docs: [givenTypeText(of)],
  }));
  file.addInterface({ name: `${type}Inputs`, isExported: true, properties: [...plan.inputs.map(property), ...integers, ...values] });
  file.addInterface({ name: `${type}Outputs`, isExported: true, properties: plan.outputs.map(property) });
  file.addInterface({
    name: `${type}Session`,
    isExported: true,
    extends: ["AsyncDisposable"],
    methods: [
      {
        name: "run",
        docs: ["Runs the graph once. Throws a typed error when an input does not fit, or when `signal` aborts."],
        parameters: [
          { name: "inputs", type: `${type}Inputs` },
          { name: "options", type: "{ readonly signal?: AbortSignal }", hasQuestionToken: true },
        ],
        returnType: `Promise<${type}Outputs>`,
      },
    ],
  });
  file.addVariableStatement({ declarationKind: VariableDeclarationKind.Const, declarations: [{ name: "here", initializer: here }] });
  const initializer = defaultOptions(plan);
  file.addFunction({
    name: camelCase(plan.name),
    isExported: true,
    isAsync: true,
    docs: [purpose(plan)],
    parameters: [{ name: "options", type: "SessionOptions", ...(initializer === undefined ? {} : { initializer }) }],
    returnType: `Promise<${type}Session>`,
    statements: [...statements(plan, ` as ${type}Outputs`)],
  });
  return file.getFullText();
}

/** A value of shape code as TypeScript has it. */
function typeOfGiven(t: GivenType): string {
  switch (t.k) {
    case "int":
    case "float":
      return "number";
    case "bool":
      return "boolean";
    case "string":
      return "string";
    case "list":
      return `readonly (${typeOfGiven(t.of)})[]`;
    case "tuple":
      return `readonly [${t.items.map(typeOfGiven).join(", ")}]`;
    case "record":
      return `{ ${t.fields.map((f) => `readonly ${f.name}: ${typeOfGiven(f.type)}`).join("; ")} }`;
    default:
      return t satisfies never;
  }
}
