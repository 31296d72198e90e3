// An HTTPS client on Node. It knows nothing of being watched.
//
// It prints `ready`. For each line on standard input it makes its requests over keep-alive connections, and prints `done`
// and how many seconds each of the handshakes took that it needed. It ends with its input.

"use strict";

const fs = require("node:fs");
const https = require("node:https");
const readline = require("node:readline");

const [name, port, authority, count] = process.argv.slice(2);
const connections = 4;
const agent = new https.Agent({ keepAlive: true, maxSockets: connections, ca: fs.readFileSync(authority) });

// As a line in /etc/hosts would have it.
function lookup(host, options, callback) {
  if (options.all) {
    callback(null, [{ address: "127.0.0.1", family: 4 }]);
  } else {
    callback(null, "127.0.0.1", 4);
  }
}

const handshakes = [];

function time(socket) {
  if (socket.timed) {
    return;
  }
  socket.timed = true;
  let began;
  socket.once("connect", () => (began = performance.now()));
  socket.once("secureConnect", () => handshakes.push((performance.now() - began) / 1000));
}

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = https.request({ agent, host: name, port, lookup, method, path }, (response) => {
      response.on("data", () => {});
      response.on("end", resolve);
    });
    request.on("socket", time);
    request.on("error", reject);
    request.end(body);
  });
}

const kinds = [
  ["GET", "/slow?ms=1"],
  ["GET", "/items/7"],
  ["POST", "/echo", "x".repeat(5000)],
];

async function main() {
  const lines = readline.createInterface({ input: process.stdin });
  console.log("ready");
  for await (const _ of lines) {
    let next = 0;
    const takeTurns = async () => {
      while (next < Number(count)) {
        await ask(...kinds[next++ % kinds.length]);
      }
    };
    await Promise.all(Array.from({ length: connections }, takeTurns));
    console.log("done", JSON.stringify(handshakes.splice(0)));
  }
  agent.destroy();
}

main();
