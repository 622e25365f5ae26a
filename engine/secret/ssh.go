package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Agents are the SSH agents a build may use, by id ("default" unless said).
// An Agent is the path of an agent's socket, or of private keys.
type Agents map[string]Agent

// An Agent is an agent's socket, or keys that are served from memory.
type Agent struct {
	Socket string
	Keys   []string // paths of unencrypted private keys
}

// Forward listens on a new socket at path until ctx is done, and forwards each
// connection to the agent id. The function it returns ends it and waits.
func (a Agents) Forward(ctx context.Context, id, path string) (stop func(), err error) {
	if id == "" {
		id = "default"
	}
	ag, ok := a[id]
	if !ok {
		return nil, fmt.Errorf("ssh agent %s: %w", id, ErrNotFound)
	}
	serve, err := ag.server()
	if err != nil {
		return nil, fmt.Errorf("ssh agent %s: %w", id, err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, func() { l.Close() })
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				unhook := context.AfterFunc(ctx, func() { c.Close() })
				defer unhook()
				serve(ctx, c)
			})
		}
	})
	return func() {
		cancel()
		l.Close()
		wg.Wait()
	}, nil
}

func (a Agent) server() (func(context.Context, net.Conn), error) {
	if a.Socket != "" {
		return a.relay, nil
	}
	ring := agent.NewKeyring()
	for _, path := range a.Keys {
		dt, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		key, err := ssh.ParseRawPrivateKey(dt)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", path, err)
		}
		if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("key %s: %w", path, err)
		}
	}
	if len(a.Keys) == 0 {
		return nil, errors.New("neither a socket nor a key is given")
	}
	return func(_ context.Context, c net.Conn) { _ = agent.ServeAgent(ring, c) }, nil
}

func (a Agent) relay(ctx context.Context, c net.Conn) {
	up, err := (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
	if err != nil {
		return // the client sees the connection close
	}
	defer up.Close()
	unhook := context.AfterFunc(ctx, func() { up.Close() })
	defer unhook()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, c)
		if u, ok := up.(*net.UnixConn); ok {
			_ = u.CloseWrite()
		}
	}()
	_, _ = io.Copy(c, up) // either end may go at any time
	c.Close()
	<-done
}
