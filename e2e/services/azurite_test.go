package services_test

import (
	"bytes"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"

	"github.com/mayfly-build/mayfly/e2e/services"
)

func TestAzurite(t *testing.T) {
	a, err := services.StartAzurite(services.AzuriteConfig{})
	services.Use(t, a, err)
	key, err := azblob.NewSharedKeyCredential(a.Account, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := azblob.NewClientWithSharedKeyCredential(a.URL, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateContainer(t.Context(), "box", nil); err != nil {
		t.Fatal(err)
	}
	want := []byte("hello")
	if _, err := c.UploadBuffer(t.Context(), "box", "a/b", want, nil); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := c.DownloadBuffer(t.Context(), "box", "a/b", got, nil); err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("%q, %v; want %q", got[:n], err, want)
	}
}
