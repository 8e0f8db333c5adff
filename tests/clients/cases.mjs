// What the JavaScript clients share: how a case is reported, what the nodes hold, and how they are made to fail.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

export const ON_BOTH = "llama3.2";
export const ON_SECOND = "qwen3:8b";
export const EMBEDDING = "nomic-embed-text";
export const NOWHERE = "no-such-model";
export const EVERY_MODEL = ["deepseek-r1:latest", "llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b"];
export const TEXTS = ["llama", "alpaca", "guanaco"];
// One more than a node answers at once, so streams that are cancelled must give their places back.
export const MORE_THAN_SLOTS = 5;

/** Runs a check and prints what came of it. */
export async function runCase(name, check) {
  try {
    await check();
    console.log(`${name}\tok\t`);
  } catch (error) {
    console.log(`${name}\tFAIL\t${String(error).replace(/\s+/g, " ").slice(0, 1000)}`);
  }
}

/** The next stream of the second node is cut after some chunks. */
export const breakNextStream = () => setFault("reset_mid_stream");

/** The next stream of the second node falls silent after some chunks, and lasts until whoever reads it leaves. */
export const stallNextStream = () => setFault("stall_mid_stream");

async function setFault(kind) {
  const body = JSON.stringify({ kind, count: 1 });
  const answer = await fetch(`${process.env.NODE_B}/mock/fault`, { method: "POST", body });
  if (!answer.ok) throw new Error(`/mock/fault: ${answer.status}`);
}

/** Fails unless reading a stream throws after its first part. */
export async function breaks(stream) {
  let parts = 0;
  const read = async () => {
    for await (const _ of stream) parts++;
  };
  await assert.rejects(read, `${parts} parts and no error`);
  assert.ok(parts > 0, "it broke before it began");
}

/** Three vectors of the length of the one, which is the first of them. */
export function checkVectors(one, several) {
  assert.deepEqual(several.map((vector) => vector.length), TEXTS.map(() => one.length));
  assert.deepEqual(several[0], one);
}

/** Fails unless the proxy soon has no request in flight: a client that left must not keep a node at work. */
export async function waitUntilIdle() {
  const deadline = Date.now() + 5000;
  for (;;) {
    const answer = await fetch(`${process.env.LLAMERO_ADMIN}/api/v1/status`);
    const { backends } = await answer.json();
    const busy = backends.filter((backend) => backend.in_flight > 0).map((backend) => backend.name);
    if (busy.length === 0) return;
    if (Date.now() > deadline) throw new Error(`still in flight: ${busy}`);
    await sleep(20);
  }
}
