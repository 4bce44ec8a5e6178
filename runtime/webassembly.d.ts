// The part of the WebAssembly JavaScript interface that this project uses. The compiler's own "DOM"
// library would bring every browser type into code that must also run in Node. Not emitted to dist.

declare namespace WebAssembly {
  interface MemoryDescriptor {
    /** Pages of 64 KiB. */
    readonly initial: number;
    readonly maximum?: number;
    readonly shared?: boolean;
  }
  interface Memory {
    readonly buffer: ArrayBuffer | SharedArrayBuffer;
    /** Adds pages; gives the number there were. Throws RangeError when there is no room. */
    grow(pages: number): number;
  }
  // eslint-disable-next-line no-var -- an ambient value merged with the interface of the same name
  var Memory: { new (descriptor: MemoryDescriptor): Memory };

  interface Module {
    readonly [Symbol.toStringTag]?: string;
  }
  interface ModuleExportDescriptor {
    readonly name: string;
    readonly kind: "function" | "table" | "memory" | "global";
  }
  // eslint-disable-next-line no-var
  var Module: {
    new (bytes: Uint8Array | ArrayBuffer): Module;
    exports(module: Module): readonly ModuleExportDescriptor[];
  };

  interface Instance {
    readonly exports: Readonly<Record<string, unknown>>;
  }
  // eslint-disable-next-line no-var
  var Instance: { new (module: Module, imports?: Readonly<Record<string, Readonly<Record<string, unknown>>>>): Instance };

  // eslint-disable-next-line no-var
  var RuntimeError: { new (message?: string): Error };
  // eslint-disable-next-line no-var
  var CompileError: { new (message?: string): Error };

  function validate(bytes: Uint8Array | ArrayBuffer): boolean;
  function compile(bytes: Uint8Array | ArrayBuffer): Promise<Module>;
  function instantiate(module: Module, imports?: Readonly<Record<string, Readonly<Record<string, unknown>>>>): Promise<Instance>;
}
