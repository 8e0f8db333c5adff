// Ollama's own JavaScript client.
// npm: ollama@0.6.4

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import {
  EMBEDDING,
  EVERY_MODEL,
  MORE_THAN_SLOTS,
  NOWHERE,
  ON_BOTH,
  ON_SECOND,
  TEXTS,
  breakNextStream,
  breaks,
  checkVectors,
  runCase,
  waitUntilIdle,
} from "./cases.mjs";

const client = new Ollama({ host: process.env.OLLAMA_HOST });
const messages = [{ role: "user", content: "Say hello." }];
const endless = { num_predict: 20_000 };

async function checkStream(stream, text) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  assert.ok(parts.length > 2, `${parts.length} parts`);
  assert.equal(parts.findIndex((part) => part.done), parts.length - 1);
  assert.ok(parts.map(text).join("").trim());
}

await runCase("list", async () => {
  const names = (await client.list()).models.map((model) => model.name).sort();
  assert.deepEqual(names, EVERY_MODEL);
});

await runCase("show", async () => {
  for (const model of [ON_BOTH, ON_SECOND]) {
    const shown = await client.show({ model });
    assert.ok(shown.details.family);
    assert.ok(shown.capabilities.includes("completion"));
  }
});

await runCase("chat, streamed", async () => {
  const stream = await client.chat({ model: ON_BOTH, messages, stream: true });
  await checkStream(stream, (part) => part.message.content);
});

await runCase("chat, whole", async () => {
  const answer = await client.chat({ model: ON_BOTH, messages });
  assert.ok(answer.done && answer.message.content.trim());
});

await runCase("thinking", async () => {
  const { message } = await client.chat({ model: ON_BOTH, messages, think: true });
  assert.ok(message.thinking.trim() && message.content.trim());
});

await runCase("generate, streamed", async () => {
  const stream = await client.generate({ model: ON_BOTH, prompt: "Say hello.", stream: true });
  await checkStream(stream, (part) => part.response);
});

await runCase("embed, one and several", async () => {
  const [one] = (await client.embed({ model: EMBEDDING, input: "llama" })).embeddings;
  checkVectors(one, (await client.embed({ model: EMBEDDING, input: TEXTS })).embeddings);
});

await runCase("tools", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const weather = { name: "weather", description: "How the weather is in a city.", parameters };
  const tools = [{ type: "function", function: weather }];
  const { message } = await client.chat({ model: ON_BOTH, messages, tools });
  assert.deepEqual(message.tool_calls.map((call) => call.function.name), ["weather"]);
  const said = { role: "tool", tool_name: "weather", content: "Sun over Puno." };
  const answer = await client.chat({ model: ON_BOTH, messages: [...messages, message, said], tools });
  assert.ok(answer.message.content.trim() && !answer.message.tool_calls);
});

await runCase("a model that one node holds", async () => {
  for (let i = 0; i < 6; i++) {
    assert.equal((await client.chat({ model: ON_SECOND, messages })).model, ON_SECOND);
  }
});

await runCase("a model that no node holds", async () => {
  for (const stream of [false, true]) {
    const refused = client.chat({ model: NOWHERE, messages, stream });
    await assert.rejects(refused, { name: "ResponseError", status_code: 404, error: /not found/ });
  }
});

await runCase("cancelled in mid-stream", async () => {
  for (let i = 0; i < MORE_THAN_SLOTS; i++) {
    const stream = await client.chat({ model: ON_SECOND, messages, stream: true, options: endless });
    const cancelled = async () => {
      for await (const _ of stream) stream.abort();
    };
    await assert.rejects(cancelled, { name: "AbortError" });
    await waitUntilIdle();
  }
  assert.ok((await client.chat({ model: ON_SECOND, messages })).done);
});

await runCase("a broken stream is an error", async () => {
  await breakNextStream();
  await breaks(await client.chat({ model: ON_SECOND, messages, stream: true }));
  assert.ok((await client.chat({ model: ON_SECOND, messages })).done);
});
