// Puts the mayfly binary on the PATH of the steps that follow.
'use strict';

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const { Failure, fail, find } = require('../action/install.js');

const env = process.env;

async function main() {
  const dir = fs.mkdtempSync(path.join(env.RUNNER_TEMP || os.tmpdir(), 'mayfly-'));
  const binary = await find(dir);
  const tried = spawnSync(binary, ['version'], { encoding: 'utf8' });
  if (tried.status !== 0) {
    throw new Failure(`${binary} does not run: ${tried.error ? tried.error.message : tried.stderr.trim() || `exit status ${tried.status}`}`);
  }
  // A binary that the job names may have another name.
  const bin = path.join(dir, 'bin');
  fs.mkdirSync(bin);
  fs.symlinkSync(binary, path.join(bin, 'mayfly'));
  fs.appendFileSync(env.GITHUB_PATH, `${bin}\n`);
  const version = tried.stdout.trim();
  if (env.GITHUB_OUTPUT) {
    fs.appendFileSync(env.GITHUB_OUTPUT, `version=${version.split(/\s+/).pop()}\n`);
  }
  process.stdout.write(`${version} (${binary})\n`);
}

main().catch(fail);
