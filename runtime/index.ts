// The runtime's public interface: what an application ships beside an artefact. The compiler is not here. GPUs (webgpu.ts)
// and training (train.ts) are entries of their own, so that who needs neither ships neither.

export { artefactInMemory, loadArtefact, type Artefact } from "./artefact.ts";
export type {
  Binding,
  Command,
  Device,
  DeviceBuffer,
  KernelCode,
  KernelModule,
  SubmitOptions,
  WasmCode,
  WgslKernelCode,
  WgslVariant,
} from "./device.ts";
export { WasmDevice, type WasmDeviceOptions } from "./devices/wasm/device.ts";
export type { SimdChoice } from "./devices/wasm/module.ts";
export type { SpawnWorker, WorkerEvents, WorkerHandle } from "./devices/wasm/workers.ts";
export {
  AdapterError,
  ArtefactError,
  DeviceError,
  DeviceLostError,
  type DevicePlace,
  formatBytes,
  GgufError,
  ImageError,
  InputError,
  OutOfMemoryError,
  PickleError,
  ResourceError,
  SafetensorsError,
  TextError,
  TrainingError,
  UhdError,
  ValidationError,
  WeightsError,
} from "./errors.ts";
export { LanguageModel, type BatchPiece, type GenerateOptions, type Prompt, type PromptPart } from "./generate.ts";
export { contactSheet, pixelsOfPatches, type ContactSheet, type SheetPicture } from "./images/contact-sheet.ts";
export { decodeImage, defaultMaxPixels, type DecodeOptions, type ImageFormat, type Photo } from "./images/decode.ts";
export { pixelsOf, type Picture } from "./images/picture.ts";
export { load, Model, type Conversation, type GenerateRequest, type ModelOptions } from "./model/load.ts";
export { openTokenizer } from "./model/tokenizer.ts";
export { Session, type MemoryUse, type Progress, type RunOptions, type RunResult, type SessionOptions, type StageTime } from "./session.ts";
export type { ArrayOf, Tensor } from "./tensor.ts";
export {
  chatTemplates,
  imagesOf,
  imageToken,
  jinjaTemplate,
  plain,
  templateOf,
  vicunaV1,
  type ChatTemplate,
  type ImagePart,
  type JinjaLibrary,
  type JinjaOptions,
  type Message,
  type RenderOptions,
  type Role,
  type TextPart,
} from "./text/chat.ts";
export { tokenizerOfGgufFile } from "./text/gguf-file.ts";
export { ggufTokenizerArrays, type GgufMetadata } from "./text/gguf.ts";
export { encodePrompt, imagePlaceholder, layOut, layoutTables, type LayoutOptions, type SequenceLayout, type Span } from "./text/prompt.ts";
export { streamText, TextStream, type StreamOptions, type TokenBytes } from "./text/stream.ts";
export {
  checkIds,
  checkVocabulary,
  loadTokenizer,
  tokenizerFromGguf,
  tokenizerFromJson,
  tokenizerFromSentencePiece,
  type EncodeOptions,
  type Tokenizer,
  type TokenizerOptions,
  type TokenizersLibrary,
} from "./text/tokenizer.ts";
export { defaultInit, seededElements, type Init } from "./weights/init.ts";
export { openCheckpoint, type Checkpoint } from "./weights/checkpoint.ts";
export { openGguf, readGgufArray, type GgufArray, type GgufFile, type GgufTensor, type GgufValue } from "./weights/gguf.ts";
export type { WeightsOptions } from "./weights/load.ts";
export { encodeSafetensors, openSafetensors, writeSafetensors, type SafetensorsFile, type TensorEntry } from "./weights/safetensors.ts";
export type { OpenCheckpoint, StoredTensor } from "./weights/stored.ts";
