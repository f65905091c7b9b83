// node transcribe.mjs FOLDER LANGUAGE WAV...: what transformers.js hears, as a line of JSON for each
// recording. FOLDER is all that it may read; LANGUAGE is `none` for a model that is told none.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.localModelPath = "/";

const [folder, language, ...recordings] = process.argv.slice(2);
const recogniser = await pipeline("automatic-speech-recognition", resolve(folder), { device: "cpu" });
const options = language === "none" ? {} : { language, task: "transcribe" };

for (const recording of recordings) {
  const samples = samplesOf(recording);
  const { input_features: inputs } = await recogniser.processor(samples);
  const { text } = await recogniser(samples, options);
  const tokens = inputs ? await generated(inputs) : null;
  console.log(JSON.stringify({ recording, tokens, text }));
}

// The tokens of a model that has a decoder.
async function generated(inputs) {
  return (await recogniser.model.generate({ inputs, ...options })).tolist()[0].map(Number);
}

// The samples of a WAV file of 16 kHz, mono, 16 bits.
function samplesOf(path) {
  const bytes = readFileSync(path);
  const format = chunk(bytes, "fmt ");
  const told = [0, 2, 14].map((place) => format.readUInt16LE(place)).concat(format.readUInt32LE(4));
  if (told.join() !== "1,1,16,16000") throw new Error(`${path}: no WAV of 16 kHz, mono, 16 bits`);
  const data = chunk(bytes, "data");
  return Float32Array.from({ length: data.length / 2 }, (_, i) => data.readInt16LE(2 * i) / 32768);
}

function chunk(bytes, name) {
  let at = 12;
  while (bytes.toString("latin1", at, at + 4) !== name) at += 8 + bytes.readUInt32LE(at + 4);
  return bytes.subarray(at + 8, at + 8 + bytes.readUInt32LE(at + 4));
}
