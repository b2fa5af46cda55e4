// Follows all orders with kafkajs: node consumer.mjs [bootstrap] [group]. One JSON line for each change of an order.
//
// Delivery is at least once and in order for each order, and orderVersion runs 1, 2, 3 … for each order. So one number an
// order is enough to know a repeat: what is not above it was seen. Here the numbers are in memory, so a new process that
// starts at its last commit may print a few lines again; keep them in your database, written with the effect, in earnest.
import kafkajs from "kafkajs";
import { compressFrame, decompressFrame } from "lz4-napi";

const { Kafka, CompressionCodecs, CompressionTypes, logLevel } = kafkajs;
// Our batches are lz4, for which kafkajs wants a codec. (lz4js 0.2.0 gives back wrong bytes.)
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => compressFrame(encoder.buffer),
  decompress: (buffer) => decompressFrame(buffer),
});

const TOPIC = "orders.events.v1";
const [bootstrap = "127.0.0.1:18092", groupId = "example-node"] = process.argv.slice(2);
const kafka = new Kafka({ clientId: groupId, brokers: bootstrap.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId });
const versions = new Map(); // order id → the highest orderVersion seen

function take({ partition, message }) {
  const type = message.headers.ce_type?.toString() ?? "";
  if (!type.startsWith("weelo.order.")) return; // what we do not know we ignore
  const { orderId, orderVersion, status, trucksFilled, totalTrucks } = JSON.parse(message.value.toString());
  const repeat = orderVersion <= (versions.get(orderId) ?? 0);
  if (!repeat) versions.set(orderId, orderVersion);
  console.log(JSON.stringify({ partition, type, orderId, orderVersion, status, trucksFilled, totalTrucks, repeat }));
}

await consumer.connect();
await consumer.subscribe({ topic: TOPIC, fromBeginning: true }); // the default would skip what was there before
await consumer.run({
  autoCommit: false, // we say ourselves how far we are: after the work, never before
  eachBatchAutoResolve: false,
  eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
    let last = null;
    for (const message of batch.messages) {
      if (!isRunning() || isStale()) break; // a rebalance: the partition may be another member's by now
      try {
        take({ partition: batch.partition, message });
      } catch (error) {
        // In earnest: put it where somebody looks at it. Never log the body: it holds addresses.
        console.error(`unreadable ${batch.partition}/${message.offset}: ${error.name}`);
      }
      resolveOffset(message.offset);
      last = message.offset;
      await heartbeat();
    }
    if (last === null) return;
    await consumer.commitOffsets([
      { topic: batch.topic, partition: batch.partition, offset: (BigInt(last) + 1n).toString() },
    ]);
  },
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, async () => {
    await consumer.disconnect(); // says goodbye, so that the others take over at once
    process.exit(0);
  });
}
