// The probe of executortest: what each word means is written there.
"use strict";
const fs = require("node:fs");
const { spawn } = require("node:child_process");

function write(fd, data) {
  const bytes = Buffer.from(data);
  for (let at = 0; at < bytes.length; ) at += fs.writeSync(fd, bytes, at);
}

const [word, ...rest] = process.argv.slice(2);
switch (word) {
  case "args":
    for (const arg of rest) write(1, arg + "\0");
    break;
  case "env":
    for (const [name, value] of Object.entries(process.env)) write(1, `${name}=${value}\0`);
    break;
  case "dir":
    write(1, process.cwd());
    break;
  case "print":
    write(1, rest[0]);
    write(2, rest[1]);
    break;
  case "exit":
    process.exit(Number(rest[0]));
  case "signal":
    process.kill(process.pid, Number(rest[0]));
    setInterval(() => {}, 1000);
    break;
  case "fill":
    write(1, "0123456789abcdef".repeat(Number(rest[0]) / 16 + 1).slice(0, Number(rest[0])));
    break;
  case "stdin":
    write(1, String(fs.readFileSync(0).length));
    break;
  case "wait":
    write(fs.openSync(rest[0], "w"), "ready\n");
    setInterval(() => {}, 3600000);
    break;
  case "background":
    spawn(process.execPath, [__filename, "wait", rest[0]], { stdio: ["ignore", "inherit", "inherit"] }).unref();
    break;
  default:
    console.error(`no such word: ${word}`);
    process.exit(1);
}
