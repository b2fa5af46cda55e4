// A phone on Node's ws: node phone.mjs <url> <token>. Takes orders as JSON lines and prints what happens as JSON lines.
//   {"open": {...}}   connect; the first frame is auth with what is given added     → {"frame": {...}} for each frame
//   {"say": "text"}, {"sayBinary": "text"}, {"ping": "payload"}                      → {"pong": "payload"}
//   {"close": 1000}                                                                 → {"closed": code}
import { createInterface } from "node:readline";
import WebSocket from "ws";

const [url, token] = process.argv.slice(2);
const tell = (what) => console.log(JSON.stringify(what));
let socket;

const orders = {
  open(more) {
    socket = new WebSocket(url);
    socket.on("open", () => socket.send(JSON.stringify({ type: "auth", token, ...more })));
    socket.on("message", (data, isBinary) => tell(isBinary ? { binary: data.length } : { frame: JSON.parse(data) }));
    socket.on("pong", (data) => tell({ pong: data.toString() }));
    socket.on("close", (code) => tell({ closed: code }));
    socket.on("error", (error) => tell({ error: error.message }));
  },
  say: (text) => socket.send(text),
  sayBinary: (text) => socket.send(Buffer.from(text)),
  ping: (payload) => socket.ping(payload),
  close: (code) => socket.close(code),
};
for await (const line of createInterface({ input: process.stdin })) {
  for (const [name, value] of Object.entries(JSON.parse(line))) orders[name](value);
}
process.exit(0);
