// An HTTPS client on Node. It knows nothing of being watched.
//
// It prints `ready`, waits for a line on standard input, makes its requests over keep-alive connections, prints `done`
// and waits for the end of its input.

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

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = https.request({ agent, host: name, port, lookup, method, path }, (response) => {
      response.on("data", () => {});
      response.on("end", resolve);
    });
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
  await new Promise((go) => lines.once("line", go));
  let next = 0;
  const takeTurns = async () => {
    while (next < Number(count)) {
      await ask(...kinds[next++ % kinds.length]);
    }
  };
  await Promise.all(Array.from({ length: connections }, takeTurns));
  console.log("done");
  await new Promise((end) => lines.once("close", end));
  agent.destroy();
}

main();
