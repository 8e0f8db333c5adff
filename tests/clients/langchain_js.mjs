// LangChain's Ollama package for JavaScript.
// npm: @langchain/ollama@1.3.0 @langchain/core@1.4.0 zod@4.6.7

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOllama, Ollama, OllamaEmbeddings } from "@langchain/ollama";
import { z } from "zod";
import {
  EMBEDDING,
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

// Node 18, which is what Debian has, does not show it by itself.
globalThis.crypto ??= webcrypto;
const settings = { baseUrl: process.env.OLLAMA_HOST, maxRetries: 0 };
const chat = (model, options = {}) => new ChatOllama({ model, ...settings, ...options });

async function checkStream(stream, text) {
  const parts = [];
  for await (const part of stream) parts.push(text(part));
  assert.ok(parts.length > 2 && parts.join("").trim());
}

await runCase("chat, streamed", async () => {
  await checkStream(await chat(ON_BOTH).stream("Say hello."), (part) => part.content);
});

await runCase("chat, whole", async () => {
  const answer = await chat(ON_BOTH).invoke("Say hello.");
  assert.ok(answer.content.trim());
  assert.equal(answer.response_metadata.done_reason, "stop");
});

await runCase("thinking", async () => {
  const answer = await chat(ON_BOTH, { think: true }).invoke("Say hello.");
  assert.ok(answer.additional_kwargs.reasoning_content.trim());
});

await runCase("generate, streamed", async () => {
  const llm = new Ollama({ model: ON_BOTH, ...settings });
  await checkStream(await llm.stream("Say hello."), (part) => part);
});

await runCase("embed, one and several", async () => {
  const embeddings = new OllamaEmbeddings({ model: EMBEDDING, ...settings });
  checkVectors(await embeddings.embedQuery("llama"), await embeddings.embedDocuments(TEXTS));
});

await runCase("tools", async () => {
  const weather = tool(async ({ city }) => `Sun over ${city}.`, {
    name: "weather",
    description: "How the weather is in a city.",
    schema: z.object({ city: z.string().default("Puno") }),
  });
  const model = chat(ON_BOTH).bindTools([weather]);
  const hello = new HumanMessage("Say hello.");
  const asked = await model.invoke([hello]);
  assert.deepEqual(asked.tool_calls.map((call) => call.name), ["weather"]);
  const said = await weather.invoke(asked.tool_calls[0]);
  assert.equal(said.content, "Sun over Puno.");
  const answer = await model.invoke([hello, asked, said]);
  assert.ok(answer.content.trim() && answer.tool_calls.length === 0);
});

await runCase("a model that one node holds", async () => {
  for (let i = 0; i < 6; i++) {
    const answer = await chat(ON_SECOND).invoke("Say hello.");
    assert.equal(answer.response_metadata.model, ON_SECOND);
  }
});

await runCase("a model that no node holds", async () => {
  const expected = { name: "ResponseError", status_code: 404, error: /not found/ };
  await assert.rejects(chat(NOWHERE).invoke("Say hello."), expected);
  await assert.rejects(async () => {
    for await (const _ of await chat(NOWHERE).stream("Say hello."));
  }, expected);
});

await runCase("cancelled in mid-stream", async () => {
  for (let i = 0; i < MORE_THAN_SLOTS; i++) {
    // Its own signal ends the loop here but leaves the connection open; only the client underneath closes it.
    const model = chat(ON_SECOND, { numPredict: 20_000 });
    const stream = await model.stream("Say hello.");
    let parts = 0;
    const cancelled = async () => {
      for await (const _ of stream) {
        parts++;
        model.client.abort();
      }
    };
    await assert.rejects(cancelled);
    assert.ok(parts > 0);
    await waitUntilIdle();
  }
  assert.ok((await chat(ON_SECOND).invoke("Say hello.")).content.trim());
});

await runCase("a broken stream is an error", async () => {
  await breakNextStream();
  await breaks(await chat(ON_SECOND).stream("Say hello."));
  assert.ok((await chat(ON_SECOND).invoke("Say hello.")).content.trim());
});
