// Puts the AsyncAPI document through the official parser: node parse_asyncapi.mjs <file>. Exit 1 for any problem.
// A note that a newer version of the specification exists is none.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const WARNING = 1; // 0 error, 1 warning, 2 information, 3 hint
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const problems = diagnostics
  .filter((one) => one.severity <= WARNING)
  .map((one) => `${one.path.join(".")}: ${one.message}`);
console.log(
  JSON.stringify({
    channels: document?.channels().all().length,
    messages: document?.messages().all().length,
    operations: document?.operations().all().length,
    problems,
  }),
);
process.exitCode = document === undefined || problems.length > 0 ? 1 : 0;
