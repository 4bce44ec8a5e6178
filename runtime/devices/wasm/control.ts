// The words through which the main thread and the workers speak, at the bottom of the shared memory.
// Words that different threads write lie on different cache lines.
//
// A job is one dispatch. GENERATION is odd while a job is open. A worker that sees a new odd number adds
// itself to ACTIVE and looks again: if the number still stands it takes part, taking CHUNK units at a time
// from NEXT. The main thread takes units too; when none are left it makes GENERATION even and waits until
// ACTIVE is 0. A worker that was not scheduled in the meantime is thus never waited for: it finds the job
// closed. All accesses are sequentially consistent, so one of the two always sees the other.

/** Word numbers (i32) from `controlAddress`. */
export const control = {
  GENERATION: 0,
  NEXT: 16,
  ACTIVE: 32,
  /** How many workers wait on GENERATION; the main thread wakes them only when there are some. */
  SLEEPERS: 48,
  /** How many messages have been posted to each worker. A worker that has handled fewer goes back to its event loop. */
  MESSAGES: 64,
  /** 1 after a kernel trapped in a worker. */
  TRAPPED: 80,
  /** 1 during a submission: workers then spin instead of waiting, since the next job is microseconds away. */
  RUNNING: 96,
  FUNCTION: 112,
  ARGUMENTS: 113,
  UNITS: 114,
  CHUNK: 115,
  /** Thread t (0 is the main thread) has its scratch at SCRATCH + t · SCRATCH_STRIDE bytes. */
  SCRATCH: 116,
  SCRATCH_STRIDE: 117,
} as const;

/** Not 0, so that a null pointer never means the control block. */
export const controlAddress = 64;
export const controlWords = 128;
/** Where the i32 arguments of the current dispatch stand, and how many there may be. */
export const argumentsAddress = 4096;
export const maximumArguments = 4096;
/** The first address for buffers. */
export const heapAddress = 65536;

/** How long a worker spins before it waits, in milliseconds: during a submission, and between submissions. */
export const spin = { running: 2, idle: 0.05 } as const;
