//go:build race

package s3_test

// race tells that the race detector, which takes memory, is at work.
const race = true
