// Posts a job whose features have names, and waits for its result. npm install amqplib
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const connection = await amqp.connect(process.env.KILN_AMQP_URL ?? "amqp://kiln:kiln@127.0.0.1:5672/%2f");
const channel = await connection.createConfirmChannel();
await channel.checkQueue("kiln.jobs"); // Kiln declares it; this only checks that it is there
const { queue: replies } = await channel.assertQueue("", { exclusive: true });

const jobId = `features-${randomUUID()}`; // the same id and body again would give the first result again
const job = {
  job_id: jobId, model: "ranker", namespace: "shop", named: true,
  inputs: [
    { key: "item:7", features: { price: 3.5, clicks: 12, age_days: 1 } },
    { key: "item:8", features: { clicks: 2, price: null } }, // null, and what is left out, is missing
  ],
};
const reply = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error("no reply within 30 seconds: is a worker running?")), 30_000).unref();
  channel.consume(replies, (message) => {
    if (message?.properties.correlationId === jobId) resolve(JSON.parse(message.content));
  }, { noAck: true });
});
channel.sendToQueue("kiln.jobs", Buffer.from(JSON.stringify(job)), {
  persistent: true, contentType: "application/json", replyTo: replies, correlationId: jobId, mandatory: true,
});
await channel.waitForConfirms(); // the broker has the job

const { status, error, results } = await reply;
if (status === "rejected") throw new Error(`rejected: ${error.field}: ${error.message}`);
for (const { key, score, cached } of results) console.log(key, score, cached ? "cached" : "scored");
await connection.close();
