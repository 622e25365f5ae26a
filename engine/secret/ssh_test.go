package secret

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// newKey returns a private key and the path of a file with it, encrypted when
// there is a passphrase.
func newKey(t *testing.T, passphrase string) (ed25519.PrivateKey, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "test")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id_ed25519")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, path
}

// runAgent serves an agent with key on a socket, and returns its path.
func runAgent(t *testing.T, key ed25519.PrivateKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				agent.ServeAgent(ring, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return path
}

// sign has the agent at path sign something with its first key, and checks it.
func sign(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	a := agent.NewClient(c)
	keys, err := a.List()
	if err != nil {
		return err
	}
	if len(keys) != 1 {
		return errors.New("the agent has other than one key")
	}
	data := []byte("challenge")
	sig, err := a.Sign(keys[0], data)
	if err != nil {
		return err
	}
	return keys[0].Verify(data, sig)
}

func TestForward(t *testing.T) {
	key, path := newKey(t, "")
	for name, a := range map[string]Agent{
		"socket": {Socket: runAgent(t, key)},
		"keys":   {Keys: []string{path}},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			stop, err := Agents{"default": a}.Forward(t.Context(), "", socket)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					if err := sign(socket); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()

			// A step that keeps its connection open does not hold the build.
			idle, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			if _, err := agent.NewClient(idle).List(); err != nil {
				t.Error(err)
			}
			stop()
			idle.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := idle.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(err.Error(), "reset") {
				t.Errorf("after stop a connection is open: %v", err)
			}
			if err := sign(socket); err == nil {
				t.Error("after stop the agent still signs")
			}
			stop() // a second time is no harm
		})
	}
}

func TestForwardEndsWithItsContext(t *testing.T) {
	_, path := newKey(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	socket := filepath.Join(t.TempDir(), "s")
	stop, err := Agents{"a": {Keys: []string{path}}}.Forward(ctx, "a", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := sign(socket); err != nil {
		t.Fatal(err)
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("still listening")
		}
	}
}

func TestForwardErrors(t *testing.T) {
	_, locked := newKey(t, "SEKRET")
	_, good := newKey(t, "")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("SEKRET"), 0o600); err != nil {
		t.Fatal(err)
	}
	agents := Agents{
		"locked":  {Keys: []string{good, locked}},
		"garbage": {Keys: []string{garbage}},
		"missing": {Keys: []string{garbage + ".missing"}},
		"none":    {},
	}
	for id, want := range map[string]string{
		"locked": locked, "garbage": garbage, "missing": "missing", "none": "neither", "default": ErrNotFound.Error(),
	} {
		socket := filepath.Join(t.TempDir(), "s")
		stop, err := agents.Forward(t.Context(), id, socket)
		if err == nil {
			stop()
			t.Errorf("%s: no error", id)
			continue
		}
		if !strings.Contains(err.Error(), "ssh agent "+id) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", id, err, want)
		}
		if strings.Contains(err.Error(), "SEKRET") {
			t.Errorf("%s: the error has what is in the file: %v", id, err)
		}
		if _, err := os.Lstat(socket); err == nil {
			t.Errorf("%s: the socket is there", id)
		}
	}
}

func TestForwardToDeadAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	a := Agents{"default": {Socket: filepath.Join(t.TempDir(), "nobody")}}
	stop, err := a.Forward(t.Context(), "default", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := sign(socket); err == nil {
		t.Error("an agent that is not there signs")
	}
}
