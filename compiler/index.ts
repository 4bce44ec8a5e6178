// The compiler's public interface: text to graph, graph to kernels and plan, those to an artefact's folder.
// Applications ship the runtime and an artefact instead; this is for tools that make artefacts.

export { artefactFiles, ArtefactWriteError, writeArtefact, type ArtefactParts } from "./artefact.ts";
export { loadProgram, type Config, type LoadOptions, type Program, type ShapeFunction } from "./check/index.ts";
export { compileGraph, type Compiled, type CompileOptions, type Declined } from "./compile.ts";
export { diagnosticsJson, renderDiagnostics, type Diagnostic } from "./diagnostics/index.ts";
export { printGraph } from "./ir/graph/print.ts";
export type { Graph } from "./ir/graph/types.ts";
export { bindPlan, type BoundPlan } from "./ir/plan/bind.ts";
export type { Plan } from "./ir/plan/types.ts";
export { compileTraining, TrainingCompileError, type CompiledTraining } from "./train/index.ts";
