// Writes ONNX models: as much of the protobuf wire format, and of ModelProto, as the benches' peers need. Weights lie
// in the model, or beside it as external data so that a large model is never copied whole. Does not read or check
// models: the peers do when they load them.

/** An element type that the models use, with its number in TensorProto.DataType. */
const elementType = { float: 1, uint8: 2, int32: 6, int64: 7 } as const;
type ElementType = keyof typeof elementType;

export interface OnnxTensor {
  readonly type: ElementType;
  readonly dims: readonly number[];
  readonly data: Float32Array | Uint8Array | Int32Array | BigInt64Array;
}

type Attribute = { readonly float: number } | { readonly int: number } | { readonly ints: readonly number[] };

interface NodeOptions {
  readonly attributes?: Readonly<Record<string, Attribute>>;
  /** Default: ONNX itself. */
  readonly domain?: string;
}

export interface EncodedModel {
  readonly model: Uint8Array;
  /** Bytes of the initialisers that lie beside the model, by the location it gives. */
  readonly external: ReadonlyMap<string, Uint8Array>;
}

/** Initialisers of this many bytes and more lie beside the model, when that is asked for. */
const externalFrom = 1024;
const wire = { varint: 0, bytes: 2, fixed32: 5 } as const;

/** One protobuf message: its parts in order, so that large tensors are copied once, at the end. */
export class Message {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  #push(part: Uint8Array): void {
    this.#parts.push(part);
    this.#length += part.byteLength;
  }

  #varint(value: number): void {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is no varint`);
    const out: number[] = [];
    let rest = value;
    while (rest >= 128) {
      out.push((rest % 128) + 128);
      rest = Math.floor(rest / 128);
    }
    this.#push(Uint8Array.of(...out, rest));
  }

  #tag(field: number, type: number): void {
    this.#varint(field * 8 + type);
  }

  int(field: number, value: number): this {
    this.#tag(field, wire.varint);
    this.#varint(value);
    return this;
  }

  float(field: number, value: number): this {
    this.#tag(field, wire.fixed32);
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    this.#push(bytes);
    return this;
  }

  bytes(field: number, value: Uint8Array): this {
    this.#tag(field, wire.bytes);
    this.#varint(value.byteLength);
    this.#push(value);
    return this;
  }

  text(field: number, value: string): this {
    return this.bytes(field, new TextEncoder().encode(value));
  }

  message(field: number, value: Message): this {
    this.#tag(field, wire.bytes);
    this.#varint(value.length);
    for (const part of value.#parts) this.#push(part);
    return this;
  }

  encode(): Uint8Array {
    const out = new Uint8Array(this.#length);
    let at = 0;
    for (const part of this.#parts) {
      out.set(part, at);
      at += part.byteLength;
    }
    return out;
  }
}

interface Initializer extends OnnxTensor {
  readonly name: string;
}

/** A graph under construction. Values are known by their names; nodes must be added in order. */
export class OnnxGraph {
  readonly #name: string;
  readonly #nodes: Message[] = [];
  readonly #initializers = new Map<string, Initializer>();
  readonly #inputs: Message[] = [];
  readonly #outputs: Message[] = [];
  readonly #domains = new Set<string>();

  constructor(name: string) {
    this.#name = name;
  }

  input(name: string, type: ElementType, dims: readonly number[]): string {
    this.#inputs.push(valueInfo(name, type, dims));
    return name;
  }

  output(name: string, type: ElementType, dims: readonly number[]): void {
    this.#outputs.push(valueInfo(name, type, dims));
  }

  initializer(name: string, tensor: OnnxTensor): string {
    if (this.#initializers.has(name)) throw new Error(`two initialisers are called ${name}`);
    const count = tensor.dims.reduce((n, d) => n * d, 1);
    if (count !== tensor.data.length) throw new Error(`${name} has ${tensor.data.length} elements and a shape of ${count}`);
    this.#initializers.set(name, { name, ...tensor });
    return name;
  }

  /** A node with one output; an empty name among the inputs is one that is not given. */
  node(op: string, inputs: readonly string[], options: NodeOptions = {}): string {
    const output = `${op}_${this.#nodes.length}`;
    const node = new Message();
    for (const input of inputs) node.text(1, input);
    node.text(2, output).text(3, output).text(4, op);
    for (const [name, value] of Object.entries(options.attributes ?? {})) node.message(5, attribute(name, value));
    if (options.domain !== undefined) {
      node.text(7, options.domain);
      this.#domains.add(options.domain);
    }
    this.#nodes.push(node);
    return output;
  }

  /** Shapes are constants: one initialiser for each. */
  reshape(value: string, dims: readonly number[]): string {
    return this.node("Reshape", [value, this.ints(dims)]);
  }

  /** An int64 vector. */
  ints(values: readonly number[]): string {
    const name = `ints_${values.join("_")}`;
    if (!this.#initializers.has(name))
      this.initializer(name, { type: "int64", dims: [values.length], data: BigInt64Array.from(values, (v) => BigInt(v)) });
    return name;
  }

  encode(weights: "inside" | "beside"): EncodedModel {
    const external = new Map<string, Uint8Array>();
    const graph = new Message();
    for (const node of this.#nodes) graph.message(1, node);
    graph.text(2, this.#name);
    for (const tensor of this.#initializers.values()) graph.message(5, initializer(tensor, weights, external));
    for (const input of this.#inputs) graph.message(11, input);
    for (const output of this.#outputs) graph.message(12, output);
    const model = new Message().int(1, 8).text(2, "uhd").message(7, graph).message(8, opset("", 17));
    for (const domain of this.#domains) model.message(8, opset(domain, 1));
    return { model: model.encode(), external };
  }
}

function opset(domain: string, version: number): Message {
  return new Message().text(1, domain).int(2, version);
}

function valueInfo(name: string, type: ElementType, dims: readonly number[]): Message {
  const shape = new Message();
  for (const d of dims) shape.message(1, new Message().int(1, d));
  const tensor = new Message().int(1, elementType[type]).message(2, shape);
  return new Message().text(1, name).message(2, new Message().message(1, tensor));
}

function attribute(name: string, value: Attribute): Message {
  const out = new Message().text(1, name);
  if ("float" in value) return out.float(2, value.float).int(20, 1);
  if ("int" in value) return out.int(3, value.int).int(20, 2);
  for (const i of value.ints) out.int(8, i);
  return out.int(20, 7);
}

function initializer(tensor: Initializer, weights: "inside" | "beside", external: Map<string, Uint8Array>): Message {
  const { name, data } = tensor;
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const out = new Message();
  for (const d of tensor.dims) out.int(1, d);
  out.int(2, elementType[tensor.type]).text(8, name);
  if (weights === "inside" || bytes.byteLength < externalFrom) return out.bytes(9, bytes);
  external.set(name, bytes);
  const entries = { location: name, offset: "0", length: String(bytes.byteLength) };
  for (const [key, value] of Object.entries(entries)) out.message(13, new Message().text(1, key).text(2, value));
  return out.int(14, 1);
}
