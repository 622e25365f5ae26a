package s3

import (
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/mayfly-build/mayfly/internal/retry"
)

// SetCopyMax makes objects of more than n bytes too large for one CopyObject.
func (b *Backend) SetCopyMax(n int64) { b.copyMax = n }

// SDK returns the client of the SDK, for what the cache itself never asks.
func (b *Backend) SDK() *sdk.Client { return b.client }

// Policy returns how the cache tries again by itself.
func (b *Backend) Policy() retry.Policy { return b.policy }
