// Reads a topic from its beginning with kafkajs: node read_events.mjs <bootstrap> <topic> <count>. One JSON line a record.
// Our batches are lz4, for which kafkajs wants a codec.
import kafkajs from "kafkajs";
import { compressFrame, decompressFrame } from "lz4-napi";

const { Kafka, CompressionCodecs, CompressionTypes, logLevel } = kafkajs;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => compressFrame(encoder.buffer),
  decompress: (buffer) => decompressFrame(buffer),
});

const [bootstrap, topic, count] = process.argv.slice(2);
const kafka = new Kafka({ clientId: "contract", brokers: bootstrap.split(","), logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: `${topic}.kafkajs` });
await consumer.connect();
await consumer.subscribe({ topic, fromBeginning: true });
let left = Number(count);
const all = new Promise((resolve) => {
  void consumer.run({
    eachMessage: async ({ partition, message }) => {
      const headers = Object.entries(message.headers).map(([name, value]) => [name, value.toString()]);
      const key = message.key.toString();
      const record = { partition, key, headers: Object.fromEntries(headers), value: message.value.toString("base64") };
      console.log(JSON.stringify(record));
      left -= 1;
      if (left === 0) resolve();
    },
  });
});
await all;
await consumer.disconnect();
