// One full-size run with the runtime alone, and how much memory the process took at most. Arguments: the artefact's
// folder, threads. Writes one line of JSON, in bytes.

import { loadArtefact } from "../../runtime/artefact.ts";
import { Session } from "../../runtime/session.ts";
import { photo } from "./random.ts";

const [folder = "", threads = "2"] = process.argv.slice(2);
const [width, height] = [672, 1008] as const;
const artefact = await loadArtefact(folder);
await using session = await Session.create(artefact, { threads: Number(threads), init: { seed: 1 } });
const image = { dtype: "u8", shape: [height, width, 3], data: photo(width, height, 3) } as const;
const { memory } = await session.run({ image });
// maxRSS is in kilobytes on every system that Node knows.
const resident = process.resourceUsage().maxRSS * 1024;
process.stdout.write(`${JSON.stringify({ resident, ...memory })}\n`);
