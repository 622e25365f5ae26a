// Where the mayfly binary comes from: what the job names, or a release.
//
//   release or $MAYFLY_BINARY ──verified──▶ RUNNER_TOOL_CACHE ──▶ main.js, ../setup/main.js
//
// It needs no npm package, and node 20 or newer.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const path = require('node:path');
const { pipeline } = require('node:stream/promises');

const env = process.env;

// A Failure is an error whose text is meant for the user.
class Failure extends Error {}

function input(name) {
  return (env[`INPUT_${name.toUpperCase()}`] || '').trim();
}

function command(name, message) {
  const text = message.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A');
  process.stdout.write(`::${name}::${text}\n`);
}

// fail ends the step with an error.
function fail(err) {
  command('error', err instanceof Failure ? err.message : err.stack || String(err));
  process.exitCode = 1;
}

// find returns the path of the binary; a release may be fetched into tmp.
async function find(tmp) {
  if (process.platform !== 'linux') {
    throw new Failure(`mayfly builds on Linux, and this runner is ${process.platform}: say runs-on: ubuntu-latest`);
  }
  const arch = { x64: 'amd64', arm64: 'arm64' }[process.arch];
  if (!arch) {
    throw new Failure(`there is no mayfly for ${process.arch}: there is one for x64 and arm64`);
  }
  const version = input('version');
  const given = env.MAYFLY_BINARY || (path.isAbsolute(version) ? version : '');
  if (given) {
    try {
      fs.accessSync(given, fs.constants.X_OK);
    } catch (err) {
      throw new Failure(`the mayfly binary that the job names cannot be run: ${err.message}`);
    }
    return path.resolve(given);
  }
  return install(version || (await ownVersion()), `mayfly-linux-${arch}`, tmp);
}

const isRelease = (tag) => /^v\d+\.\d+\.\d+/.test(tag);

// ownVersion is the release that the action itself is used at: a step that
// pins v1.2.3, or the commit that it was made of, gets the binary of v1.2.3. A
// branch, v1 or another commit has none.
async function ownVersion() {
  const ref = env.GITHUB_ACTION_REF || '';
  if (isRelease(ref)) {
    return ref;
  }
  if (/^[0-9a-f]{40,64}$/.test(ref) && !env.MAYFLY_DOWNLOAD_URL) {
    const version = await releaseOf(ref);
    if (version) {
      return version;
    }
    command('notice', `no release of mayfly was made of the commit ${ref} that this step uses: the binary is that of the latest one`);
  }
  return 'latest';
}

// repositories are the addresses of the action's repository to try. An
// enterprise server may have a copy of it, or take it from github.com.
function repositories() {
  const repository = env.GITHUB_ACTION_REPOSITORY || 'mayfly-build/mayfly';
  const servers = [(env.GITHUB_SERVER_URL || 'https://github.com').replace(/\/+$/, ''), 'https://github.com'];
  return [...new Set(servers)].map((s) => `${s}/${repository}`);
}

// releases are the addresses of the releases to try.
function releases() {
  if (env.MAYFLY_DOWNLOAD_URL) {
    return [env.MAYFLY_DOWNLOAD_URL.replace(/\/+$/, '')];
  }
  return repositories().map((r) => `${r}/releases`);
}

// releaseOf returns the release whose tag names a commit; undefined when there
// is none. The tags are those that git is told first when it fetches: no token
// and no quota of an API is needed.
async function releaseOf(commit) {
  const errors = [];
  for (const repository of repositories()) {
    let refs;
    try {
      refs = (await read(`${repository}.git/info/refs?service=git-upload-pack`)).toString('utf8');
    } catch (err) {
      errors.push(err.message);
      continue;
    }
    // An annotated tag has two lines: itself, and with ^{} its commit. The
    // length of a line, in hex, stands right before it.
    const tags = [...refs.matchAll(/([0-9a-f]{40,64}) refs\/tags\/([^\s^]+)(?:\^\{\})?\n/g)];
    const found = tags.find(([, id, tag]) => id.slice(-commit.length) === commit && isRelease(tag));
    return found && found[2];
  }
  throw new Failure(
    `which release the commit ${commit} is cannot be looked up: ${errors.join('; ')}. ` +
      'Name the release with the input version: v1.2.3, or a binary with version: /path/to/mayfly.',
  );
}

// install returns the path of a release's binary, from the tool cache or by
// fetching it into there.
async function install(wanted, asset, tmp) {
  const errors = [];
  for (const base of releases()) {
    try {
      const version = wanted === 'latest' ? await latest(base) : wanted.replace(/^v?(?=\d)/, 'v');
      const dir = toolDir(version, asset, tmp);
      const file = path.join(dir, 'mayfly');
      if (await isWhole(file)) {
        return file;
      }
      return await fetchBinary(`${base}/download/${encodeURIComponent(version)}`, asset, dir, file);
    } catch (err) {
      errors.push(err.message);
    }
  }
  throw new Failure(
    `mayfly ${wanted} cannot be installed: ${errors.join('; ')}. ` +
      'On a runner without a way to the releases, name a binary with the input version: /path/to/mayfly or with MAYFLY_BINARY, ' +
      'or a mirror of the releases with MAYFLY_DOWNLOAD_URL.',
  );
}

