// How uhdc ends. Every command either returns, or throws one of these; nothing else calls process.exit.

/** 0 ok, 1 the program or its inputs are wrong, 2 the command line is wrong, 3 the device cannot do it. */
export type ExitCode = 0 | 1 | 2 | 3;

/** Ends the command with `code` after printing the message (if any) to stderr. */
export class CliError extends Error {
  override readonly name = "CliError";
  readonly code: ExitCode;
  constructor(code: ExitCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

export function usageError(message: string): CliError {
  return new CliError(2, message);
}
