package services_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func TestS3(t *testing.T) {
	s, err := services.StartS3(services.S3Config{})
	services.Use(t, s, err)
	for path, want := range map[string]int{
		"/" + s.Bucket + "/blobs/x":     http.StatusForbidden, // a stranger
		"/" + s.Bucket + "?list-type=2": http.StatusForbidden,
	} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
	reqs, err := s.Requests()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []services.S3Request{{"GetObject", "blobs/x", 403}, {"ListObjectsV2", "", 403}} {
		if !slices.Contains(reqs, want) {
			t.Errorf("the log has %v, want %v in it", reqs, want)
		}
	}
}