// latest asks which release is the latest one: its page redirects to it.
function latest(base) {
  return retry(async () => {
    const response = await request(`${base}/latest`);
    response.resume();
    const found = /\/releases\/tag\/([^/?#]+)/.exec(response.headers.location || '');
    if (!found) {
      throw refused(`${base}/latest names no release (status ${response.statusCode})`, response.statusCode);
    }
    return decodeURIComponent(found[1]);
  });
}

// refused is the error of an answer; it is final unless it may be another one
// the next time.
function refused(message, status) {
  return Object.assign(new Error(message), { final: status < 500 && status !== 429 && status !== 408 });
}

// toolDir is where the runner keeps tools between jobs, or a directory of this
// job where it keeps none.
function toolDir(version, asset, tmp) {
  const name = path.join('mayfly', version.replace(/[^\w.+-]/g, '_'), asset);
  for (const top of [env.RUNNER_TOOL_CACHE, tmp]) {
    if (!top) {
      continue;
    }
    const dir = path.join(top, name);
    try {
      fs.mkdirSync(dir, { recursive: true });
      fs.accessSync(dir, fs.constants.W_OK);
      return dir;
    } catch (err) {
      if (top === tmp) {
        throw err;
      }
    }
  }
}

const sumFile = (file) => `${file}.sha256`;

// isWhole reports whether a binary is what was fetched.
async function isWhole(file) {
  try {
    const want = fs.readFileSync(sumFile(file), 'utf8').trim();
    return want === (await sha256(file));
  } catch {
    return false;
  }
}

async function sha256(file) {
  const hash = crypto.createHash('sha256');
  await pipeline(fs.createReadStream(file), hash);
  return hash.digest('hex');
}

// fetchBinary fetches a binary and checks it. Other jobs may do the same at
// the same time: each writes a file of its own and renames it.
async function fetchBinary(base, asset, dir, file) {
  const sums = (await read(`${base}/SHA256SUMS`)).toString('utf8');
  const line = sums.split('\n').find((l) => l.trim().split(/\s+\*?/)[1] === asset);
  const want = line && line.trim().split(/\s+/)[0].toLowerCase();
  if (!want || !/^[0-9a-f]{64}$/.test(want)) {
    throw new Error(`${base}/SHA256SUMS has no line for ${asset}`);
  }
  const part = path.join(dir, `.${process.pid}-${crypto.randomBytes(6).toString('hex')}`);
  try {
    await retry(async () => pipeline(await get(`${base}/${asset}`), fs.createWriteStream(part, { mode: 0o755 })));
    const got = await sha256(part);
    if (got !== want) {
      throw new Error(`${base}/${asset} has the SHA-256 ${got}, and SHA256SUMS says ${want}: it is not run`);
    }
    fs.renameSync(part, file);
    fs.writeFileSync(part, want + '\n');
    fs.renameSync(part, sumFile(file));
  } finally {
    fs.rmSync(part, { force: true });
  }
  return file;
}

function read(url) {
  return retry(async () => {
    const chunks = [];
    for await (const chunk of await get(url)) {
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  });
}

const tries = 4;

// retry does something again that may go well the next time.
async function retry(fn) {
  for (let n = 1; ; n++) {
    try {
      return await fn();
    } catch (err) {
      if (err.final || n === tries) {
        throw err;
      }
      await new Promise((done) => setTimeout(done, 1000 * 2 ** (n - 1)));
    }
  }
}

// get returns the body of a page that is there, after redirects.
async function get(url) {
  for (let hops = 0; hops < 10; hops++) {
    const response = await request(url);
    const { statusCode: status, headers } = response;
    if (status >= 300 && status < 400 && headers.location) {
      response.resume();
      url = new URL(headers.location, url).href;
      continue;
    }
    if (status !== 200) {
      response.resume();
      throw refused(`${shown(url)}: status ${status}`, status);
    }
    return response;
  }
  throw Object.assign(new Error(`${shown(url)}: too many redirects`), { final: true });
}

// shown is a URL without its query, which may have a signature.
function shown(url) {
  const u = new URL(url);
  return `${u.origin}${u.pathname}`;
}

const idle = 30_000; // ms without a byte after which a server is given up

function request(url) {
  const lib = url.startsWith('https:') ? https : http;
  return new Promise((resolve, reject) => {
    // Node 24 goes through the proxies that proxyEnv names.
    const agent = new lib.Agent({ proxyEnv: env });
    const req = lib.get(url, { agent, headers: { 'User-Agent': 'mayfly-action' } }, resolve);
    req.setTimeout(idle, () => req.destroy(new Error(`${shown(url)}: no answer for ${idle / 1000} s`)));
    req.on('error', (err) => reject(new Error(`${shown(url)}: ${err.message || err.code}`)));
  });
}

module.exports = { Failure, command, fail, find };
