// OpenAI's JavaScript SDK.
// npm: openai@6.49.0

import assert from "node:assert/strict";
import OpenAI from "openai";
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
  stallNextStream,
  waitUntilIdle,
} from "./cases.mjs";

const client = new OpenAI({ baseURL: `${process.env.OLLAMA_HOST}/v1`, apiKey: "ollama", timeout: 20_000 });
const hello = [{ role: "user", content: "Say hello." }];

function chat(model, options = {}) {
  return client.chat.completions.create({ model, messages: hello, ...options });
}

async function checkStream(stream, text) {
  const choices = [];
  for await (const chunk of stream) choices.push(chunk.choices[0]);
  assert.ok(choices.length > 2, `${choices.length} chunks`);
  assert.equal(choices.findIndex((choice) => choice.finish_reason === "stop"), choices.length - 1);
  assert.ok(choices.map(text).join("").trim());
}

await runCase("list", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.deepEqual(names.sort(), EVERY_MODEL);
});

await runCase("show", async () => {
  for (const model of ["llama3.2:latest", ON_SECOND]) {
    assert.equal((await client.models.retrieve(model)).id, model);
  }
});

await runCase("chat, streamed", async () => {
  await checkStream(await chat(ON_BOTH, { stream: true }), (choice) => choice.delta.content);
});

await runCase("chat, whole", async () => {
  const [choice] = (await chat(ON_BOTH)).choices;
  assert.equal(choice.finish_reason, "stop");
  assert.ok(choice.message.content.trim());
});

await runCase("generate, streamed", async () => {
  const stream = await client.completions.create({ model: ON_BOTH, prompt: "Say hello.", stream: true });
  await checkStream(stream, (choice) => choice.text);
});

await runCase("responses, streamed", async () => {
  const stream = await client.responses.create({ model: ON_BOTH, input: "Say hello.", stream: true });
  const events = [];
  for await (const event of stream) events.push(event);
  assert.equal(events[0].type, "response.created");
  assert.equal(events.at(-1).type, "response.completed");
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.ok(deltas.map((event) => event.delta).join("").trim());
});

await runCase("responses, whole", async () => {
  const answer = await client.responses.create({ model: ON_BOTH, input: "Say hello." });
  assert.equal(answer.status, "completed");
  assert.ok(answer.output_text.trim());
});

await runCase("embed, one and several", async () => {
  const embed = async (input) => {
    const { data } = await client.embeddings.create({ model: EMBEDDING, input });
    return data.map((vector) => vector.embedding);
  };
  const [one] = await embed("llama");
  checkVectors(one, await embed(TEXTS));
});

await runCase("tools", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const [{ message }] = (await chat(ON_BOTH, { tools })).choices;
  assert.deepEqual(message.tool_calls.map((call) => call.function.name), ["weather"]);
  const said = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "Sun over Puno." };
  const [answer] = (await chat(ON_BOTH, { tools, messages: [...hello, message, said] })).choices;
  assert.equal(answer.finish_reason, "stop");
  assert.ok(answer.message.content.trim());
});

await runCase("a model that one node holds", async () => {
  for (let i = 0; i < 6; i++) assert.equal((await chat(ON_SECOND)).model, ON_SECOND);
});

await runCase("a model that no node holds", async () => {
  for (const stream of [false, true]) {
    await assert.rejects(chat(NOWHERE, { stream }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError, String(error));
      assert.match(error.error.message, /not found/);
      return true;
    });
  }
});

await runCase("cancelled in mid-stream", async () => {
  for (let i = 0; i < MORE_THAN_SLOTS; i++) {
    await stallNextStream();
    let parts = 0;
    // Leaving the loop closes the stream.
    for await (const _ of await chat(ON_SECOND, { stream: true })) {
      parts++;
      break;
    }
    assert.equal(parts, 1);
    await waitUntilIdle();
  }
  assert.ok((await chat(ON_SECOND)).choices.length);
});

await runCase("a broken stream is an error", async () => {
  await breakNextStream();
  await breaks(await chat(ON_SECOND, { stream: true }));
  await breakNextStream();
  await breaks(await client.responses.create({ model: ON_SECOND, input: "Say hello.", stream: true }));
  assert.ok((await chat(ON_SECOND)).choices.length);
});
