// What the JavaScript clients share: how a case is reported, what the nodes hold, and how they are made to fail.

import { setTimeout as sleep } from "node:timers/promises";

export const ON_BOTH = "llama3.2";
export const ON_SECOND = "qwen3:8b";
export const EMBEDDING = "nomic-embed-text";
export const NOWHERE = "no-such-model";

/** Runs a check and prints what came of it. */
export async function runCase(name, check) {
  try {
    await check();
    console.log(`${name}\tok\t`);
  } catch (error) {
    console.log(`${name}\tFAIL\t${String(error).replace(/\s+/g, " ")}`);
  }
}

/** The next stream of the second node is cut after some chunks. */
export async function breakNextStream() {
  const body = JSON.stringify({ kind: "reset_mid_stream", count: 1 });
  const answer = await fetch(`${process.env.NODE_B}/mock/fault`, { method: "POST", body });
  if (!answer.ok) throw new Error(`/mock/fault: ${answer.status}`);
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
