// The peer of the fan-out benchmark: node push_server.mjs <sockets> <file with the payload>. Prints its port, then
// answers each line "push <count>" with the CPU seconds that so many sends to random single sockets took.
// The payload is a buffer made once, compression is off, and the loop gets its turn every 128 sends, as with ours.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { WebSocketServer } from "ws";

const YIELD_EVERY = 128;
const [count, file] = process.argv.slice(2);
const payload = readFileSync(file);
const sockets = [];
const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: false, backlog: 2048 });
server.on("connection", (socket) => sockets.push(socket));
server.on("listening", () => console.log(server.address().port));

const turn = () => new Promise((resolve) => setImmediate(resolve));
for await (const line of createInterface({ input: process.stdin })) {
  const sends = Number(line.split(" ")[1]);
  while (sockets.length < Number(count)) await turn();
  const to = Array.from({ length: sends }, () => sockets[Math.floor(Math.random() * sockets.length)]);
  const before = process.cpuUsage();
  for (let sent = 0; sent < sends; sent += 1) {
    to[sent].send(payload, { binary: false });
    if (sent % YIELD_EVERY === 0) await turn();
  }
  await turn();
  const used = process.cpuUsage(before);
  console.log((used.user + used.system) / 1e6);
}
process.exit(0);
