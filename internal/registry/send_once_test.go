package registry

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestSendersOfOneBlobSendItOnce(t *testing.T) {
	var uploads atomic.Int64
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			uploads.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	defer srv.Close()
	c := New(Config{})
	data := []byte("one blob, many senders")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	ref := strings.TrimPrefix(srv.URL, "http://") + "/app"
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := c.PutBlob(t.Context(), ref, desc, func() (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(data)), nil
			}, "")
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := uploads.Load(); n != 1 {
		t.Errorf("%d uploads of one blob", n)
	}
}
