// A service in Node that handles the model's events: `npm install redis`, then `node consumer.mjs`.
//
// Redis delivers each entry at least once. The rules of a consumer:
//
// 1. One group for each service, one consumer name for each process, the same after a restart.
// 2. Order: first the entries that this consumer received and did not acknowledge (id 0), then new ones (id >).
//    XAUTOCLAIM takes over what any consumer of the group has held for RECLAIM_SECONDS. That is longer than the longest
//    handling: a slow consumer cannot be told from one that has gone.
// 3. An event is known by its event_id, not by its stream id: when Redis loses data, the worker publishes the missing
//    events again. The handled ids are in a file, because Redis would lose them together with the stream.
// 4. Handle, remember, acknowledge, in this order. After a crash in between the event comes again: handle it idempotently.
// 5. An entry that fails MAX_TRIES times is moved to quantum:dead_letter:<group>, so that it does not block the others.
// 6. Followers of the model take its path and hash from the hash quantum:model:patchtst:current, never from an event.

import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "redis";

const GROUP = "my_service";
const CONSUMER = process.env.CONSUMER ?? hostname();
const HANDLED_FILE = process.env.HANDLED_FILE ?? "handled_events";
const RECLAIM_MS = 1000 * Number(process.env.RECLAIM_SECONDS ?? 60);
const MAX_TRIES = 5;
const DEAD_LETTER = `quantum:dead_letter:${GROUP}`;
const STREAMS = [
  "learning.retraining.started", "learning.retraining.completed", "learning.retraining.failed",
  "learning.retraining.skipped", "model.promoted", "model.rolled_back", "model.changed_externally",
].map((type) => `quantum:stream:${type}`);

const handled = new Set(existsSync(HANDLED_FILE) ? readFileSync(HANDLED_FILE, "utf8").split("\n") : []);
const client = createClient({ url: process.env.REDIS_URL ?? "redis://localhost:6379" });
client.on("error", (error) => console.error(`${error.message}; connecting is retried`));
let isStopping = false;
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => { isStopping = true; });

function handle(type, payload) {
  switch (type) {
    case "model.promoted":
      console.log(`${payload.new_version} replaces ${payload.old_version || "no model"}, AUC ${payload.auc?.toFixed(3)}`);
      break;
    case "model.rolled_back":
      console.log(`${payload.new_version} returned: ${payload.reason}`);
      break;
    default:
      console.log(type, ...(payload.reasons ?? []).slice(0, 1));
  }
}

async function take(stream, { id, message }) {
  const eventId = message.event_id ?? `${stream}/${id}`;
  try {
    if (!handled.has(eventId)) {
      handle(message.event_type, JSON.parse(message.payload));
      handled.add(eventId);
      appendFileSync(HANDLED_FILE, `${eventId}\n`);
    }
  } catch (error) {
    const [pending] = await client.xPendingRange(stream, GROUP, id, id, 1);
    if (!pending || pending.deliveriesCounter < MAX_TRIES) return; // XAUTOCLAIM delivers it again
    const fields = { ...message, dead_letter_from: `${stream} ${id}`, dead_letter_reason: String(error) };
    await client.xAdd(DEAD_LETTER, "*", fields, { TRIM: { strategy: "MAXLEN", strategyModifier: "~", threshold: 1000 } });
  }
  await client.xAck(stream, GROUP, id);
}

async function read(id, options) {
  const streams = STREAMS.map((key) => ({ key, id }));
  for (const { name, messages } of (await client.xReadGroup(GROUP, CONSUMER, streams, options)) ?? []) {
    for (const entry of messages) await take(name, entry);
  }
}

async function reclaim() {
  for (const stream of STREAMS) {
    let cursor = "0-0";
    do {
      const found = await client.xAutoClaim(stream, GROUP, CONSUMER, RECLAIM_MS, cursor);
      for (const entry of found.messages) if (entry) await take(stream, entry);
      cursor = found.nextId;
    } while (cursor !== "0-0");
  }
}

async function createGroups() {
  for (const stream of STREAMS) {
    await client.xGroupCreate(stream, GROUP, "0", { MKSTREAM: true }).catch((error) => {
      if (!error.message.startsWith("BUSYGROUP")) throw error;
    });
  }
}

await client.connect();
while (!isStopping) {
  try {
    await createGroups();
    await read("0");
    for (let reclaimAt = 0; !isStopping; ) {
      if (Date.now() >= reclaimAt) {
        await reclaim();
        reclaimAt = Date.now() + RECLAIM_MS / 2;
      }
      await read(">", { COUNT: 100, BLOCK: Math.max(1, Math.min(1000, RECLAIM_MS / 2)) });
    }
  } catch (error) { // NOGROUP: Redis has lost its data; the group is created again
    console.error(`${error.message}; reading events is retried`);
    await sleep(250);
  }
}
client.destroy();
