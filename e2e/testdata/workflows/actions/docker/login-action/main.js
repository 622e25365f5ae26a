// Writes the credentials to where docker and mayfly look for them.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const input = (name) => (process.env[`INPUT_${name.toUpperCase()}`] || '').trim();
const [registry, username, password] = ['registry', 'username', 'password'].map(input);
if (!username || !password) {
  throw new Error('Username and password required');
}
process.stdout.write(`::add-mask::${password}\n`);
const dir = process.env.DOCKER_CONFIG || path.join(process.env.HOME, '.docker');
const file = path.join(dir, 'config.json');
fs.mkdirSync(dir, { recursive: true });
const config = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : {};
config.auths = { ...config.auths, [registry || 'https://index.docker.io/v1/']: { auth: Buffer.from(`${username}:${password}`).toString('base64') } };
fs.writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
process.stdout.write('Login Succeeded!\n');
