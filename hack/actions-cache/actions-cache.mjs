#!/usr/bin/env node
// actions-cache save PATH KEY | restore PATH KEY [RESTORE_KEY...]
// GitHub's client of the Actions cache, with the environment of a step. The
// last line it prints is "result: " and the entry's ID or the key that matched.
import { restoreCache, saveCache } from '@actions/cache'

const [op, path, key, ...restoreKeys] = process.argv.slice(2)
let result
switch (op) {
  case 'save':
    result = await saveCache([path], key)
    break
  case 'restore':
    result = await restoreCache([path], key, restoreKeys)
    break
  default:
    console.error('usage: actions-cache save PATH KEY | restore PATH KEY [RESTORE_KEY...]')
    process.exit(2)
}
console.log(`\nresult: ${result ?? ''}`)
