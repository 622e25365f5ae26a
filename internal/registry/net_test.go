package registry_test

import (
	"context"
	"net"
	"testing"
	"time"
)

// redirectDialer resolves names from a table.
type redirectDialer struct{ to map[string]string }

func (d *redirectDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if to, ok := d.to[addr]; ok {
		addr = to
	} else if host, _, _ := net.SplitHostPort(addr); net.ParseIP(host) == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
