// Adds up orders, one JSON object a line, for each customer: totals.js ORDERS OUT.csv
import { createReadStream, createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import { finished } from "node:stream/promises";

const [orders, out] = process.argv.slice(2);
const cents = new Map();
for await (const line of createInterface({ input: createReadStream(orders), crlfDelay: Infinity })) {
  if (line === "") continue;
  const { customer, items } = JSON.parse(line);
  const sum = items.reduce((total, { price, quantity }) => total + Math.round(price * 100) * quantity, 0);
  cents.set(customer, (cents.get(customer) ?? 0) + sum);
}
const csv = createWriteStream(out);
csv.write("customer,total\n");
for (const [customer, total] of [...cents].sort(([a], [b]) => (a < b ? -1 : 1))) {
  csv.write(`${customer},${(total / 100).toFixed(2)}\n`);
}
csv.end();
await finished(csv);
