package gha

// For tests from the outside.
const EntryVersion = entryVersion

var ScopeOf = scopeOf
