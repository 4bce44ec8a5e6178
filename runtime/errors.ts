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

/** What a device was doing when it failed. */
export interface DevicePlace {
  /** The kernel, where it is known to be one. */
  readonly kernel?: string | undefined;
  /** The places in `.uhd` files that it comes from, as a plan has them: `file:line:column`, the calls around it behind ` < `. */
  readonly sources?: readonly string[] | undefined;
}

/** "kernel map_3 (vit.uhd:12:5)"; undefined where no kernel is known. */
export function placeText({ kernel, sources = [] }: DevicePlace): string | undefined {
  const lines = [...new Set(sources.map((s) => s.split(" < ")[0] ?? s))];
  const more = lines.length > 3 ? ", …" : "";
  return kernel === undefined ? undefined : `kernel ${kernel}${lines.length === 0 ? "" : ` (${lines.slice(0, 3).join(", ")}${more})`}`;
}

/** More memory is needed than there is. Thrown before anything is allocated where that can be known. */
export class ResourceError extends UhdError {
  override readonly name: string = "ResourceError";
  readonly code: string = "resource";
  /** Bytes needed and bytes to be had. */
  readonly needed: number;
  readonly available: number;
  constructor(message: string, needed: number, available: number, options?: ErrorOptions) {
    super(message, options);
    this.needed = needed;
    this.available = available;
  }
}

/** A device refused memory although there seemed to be enough. What was being done is undone. */
export class OutOfMemoryError extends ResourceError {
  override readonly name = "OutOfMemoryError";
  override readonly code = "out-of-memory";
  readonly place: DevicePlace;
  constructor(message: string, needed: number, place: DevicePlace = {}, options?: ErrorOptions) {
    super(withPlace(message, place), needed, 0, options);
    this.place = place;
  }
}

/** The device failed: a kernel trapped, a worker died, or it was used after it was closed. */
export class DeviceError extends UhdError {
  override readonly name: string = "DeviceError";
  readonly code: string = "device";
  readonly place: DevicePlace;
  constructor(message: string, options?: ErrorOptions, place: DevicePlace = {}) {
    super(withPlace(message, place), options);
    this.place = place;
  }
}

/** The device does not accept a kernel or a command: a defect of the compiler, of the artefact, or of a driver. */
export class ValidationError extends DeviceError {
  override readonly name = "ValidationError";
  override readonly code = "validation";
}

/** The device went away: unplugged, reset by its driver, or destroyed. A new session on a new device gives the same results. */
export class DeviceLostError extends DeviceError {
  override readonly name = "DeviceLostError";
  override readonly code = "lost";
}

/** There is no device of the kind that was asked for, or none that can do what is needed. `uhdc doctor` says more. */
export class AdapterError extends DeviceError {
  override readonly name = "AdapterError";
  override readonly code = "adapter";
}

function withPlace(message: string, place: DevicePlace): string {
  const text = placeText(place);
  return text === undefined ? message : `${text}: ${message}`;
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
