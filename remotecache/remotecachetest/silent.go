package remotecachetest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-build/mayfly/internal/retry"
	"github.com/mayfly-build/mayfly/remotecache"
)

// RunSilent tests what a backend does with a service that takes requests and
// never answers: it tries twice, and its error says so and is final. dial
// returns the backend that speaks to the service at a URL and notices silence
// after some milliseconds.
func RunSilent(t *testing.T, dial func(url string) remotecache.Backend) {
	blob, data := Blob(1, 1000)
	for name, call := range map[string]func(remotecache.Backend) error{
		"LoadIndex": func(b remotecache.Backend) error { _, err := b.LoadIndex(t.Context(), "main"); return err },
		"Missing": func(b remotecache.Backend) error {
			_, err := b.Missing(t.Context(), []ocispec.Descriptor{blob})
			return err
		},
		"Open": func(b remotecache.Backend) error {
			r, err := b.Open(t.Context(), blob, 0)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.ReadAll(r)
			return err
		},
		"Put": func(b remotecache.Backend) error { return b.Put(t.Context(), blob, bytes.NewReader(data)) },
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			over := make(chan struct{})
			srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				select {
				case <-r.Context().Done():
				case <-over:
				}
			}))
			defer srv.Close()
			defer close(over)
			err := call(dial(srv.URL))
			if err == nil {
				t.Fatal("no error")
			}
			if again, _ := retry.Passing(err); again || !strings.Contains(err.Error(), retry.ErrStalled.Error()) {
				t.Errorf("the error is %v", err)
			}
			if n := asked.Load(); n != 2 {
				t.Errorf("%d requests", n)
			}
		})
	}
}
