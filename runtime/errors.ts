// The runtime's errors, one class for each thing that can be wrong, so that a program can tell a bad
// photo from a bad checkpoint. Aborting is not among them: an aborted call rejects with `signal.reason`.

/** What every error of the runtime is. `code` is stable; the text is for people. */
export abstract class UhdError extends Error {
  abstract readonly code: string;
}

/** An input of a run is missing, unknown, or of the wrong dtype, shape or size. */
export class InputError extends UhdError {
  override readonly name = "InputError";
  readonly code = "input";
}

/** An image file that is empty, truncated, of an unknown format, or larger than the limit. */
export class ImageError extends UhdError {
  override readonly name = "ImageError";
  readonly code = "image";
}

/** A safetensors file (or its index) that breaks the format. */
export class SafetensorsError extends UhdError {
  override readonly name = "SafetensorsError";
  readonly code = "safetensors";
}

/** A GGUF file that breaks the format, or holds what cannot be read. */
export class GgufError extends UhdError {
  override readonly name = "GgufError";
  readonly code = "gguf";
}

/** A PyTorch archive that is damaged, or whose pickle asks for anything but tensors. */
export class PickleError extends UhdError {
  override readonly name = "PickleError";
  readonly code = "pickle";
}

/** Text that is not Unicode, a tokenizer or chat template that cannot be used, or a prompt that does not fit its images or model. */
export class TextError extends UhdError {
  override readonly name = "TextError";
  readonly code = "text";
}

/** Every way in which a checkpoint does not fit the graph, in one error. */
export class WeightsError extends UhdError {
  override readonly name = "WeightsError";
  readonly code = "weights";
  /** Names the graph needs and the checkpoint lacks. */
  readonly missing: readonly string[];
  /** Names in the checkpoint that the graph does not use. */
  readonly extra: readonly string[];
  /** `name: expected f32[4, 3], found f32[3, 4]`, one for each tensor of the wrong shape or dtype. */
  readonly misshapen: readonly string[];
  constructor(
    message: string,
    lists: { readonly missing: readonly string[]; readonly extra: readonly string[]; readonly misshapen: readonly string[] },
  ) {
    super(message);
    this.missing = lists.missing;
    this.extra = lists.extra;
    this.misshapen = lists.misshapen;
  }
}

/** An artefact that is incomplete, altered, of an unknown version, or does not agree with itself. */
export class ArtefactError extends UhdError {
  override readonly name = "ArtefactError";
  readonly code = "artefact";
}

/** More memory is needed than there is. Thrown before anything is allocated where that can be known. */
export class ResourceError extends UhdError {
  override readonly name = "ResourceError";
  readonly code = "resource";
  /** Bytes needed and bytes to be had. */
  readonly needed: number;
  readonly available: number;
  constructor(message: string, needed: number, available: number, options?: ErrorOptions) {
    super(message, options);
    this.needed = needed;
    this.available = available;
  }
}

/** The device failed: a kernel trapped, a worker died, or it was used after it was closed. */
export class DeviceError extends UhdError {
  override readonly name = "DeviceError";
  readonly code = "device";
}

/** A training step that cannot be taken: its loss or gradient is not finite, or it is past the last step. */
export class TrainingError extends UhdError {
  override readonly name = "TrainingError";
  readonly code = "training";
}

/** "1.5 GiB", "12 KiB": bytes for people. */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ""}`;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
