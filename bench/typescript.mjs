// A round trip of 16 MiB by the TypeScript client, beside a bare grpc-js echo of the same bytes, in turns.
//
//     (cd client/typescript && npm install && npm run build) && node bench/typescript.mjs [rounds]
//
// The client calls a layer that multiplies by one, on a server with one thread, from .venv. The echo is a grpc-js server
// in another process; both channels have the same options. Times are medians and minima in milliseconds.
import { fork, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(import.meta.url);
const root = new URL("..", import.meta.url);
const grpc = createRequire(new URL("client/typescript/package.json", root))("@grpc/grpc-js");
const OPTIONS = {
  "grpc.max_send_message_length": 2 ** 29,
  "grpc.max_receive_message_length": 2 ** 29,
  "grpc-node.flow_control_window": 16 * 2 ** 20,
};
const ECHO = "/bench.Echo/Echo";
const bytes = (message) => message;

if (process.send) serveEcho();
else await main(Number(process.argv[2] ?? 40));

/** In a process of its own: answers each message with itself. */
function serveEcho() {
  const server = new grpc.Server(OPTIONS);
  const method = { path: ECHO, requestStream: false, responseStream: false };
  const codec = { requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes };
  server.addService({ echo: { ...method, ...codec } }, { echo: (call, done) => done(null, call.request) });
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (_, port) => process.send(port));
}

async function main(rounds) {
  const { connect, Tensor } = await import(new URL("client/typescript/dist/node.js", root));
  const child = fork(here);
  const port = await new Promise((resolve) => child.once("message", resolve));
  const serve = ["serve", "--port", "0", "--executor", "local", "--workers", "1", "--threads", "1"];
  const server = spawn(fileURLToPath(new URL(".venv/bin/groupconv", root)), serve);
  try {
    const echo = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), OPTIONS);
    const client = connect(await addressOf(server));
    const x = new Tensor(new Float32Array(2 ** 22).map((_, i) => i % 251), [1, 1, 2048, 2048]);
    const layer = await client.loadLayer("bench/one", [[[[1]]]]);
    const message = Buffer.from(x.data.buffer);
    const pair = {
      "bare grpc-js echo": () =>
        new Promise((resolve, reject) =>
          echo.makeUnaryRequest(ECHO, bytes, bytes, message, (error, answer) => (error ? reject(error) : resolve(answer))),
        ),
      "groupconv layer": () => layer.forward(x),
    };
    const y = await pair["groupconv layer"]();
    if (!Buffer.from(y.data.buffer, y.data.byteOffset, y.data.byteLength).equals(message)) throw new Error("another answer");
    const times = Object.fromEntries(Object.keys(pair).map((name) => [name, []]));
    for (let round = -5; round < rounds; round++) {
      for (const [name, call] of Object.entries(pair)) {
        const began = performance.now();
        await call();
        if (round >= 0) times[name].push(performance.now() - began);
      }
    }
    report(times);
    client.close();
    echo.close();
  } finally {
    child.kill();
    server.kill();
  }
}

function report(times) {
  const [bare, ours] = Object.values(times).map((all) => all.sort((a, b) => a - b));
  const median = (all) => all[Math.floor(all.length / 2)];
  for (const [name, all] of Object.entries(times)) {
    console.log(`${name.padEnd(18)} median ${median(all).toFixed(1)} ms  least ${all[0].toFixed(1)} ms`);
  }
  const [ofMedians, ofLeast] = [median(bare) / median(ours), bare[0] / ours[0]].map((ratio) => ratio.toFixed(2));
  console.log(`speed of the echo: ${ofMedians} × by medians, ${ofLeast} × by the least, over ${ours.length} turns`);
}

/** Where the server serves, once it does and has measured its workers. */
function addressOf(server) {
  return new Promise((resolve, reject) => {
    let printed = "";
    const read = (chunk) => {
      printed += chunk;
      const found = /is serving with .* on (\S+)\n/.exec(printed);
      if (found) resolve(found[1]);
    };
    server.stdout.on("data", read);
    server.stderr.on("data", read);
    server.once("close", () => reject(new Error(printed)));
  });
}
