package services

import (
	"net/http"
	"net/http/httptest"
	"sync"
)

// Files serves a directory over HTTP and keeps a log.
type Files struct {
	URL string

	s   *httptest.Server
	mu  sync.Mutex
	log []Request // guarded by mu
}

// StartFiles serves the files of dir, with ETag-less Last-Modified answers as
// net/http's file server gives them.
func StartFiles(dir string) *Files {
	f := &Files{}
	h := http.FileServer(http.Dir(dir))
	f.s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &counter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(c, r)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.log = append(f.log, Request{r.Method, r.URL.RequestURI(), c.status, c.n})
	}))
	f.URL = f.s.URL
	return f
}

// Requests returns every request since the start.
func (f *Files) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Request(nil), f.log...)
}

// Close stops the server.
func (f *Files) Close() error { f.s.Close(); return nil }

type counter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (c *counter) WriteHeader(status int) { c.status = status; c.ResponseWriter.WriteHeader(status) }

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}
