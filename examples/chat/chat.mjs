// A conversation through the runtime alone: what an application ships is this, the package's runtime and an artefact.
//
//   npm run build && node examples/smollm2/fetch.mjs
//   npx uhdc compile graphs/llama.uhd --model examples/smollm2/model/SmolLM2-135M-Instruct.Q4_1.gguf -o out/smollm2
//   node examples/chat/chat.mjs out/smollm2 examples/smollm2/model/SmolLM2-135M-Instruct.Q4_1.gguf
//
// Each line of standard input is a turn. With graphs/llava-uhd-chat.uhd a line may begin with photos, @photo.jpg each:
//   @cat.jpg @dog.jpg Which of them is older?

import { createInterface } from "node:readline/promises";
import { load } from "uhd";

const [graph, checkpoint = graph] = process.argv.slice(2);
if (graph === undefined) {
  console.error("node chat.mjs ARTEFACT [CHECKPOINT]     CHECKPOINT: GGUF file or Hugging Face folder; default the artefact's folder");
  process.exit(2);
}

const model = await load({ graph, model: checkpoint });
try {
  const messages = [];
  for await (const line of createInterface({ input: process.stdin })) {
    const words = line.split(" ");
    const text = words.findIndex((word) => !word.startsWith("@"));
    const photos = words.slice(0, text < 0 ? words.length : text).map((word) => ({ type: "image", image: word.slice(1) }));
    messages.push({ role: "user", content: [...photos, { type: "text", text: words.slice(photos.length).join(" ") }] });
    let answer = "";
    for await (const piece of model.generate({ messages, maximumTokens: 200 })) {
      process.stdout.write(piece);
      answer += piece;
    }
    process.stdout.write("\n");
    messages.push({ role: "assistant", content: answer });
  }
} finally {
  await model.close();
}
