// The AI SDK with its provider for Ollama.
// npm: ai@6.0.326 ollama-ai-provider-v2@3.6.0 zod@4.6.7

import assert from "node:assert/strict";
import { APICallError, embed, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import {
  EMBEDDING,
  MORE_THAN_SLOTS,
  NOWHERE,
  ON_BOTH,
  ON_SECOND,
  TEXTS,
  breakNextStream,
  checkVectors,
  runCase,
  stallNextStream,
  waitUntilIdle,
} from "./cases.mjs";

const ollama = createOllama({ baseURL: `${process.env.OLLAMA_HOST}/api` });
const prompt = "Say hello.";
// Errors are printed unless somebody takes them, and the provider prints the error record of a broken stream.
const onError = () => {};
console.warn = () => {};

/** The text of a stream and its error: what goes wrong before it is a part of it, what breaks it is thrown. */
async function read(stream) {
  let text = "";
  let error;
  try {
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") text += part.text;
      if (part.type === "error") error = part.error;
    }
  } catch (thrown) {
    error = thrown;
  }
  return { text, error };
}

await runCase("chat, streamed", async () => {
  const stream = streamText({ model: ollama(ON_BOTH), prompt, onError });
  const parts = [];
  for await (const part of stream.textStream) parts.push(part);
  assert.ok(parts.length > 2 && parts.join("").trim());
  assert.equal(await stream.finishReason, "stop");
});

await runCase("chat, whole", async () => {
  const answer = await generateText({ model: ollama(ON_BOTH), prompt });
  assert.equal(answer.finishReason, "stop");
  assert.ok(answer.text.trim());
});

await runCase("thinking", async () => {
  const providerOptions = { ollama: { think: true } };
  const answer = await generateText({ model: ollama(ON_BOTH), prompt, providerOptions });
  assert.ok(answer.reasoningText.trim() && answer.text.trim());
});

await runCase("embed, one and several", async () => {
  const model = ollama.embedding(EMBEDDING);
  const { embedding } = await embed({ model, value: "llama" });
  checkVectors(embedding, (await embedMany({ model, values: TEXTS })).embeddings);
});

await runCase("tools", async () => {
  const weather = tool({
    description: "How the weather is in a city.",
    inputSchema: z.object({ city: z.string().default("Puno") }),
    execute: async ({ city }) => `Sun over ${city}.`,
  });
  const options = { model: ollama(ON_BOTH), prompt, tools: { weather }, stopWhen: stepCountIs(3) };
  const answer = await generateText(options);
  assert.deepEqual(answer.steps[0].toolResults.map((result) => result.output), ["Sun over Puno."]);
  assert.equal(answer.steps.length, 2);
  assert.ok(answer.text.trim());
});

await runCase("a model that one node holds", async () => {
  for (let i = 0; i < 6; i++) {
    assert.ok((await generateText({ model: ollama(ON_SECOND), prompt })).text.trim());
  }
});

await runCase("a model that no node holds", async () => {
  const refused = (error) => {
    assert.ok(APICallError.isInstance(error), String(error));
    assert.equal(error.statusCode, 404);
    assert.match(error.responseBody, /not found/);
    return true;
  };
  await assert.rejects(generateText({ model: ollama(NOWHERE), prompt }), refused);
  refused((await read(streamText({ model: ollama(NOWHERE), prompt, onError }))).error);
});

await runCase("cancelled in mid-stream", async () => {
  for (let i = 0; i < MORE_THAN_SLOTS; i++) {
    await stallNextStream();
    const abort = new AbortController();
    const stream = streamText({ model: ollama(ON_SECOND), prompt, onError, abortSignal: abort.signal });
    let parts = 0;
    for await (const part of stream.fullStream) {
      if (part.type !== "text-delta") continue;
      parts++;
      abort.abort();
    }
    assert.ok(parts > 0);
    await waitUntilIdle();
  }
  assert.ok((await generateText({ model: ollama(ON_SECOND), prompt })).text.trim());
});

await runCase("a broken stream is an error", async () => {
  await breakNextStream();
  const { text, error } = await read(streamText({ model: ollama(ON_SECOND), prompt, onError }));
  assert.ok(text.trim(), "it broke before it began");
  assert.ok(error, "no error");
  assert.ok((await generateText({ model: ollama(ON_SECOND), prompt })).text.trim());
});
