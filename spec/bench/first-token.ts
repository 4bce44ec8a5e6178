// A process that loads a model and prints its first token: node first-token.js ENGINE MODEL THREADS ARTEFACT ID… Which token it
// was and the milliseconds since the process began go to standard output as JSON.

import { openEngine, type EngineName } from "./language.ts";

const [engine, model = "", threads = "1", artefact = "", ...ids] = process.argv.slice(2);
const opened = await openEngine(engine as EngineName, model, Number(threads), artefact);
const [token] = await opened.next(ids.map(Number), 1);
// performance.now() counts from the start of the process.
process.stdout.write(JSON.stringify({ token, milliseconds: performance.now() }), () => process.exit(0));
