package ghacache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

var errNoBlob = errors.New("no such blob")

// blobs is the container that has the bytes of the entries.
type blobs struct {
	container *container.Client
	name      string
	cred      *azblob.SharedKeyCredential
}

func newBlobs(ctx context.Context, account string, cred *azblob.SharedKeyCredential) (*blobs, error) {
	b := &blobs{name: "cache-" + strings.ToLower(rand.Text()), cred: cred}
	var err error
	if b.container, err = container.NewClientWithSharedKeyCredential(account+"/"+b.name, cred, nil); err != nil {
		return nil, err
	}
	if _, err := b.container.Create(ctx, nil); err != nil {
		return nil, fmt.Errorf("make container %s: %w", b.name, err)
	}
	return b, nil
}

func (b *blobs) newName() string { return strings.ToLower(rand.Text()) }

func (b *blobs) uploadURL(name string, lifetime time.Duration) (string, error) {
	return b.sign(name, lifetime, sas.BlobPermissions{Create: true, Write: true})
}

func (b *blobs) downloadURL(name string, lifetime time.Duration) (string, error) {
	return b.sign(name, lifetime, sas.BlobPermissions{Read: true})
}

func (b *blobs) sign(name string, lifetime time.Duration, p sas.BlobPermissions) (string, error) {
	if lifetime <= 0 {
		lifetime = 10 * time.Minute
	}
	q, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: time.Now().UTC().Add(lifetime),
		Permissions: p.String(), ContainerName: b.name, BlobName: name,
	}.SignWithSharedKey(b.cred)
	if err != nil {
		return "", fmt.Errorf("sign the URL of a blob: %w", err)
	}
	return b.container.NewBlobClient(name).URL() + "?" + q.Encode(), nil
}

// size returns the bytes of a blob; the error is errNoBlob when there is none.
func (b *blobs) size(ctx context.Context, name string) (int64, error) {
	p, err := b.container.NewBlobClient(name).GetProperties(ctx, nil)
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		return 0, errNoBlob
	}
	if err != nil {
		return 0, err
	}
	return *p.ContentLength, nil
}

// remove forgets a blob; it is no error when there is none.
func (b *blobs) remove(ctx context.Context, name string) error {
	_, err := b.container.NewBlobClient(name).Delete(ctx, nil)
	if bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil
	}
	return err
}
