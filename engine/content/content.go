// Package content keeps blobs on local disk by digest.
//
//	source/image, layer, remotecache ──Ingest──▶ content ──Open──▶ layer, exporter
//
// A blob is a file blobs/<algorithm>/<hex> in the state dir, written under a
// temporary name and renamed into place, so that any number of processes share
// one store without a lock. Nothing is synced: what is read back is checked by
// size when opened and by digest where it is used.
package content
