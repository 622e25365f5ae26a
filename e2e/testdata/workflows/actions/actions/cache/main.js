// Restores a directory, and saves it when the job ends.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const env = process.env;
const input = (name) => (env[`INPUT_${name.toUpperCase()}`] || '').trim();
const top = path.join(env.ARTIFACTS, 'cache');
const saved = path.join(top, input('key'));
fs.mkdirSync(top, { recursive: true });
if (!env.STATE_restored) {
  fs.appendFileSync(env.GITHUB_STATE, 'restored=true\n');
  const prefixes = [input('key'), ...input('restore-keys').split('\n').map((l) => l.trim()).filter(Boolean)];
  const found = prefixes.flatMap((p) => fs.readdirSync(top).filter((n) => n.startsWith(p)))[0];
  if (found) {
    fs.cpSync(path.join(top, found), input('path'), { recursive: true });
    process.stdout.write(`Cache restored from key: ${found}\n`);
  }
} else if (!fs.existsSync(saved)) {
  fs.cpSync(input('path'), saved, { recursive: true });
}
