// fetch.mjs URL FILE TIMES - posts a file with node's fetch; prints a status or a failure a line.
import { readFileSync } from "node:fs";

const [url, file, times, ...headers] = process.argv.slice(2);
const body = readFileSync(file);
const fields = Object.fromEntries(headers.map((line) => line.split(": ")));
for (let i = 0; i < Number(times); i++) {
  try {
    const reply = await fetch(url, { method: "POST", body, headers: fields });
    await reply.text();
    console.log(reply.status);
  } catch (error) {
    console.log(`${error.message}: ${error.cause?.code ?? error.cause}`);
  }
}
