// Ollama's own JavaScript client.
// npm: ollama@0.6.4

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import {
  EMBEDDING,
  NOWHERE,
  ON_BOTH,
  ON_SECOND,
  breakNextStream,
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
  assert.deepEqual(names, ["llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b"]);
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

await runCase("generate, streamed", async () => {
  const stream = await client.generate({ model: ON_BOTH, prompt: "Say hello.", stream: true });
  await checkStream(stream, (part) => part.response);
});

await runCase("embed, one and several", async () => {
  const [one] = (await client.embed({ model: EMBEDDING, input: "llama" })).embeddings;
  const several = await client.embed({ model: EMBEDDING, input: ["llama", "alpaca", "guanaco"] });
  assert.deepEqual(several.embeddings.map((vector) => vector.length), Array(3).fill(one.length));
  assert.deepEqual(several.embeddings[0], one);
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
  const stream = await client.chat({ model: ON_BOTH, messages, stream: true, options: endless });
  const cancelled = async () => {
    for await (const _ of stream) stream.abort();
  };
  await assert.rejects(cancelled, { name: "AbortError" });
  await waitUntilIdle();
  assert.ok((await client.chat({ model: ON_BOTH, messages })).done);
});

await runCase("a broken stream is an error", async () => {
  await breakNextStream();
  const stream = await client.chat({ model: ON_SECOND, messages, stream: true, options: endless });
  let parts = 0;
  const broken = async () => {
    for await (const _ of stream) parts++;
  };
  await assert.rejects(broken);
  assert.ok(parts > 0, "it broke before it began");
  assert.ok((await client.chat({ model: ON_SECOND, messages })).done);
});
