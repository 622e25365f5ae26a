package stall

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestTransport(t *testing.T) {
	const after = 100 * time.Millisecond
	gone := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/silent", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	})
	mux.HandleFunc("/half", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) { // slow, but it moves
		for range 8 {
			time.Sleep(after / 3)
			io.WriteString(w, "byte ")
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) { // all is there; the answer takes time
		io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
			return
		case <-time.After(3 * after):
		}
		io.WriteString(w, "stored")
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer close(gone)
	client := &http.Client{Transport: Transport(&http.Transport{}, after)}
	defer client.CloseIdleConnections()
	for _, tt := range []struct {
		path, body, want string
		stalls           bool
	}{
		{"/silent", "", "", true},
		{"/late", "a small body", "", true},
		{"/half", "", "half", true},
		{"/slow", "", "byte byte byte byte byte byte byte byte ", false},
		{"/late", strings.Repeat("a large body", 300<<10), "stored", false},
		{"/late?moves", "a small body", "stored", false},
	} {
		var body io.Reader
		if tt.body != "" {
			body = bytes.NewReader([]byte(tt.body))
		}
		ctx := t.Context()
		if strings.HasSuffix(tt.path, "?moves") {
			ctx = Moving(ctx, 4<<20)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+tt.path, body)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		resp, err := client.Do(req)
		if err == nil {
			got, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if string(got) != tt.want || errors.Is(err, Err) != tt.stalls || (err != nil) != tt.stalls {
			t.Errorf("%s: %q, %v; want %q, stalls %v", tt.path, got, err, tt.want, tt.stalls)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestEnd: an exchange whose answer has been read holds nothing any longer,
// closed or not.
func TestEnd(t *testing.T) {
	for _, end := range []func(io.ReadCloser) error{
		func(b io.ReadCloser) error { _, err := io.ReadAll(b); return err },
		func(b io.ReadCloser) error { return b.Close() },
	} {
		var ctx context.Context
		tr := Transport(roundTripper(func(r *http.Request) (*http.Response, error) {
			ctx = r.Context()
			return &http.Response{Body: io.NopCloser(strings.NewReader("x"))}, nil
		}), time.Minute)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Error("it has ended before its body")
		}
		if err := end(resp.Body); err != nil {
			t.Fatal(err)
		}
		if ctx.Err() == nil {
			t.Error("it has not ended with its body")
		}
	}
}
