'use strict';
const fs = require('node:fs');
const path = require('node:path');

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || '').trim();
const attested = (subject) => process.stdout.write(`attested ${subject}\n`);
if (input('subject-path')) {
  const [dir, name] = [path.dirname(input('subject-path')), path.basename(input('subject-path'))];
  const found = fs.readdirSync(path.join(process.env.GITHUB_WORKSPACE, dir)).filter((f) => f.startsWith(name.replace('*', '')));
  if (!found.length) {
    throw new Error(`no file is ${input('subject-path')}`);
  }
  found.sort().forEach(attested);
} else if (/^sha256:[0-9a-f]{64}$/.test(input('subject-digest'))) {
  attested(`${input('subject-name')}@${input('subject-digest')}`);
} else {
  throw new Error(`subject-digest is ${input('subject-digest')}`);
}
