'use strict';
const fs = require('node:fs');
const path = require('node:path');

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || '').trim();
const to = path.resolve(process.env.GITHUB_WORKSPACE, input('path') || '.');
const matches = new RegExp('^' + (input('pattern') || input('name')).replace(/[.+]/g, '\\$&').replace(/\*/g, '.*') + '$');
for (const name of fs.readdirSync(process.env.ARTIFACTS).filter((n) => matches.test(n)).sort()) {
  const flat = input('name') || input('merge-multiple') === 'true';
  fs.cpSync(path.join(process.env.ARTIFACTS, name), flat ? to : path.join(to, name), { recursive: true });
}
