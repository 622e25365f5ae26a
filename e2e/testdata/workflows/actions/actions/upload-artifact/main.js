'use strict';
const fs = require('node:fs');
const path = require('node:path');

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || '').trim();
const dir = path.join(process.env.ARTIFACTS, input('name'));
if (fs.existsSync(dir)) {
  throw new Error(`an artifact with this name already exists: ${input('name')}`);
}
fs.mkdirSync(dir, { recursive: true });
for (const from of input('path').split('\n').map((p) => p.trim())) {
  fs.cpSync(path.resolve(process.env.GITHUB_WORKSPACE, from), path.join(dir, path.basename(from)), { recursive: true });
}
