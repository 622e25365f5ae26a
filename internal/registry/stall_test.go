package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-build/mayfly/internal/registry"
)

func TestStalledTransfers(t *testing.T) {
	data := randomBytes(1 << 20)
	var hung atomic.Bool
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodHead} {
		t.Run(method, func(t *testing.T) {
			hung.Store(false)
			release := make(chan struct{})
			host := faulty(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method != method || hung.Swap(true) {
						next.ServeHTTP(w, r)
						return
					}
					if method == http.MethodGet {
						w.Header().Set("Content-Length", fmt.Sprint(len(data)))
						w.Write(data[:1000])
						w.(http.Flusher).Flush()
					}
					select {
					case <-release:
					case <-r.Context().Done():
					}
				})
			})
			defer close(release) // before the server's cleanup waits for its handlers
			c := registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Millisecond, Stall: 100 * time.Millisecond})
			desc, open := blobOf(data)
			if err := c.PutBlob(t.Context(), host+"/a:v1", desc, open, ""); err != nil {
				t.Fatal(err)
			}
			rc, err := c.Blob(t.Context(), host+"/a:v1", desc, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer rc.Close()
			if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes: %v", len(got), err)
			}
			if !hung.Load() || c.Stats().Retries == 0 {
				t.Errorf("hung %v, %d retries", hung.Load(), c.Stats().Retries)
			}
		})
	}
}

// A slow reader is not a stalled server.
func TestSlowReaderIsNotAStall(t *testing.T) {
	host := faulty(t, func(next http.Handler) http.Handler { return next })
	data := randomBytes(8 << 20)
	desc := seed(t, host+"/a:v1", data)
	c := registry.New(registry.Config{Keychain: keychain{}, Backoff: time.Millisecond, Stall: 50 * time.Millisecond})
	rc, err := c.Blob(t.Context(), host+"/a:v1", desc, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	head := make([]byte, 100)
	io.ReadFull(rc, head)
	time.Sleep(200 * time.Millisecond)
	rest, err := io.ReadAll(rc)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("read %d bytes: %v", len(rest), err)
	}
	if n := c.Stats().Retries; n != 0 {
		t.Errorf("%d retries", n)
	}
}
