#!/usr/bin/env node
// gitlab-ci-local: runs the program of that package, also on Node 20, which has
// no Set.prototype.union yet.
Set.prototype.union ??= function (other) {
  return new Set([...this, ...other]);
};
await import("gitlab-ci-local/dist/index.js");
