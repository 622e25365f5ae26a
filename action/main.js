// The first process of the action: it runs the mayfly binary as root with the
// job's environment.
//
//   install.js ──binary──▶ [sudo -n] mayfly action ◀──stdin── the job's environment
//
// It is a node action because only those get ACTIONS_RUNTIME_TOKEN, which the
// cache service wants. It needs no npm package, and node 20 or newer. What the
// environment says goes through a pipe: arguments are seen by every process of
// the machine, and sudo keeps little of an environment.
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const { Failure, command, fail, find } = require('./install.js');

const env = process.env;

// saveState keeps a value for the post step, which gets it as STATE_<name>.
function saveState(name, value) {
  if (env.GITHUB_STATE) {
    fs.appendFileSync(env.GITHUB_STATE, `${name}=${value}\n`);
  }
}

async function main() {
  const tmp = fs.mkdtempSync(path.join(env.RUNNER_TEMP || os.tmpdir(), 'mayfly-'));
  saveState('tmp', tmp);
  const binary = await find(tmp);
  const asRoot = rootPrefix(binary);
  return run([...asRoot, binary, 'action', '--environment-stdin'], { ...env, TMPDIR: tmp });
}

// rootPrefix returns what stands before a command that is to run as root, and
// shows the binary's version.
function rootPrefix(binary) {
  const prefix = process.getuid() === 0 ? [] : ['sudo', '-n', '--'];
  const [program, ...args] = [...prefix, binary, 'version'];
  const tried = spawnSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  if (tried.status === 0) {
    process.stdout.write(`${tried.stdout.trim()} (${binary}${prefix.length ? ', by sudo' : ''})\n`);
    return prefix;
  }
  const said = (tried.error ? tried.error.message : tried.stderr.trim()) || `exit status ${tried.status}`;
  if (prefix.length === 0) {
    throw new Failure(`${binary} does not run: ${said}`);
  }
  throw new Failure(
    `mayfly needs root for mounts and namespaces, and user ${os.userInfo().username} cannot have it: ${said}. ` +
      'Run the job on a runner whose user has sudo without a password, as those of GitHub have, or as root in a container ' +
      '(container: with options: --privileged).',
  );
}

// Variables that are about this process, or about how programs of its user are
// loaded, and have no business in one of root.
const notPassed = /^(LD_|DYLD_|NODE_|BASH_FUNC_|SUDO_|BASH_ENV$|ENV$|_$)/;

// run runs mayfly until it ends, and returns its exit status. When the job is
// cancelled, or this process is killed, standard input ends and mayfly with
// it: the user of the job may send no signal to root.
function run([program, ...args], environment) {
  return new Promise((resolve, reject) => {
    // Both of its streams are one here, so that the log keeps its order.
    const child = spawn(program, args, { stdio: ['pipe', 'inherit', 1], env: { PATH: env.PATH } });
    child.on('error', reject);
    child.on('close', (code) => resolve(code === null ? 1 : code));
    child.stdin.on('error', () => {}); // it ended: its status says how
    const entries = Object.entries(environment).filter(([name]) => !notPassed.test(name));
    child.stdin.write(entries.map(([name, value]) => `${name}=${value}\0`).join('') + '\0');
    for (const signal of ['SIGINT', 'SIGTERM']) {
      process.on(signal, () => child.stdin.end());
    }
  });
}

// post removes what a build that was killed has left.
function post() {
  const tmp = env.STATE_tmp;
  if (!tmp || !fs.existsSync(tmp)) {
    return;
  }
  try {
    fs.rmSync(tmp, { recursive: true, force: true });
  } catch {
    spawnSync('sudo', ['-n', '--', 'rm', '-rf', '--', tmp], { stdio: 'ignore' }); // what root left
  }
  if (fs.existsSync(tmp)) {
    command('warning', `${tmp} cannot be removed`);
  }
}

if (env.STATE_isPost) {
  post();
} else {
  saveState('isPost', 'true');
  main().then((code) => {
    process.exitCode = code;
  }, fail);
}
