// Makes tags and labels of the event: types ref, semver, sha and raw, the
// flavors latest, prefix and suffix, and labels of one's own.
'use strict';
const fs = require('node:fs');
const crypto = require('node:crypto');

const env = process.env;
const lines = (name) => (env[`INPUT_${name.toUpperCase()}`] || '').split('\n').map((l) => l.trim()).filter((l) => l && !l.startsWith('#'));
const fields = (line) => Object.fromEntries(line.split(',').map((f) => [f.split('=')[0].trim(), f.slice(f.indexOf('=') + 1).trim()]));
const clean = (tag) => tag.replace(/[^a-zA-Z0-9._-]+/g, '-');

const flavor = { latest: 'auto', prefix: '', suffix: '', ...Object.assign({}, ...lines('flavor').map(fields)) };
const ref = env.GITHUB_REF;
const semver = /^refs\/tags\/v?(\d+)\.(\d+)\.(\d+)(-[\w.]+)?$/.exec(ref);
let latest = flavor.latest === 'true';

// Each kind returns a tag, or '' when the event has none.
const kinds = {
  raw: (f) => f.value,
  sha: (f) => (f.prefix ?? 'sha-') + (f.format === 'long' ? env.GITHUB_SHA : env.GITHUB_SHA.slice(0, 7)),
  ref: (f) => {
    const [, kind, name] = /^refs\/(heads|tags|pull)\/(.*)$/.exec(ref) || [];
    if (kind !== { branch: 'heads', tag: 'tags', pr: 'pull' }[f.event]) {
      return '';
    }
    if (kind === 'tags' && flavor.latest === 'auto') {
      latest = true;
    }
    return (f.prefix ?? (kind === 'pull' ? 'pr-' : '')) + (kind === 'pull' ? name.split('/')[0] : clean(name));
  },
  semver: (f) => {
    if (!semver) {
      return '';
    }
    if (flavor.latest === 'auto' && !semver[4]) {
      latest = true;
    }
    const [, major, minor, patch, pre = ''] = semver;
    const values = { version: `${major}.${minor}.${patch}${pre}`, major, minor, patch };
    return f.pattern.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
  },
};
const wanted = lines('tags').length ? lines('tags') : ['type=ref,event=branch', 'type=ref,event=tag', 'type=ref,event=pr'];
const tags = [];
for (const f of wanted.map(fields)) {
  if (f.enable === 'false') {
    continue;
  }
  const tag = kinds[f.type](f);
  if (tag) {
    tags.push(flavor.prefix + tag + flavor.suffix);
  }
}
if (latest) {
  tags.push('latest');
}
const names = lines('images').flatMap((image) => [...new Set(tags)].map((tag) => `${image.toLowerCase()}:${tag}`));
const source = `${env.GITHUB_SERVER_URL}/${env.GITHUB_REPOSITORY}`;
const labels = Object.entries({
  'org.opencontainers.image.created': new Date().toISOString(),
  'org.opencontainers.image.revision': env.GITHUB_SHA,
  'org.opencontainers.image.source': source,
  'org.opencontainers.image.title': env.GITHUB_REPOSITORY.split('/')[1],
  'org.opencontainers.image.url': source,
  'org.opencontainers.image.version': tags[0] || '',
}).map(([key, value]) => `${key}=${value}`).concat(lines('labels'));

const outputs = {
  version: tags[0] || '',
  tags: names.join('\n'),
  labels: labels.join('\n'),
  annotations: labels.map((l) => `manifest:${l}`).join('\n'),
  json: JSON.stringify({ tags: names, labels: Object.fromEntries(labels.map((l) => [l.split('=')[0], l.slice(l.indexOf('=') + 1)])) }),
};
for (const [name, value] of Object.entries(outputs)) {
  const end = crypto.randomUUID();
  fs.appendFileSync(env.GITHUB_OUTPUT, `${name}<<${end}\n${value}\n${end}\n`);
  fs.appendFileSync(env.GITHUB_ENV, `DOCKER_METADATA_OUTPUT_${name.toUpperCase()}<<${end}\n${value}\n${end}\n`);
}
