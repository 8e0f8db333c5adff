// Anthropic's JavaScript SDK.
// npm: @anthropic-ai/sdk@1.12.0

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import {
  EVERY_MODEL,
  MORE_THAN_SLOTS,
  NOWHERE,
  ON_BOTH,
  ON_SECOND,
  breakNextStream,
  breaks,
  runCase,
  stallNextStream,
  waitUntilIdle,
} from "./cases.mjs";

const client = new Anthropic({ baseURL: process.env.OLLAMA_HOST, apiKey: "ollama", timeout: 20_000 });
const hello = [{ role: "user", content: "Say hello." }];

function chat(model, options = {}) {
  return client.messages.create({ model, messages: hello, max_tokens: 2000, ...options });
}

await runCase("list", async () => {
  const names = (await client.models.list()).data.map((model) => model.id).sort();
  assert.deepEqual(names, EVERY_MODEL);
});

await runCase("chat, streamed", async () => {
  const stream = client.messages.stream({ model: ON_BOTH, messages: hello, max_tokens: 2000 });
  const parts = [];
  stream.on("text", (text) => parts.push(text));
  const whole = await stream.finalMessage();
  assert.ok(parts.length > 2 && parts.join("").trim());
  assert.equal(whole.stop_reason, "end_turn");
  assert.equal(whole.content[0].text, parts.join(""));
});

await runCase("chat, whole", async () => {
  const answer = await chat(ON_BOTH);
  assert.equal(answer.stop_reason, "end_turn");
  assert.ok(answer.content[0].text.trim());
});

await runCase("thinking", async () => {
  const answer = await chat(ON_BOTH, { thinking: { type: "enabled", budget_tokens: 1024 } });
  assert.deepEqual(answer.content.map((block) => block.type), ["thinking", "text"]);
});

await runCase("tools", async () => {
  const schema = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ name: "weather", description: "How the weather is in a city.", input_schema: schema }];
  const asked = await chat(ON_BOTH, { tools });
  assert.equal(asked.stop_reason, "tool_use");
  assert.deepEqual(asked.content.map((block) => block.name), ["weather"]);
  const said = { type: "tool_result", tool_use_id: asked.content[0].id, content: "Sun over Puno." };
  const turns = [{ role: "assistant", content: asked.content }, { role: "user", content: [said] }];
  const answer = await chat(ON_BOTH, { tools, messages: [...hello, ...turns] });
  assert.equal(answer.stop_reason, "end_turn");
  assert.ok(answer.content[0].text.trim());
});

await runCase("a model that one node holds", async () => {
  for (let i = 0; i < 6; i++) assert.equal((await chat(ON_SECOND)).model, ON_SECOND);
});

await runCase("a model that no node holds", async () => {
  for (const stream of [false, true]) {
    await assert.rejects(chat(NOWHERE, { stream }), (error) => {
      assert.ok(error instanceof Anthropic.NotFoundError, String(error));
      assert.match(error.error.error.message, /not found/);
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
  assert.ok((await chat(ON_SECOND)).content.length);
});

await runCase("a broken stream is an error", async () => {
  await breakNextStream();
  await breaks(await chat(ON_SECOND, { stream: true }));
  assert.ok((await chat(ON_SECOND)).content.length);
});
