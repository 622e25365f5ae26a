package signed_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

func encodePublic(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// TestKeysOfTools signs with the keys that people make with openssl and
// ssh-keygen.
func TestKeysOfTools(t *testing.T) {
	for _, tt := range []struct {
		name            string
		private, public string // commands, with $K for the file
	}{
		{"openssl ed25519", "openssl genpkey -algorithm ed25519 -out $K", "openssl pkey -in $K -pubout"},
		{"openssl p256", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out $K", "openssl pkey -in $K -pubout"},
		{"openssl p384", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out $K", "openssl pkey -in $K -pubout"},
		{"openssl ecparam", "openssl ecparam -name prime256v1 -genkey -out $K", "openssl ec -in $K -pubout"},
		{"ssh-keygen ed25519", "ssh-keygen -q -t ed25519 -N '' -f $K -C 'me@host'", "cat $K.pub"},
		{"ssh-keygen ecdsa", "ssh-keygen -q -t ecdsa -b 384 -N '' -f $K", "cat $K.pub"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := exec.LookPath(strings.Fields(tt.private)[0]); err != nil {
				t.Skip(err)
			}
			file := filepath.Join(t.TempDir(), "key")
			sh := func(script string) []byte {
				cmd := exec.Command("sh", "-c", script)
				cmd.Env = append(os.Environ(), "K="+file)
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%s: %v", script, err)
				}
				return out
			}
			sh(tt.private)
			private, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			signer, err := signed.ParsePrivateKey(file, private)
			if err != nil {
				t.Fatal(err)
			}
			public := sh(tt.public)
			pubs, err := signed.ParsePublicKeys("key.pub", public)
			if err != nil || len(pubs) != 1 || pubs[0].KeyID() != signer.KeyID() {
				t.Fatalf("%v, %v", pubs, err)
			}
			m := remotecache.NewMemory()
			save(t, sign(t, m, signer), "main", fill(t, m, 1))
			load(t, verify(t, m, signed.Policy{Keys: pubs}), "main")
			if strings.HasPrefix(tt.name, "openssl") {
				want := strings.Fields(string(sh("openssl pkey -in $K -pubout -outform DER | sha256sum")))[0]
				if signer.KeyID() != "sha256:"+want {
					t.Errorf("key ID %s, openssl says %s", signer.KeyID(), want)
				}
			}
			if text := fmt.Sprintf("%v %+v %s", signer, signed.Config{Signers: []signed.Signer{signer}}, signer); strings.Count(text, signer.KeyID()) != 3 {
				t.Errorf("it prints as %s", text)
			}
		})
	}
}

func TestPrivateKeysRefused(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	withPassphrase, err := ssh.MarshalPrivateKeyWithPassphrase(ed, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, headers map[string]string) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: []byte("some bytes")})
	}
	sshPub, err := ssh.NewPublicKey(ed.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "no PEM block"},
		{"text", []byte("hello"), "no PEM block"},
		{"public", encodePublic(t, ed.Public()), "public key"},
		{"public, OpenSSH", ssh.MarshalAuthorizedKey(sshPub), "public key"},
		{"certificate", block("CERTIFICATE", nil), "certificate"},
		{"RSA", encodeKey(t, rsaKey), "RSA"},
		{"P-521", encodeKey(t, p521), "another curve"},
		{"PKCS #8 with a passphrase", block("ENCRYPTED PRIVATE KEY", nil), "passphrase"},
		{"cosign's", block("ENCRYPTED SIGSTORE PRIVATE KEY", nil), "passphrase"},
		{"SEC 1 with a passphrase", block("EC PRIVATE KEY", map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}), "passphrase"},
		{"OpenSSH with a passphrase", pem.EncodeToMemory(withPassphrase), "passphrase"},
		{"damaged", block("PRIVATE KEY", nil), ""},
		{"cut", encodeKey(t, ed)[:60], "no PEM block"},
	} {
		_, err := signed.ParsePrivateKey("ci/key.pem", tt.data)
		if err == nil || !strings.Contains(err.Error(), "ci/key.pem") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q and the name", tt.name, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "some bytes") {
			t.Errorf("%s: the error shows the file: %v", tt.name, err)
		}
	}
}

func TestPublicKeys(t *testing.T) {
	a, b := newKey(t, "ed25519"), newKey(t, "p256")
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaSSH, err := ssh.NewPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	two := append([]byte("the keys of 2026\n"), encodePublic(t, ed.Public())...)
	two = append(two, encodePublic(t, ed.Public())...)
	for _, tt := range []struct {
		name string
		data []byte
		n    int
		want string // of the error
	}{
		{"two, and words", two, 2, ""},
		{"nothing", nil, 0, "no key"},
		{"a comment", []byte("# none yet\n\n"), 0, "no key"},
		{"text", []byte("\nhello\n"), 0, "line 2"},
		{"the second is cut", two[:len(two)-20], 0, "block 2"},
		{"private", encodeKey(t, ed), 0, "private key"},
		{"certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), 0, "certificate"},
		{"RSA", encodePublic(t, rsaKey.Public()), 0, "RSA"},
		{"RSA, OpenSSH", ssh.MarshalAuthorizedKey(rsaSSH), 0, "RSA"},
		{"damaged", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}), 0, "block 1"},
	} {
		keys, err := signed.ParsePublicKeys("keys.pub", tt.data)
		if tt.want == "" {
			if err != nil || len(keys) != tt.n {
				t.Errorf("%s: %d keys, %v", tt.name, len(keys), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "keys.pub") {
			t.Errorf("%s: %v, want %q and the name", tt.name, err, tt.want)
		}
	}
	m := remotecache.NewMemory()
	save(t, sign(t, m, b), "main", fill(t, m, 1))
	load(t, verify(t, m, keys(a, b)), "main")
}
