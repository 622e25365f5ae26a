package signed_test

import (
	"context"
	"fmt"
	"log"

	"github.com/mayfly-build/mayfly/internal/hint"
	"github.com/mayfly-build/mayfly/remotecache"
	"github.com/mayfly-build/mayfly/remotecache/signed"
)

func Example() {
	ctx := context.Background()
	store := remotecache.NewMemory()

	// openssl genpkey -algorithm ed25519 -out cache.key; the job on main has it.
	// (This one is the example of RFC 8410.)
	private := []byte(`-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
`)
	key, err := signed.ParsePrivateKey("cache.key", private)
	if err != nil {
		log.Fatal(err)
	}
	main, err := signed.Sign(store, signed.Config{Signers: []signed.Signer{key}})
	if err != nil {
		log.Fatal(err)
	}

	// The release reads only what that key signed.
	release, err := signed.Verify(store, signed.Policy{Keys: []signed.PublicKey{key.PublicKey()}})
	if err != nil {
		log.Fatal(err)
	}

	if err := main.SaveIndex(ctx, "main", &remotecache.Index{}); err != nil {
		log.Fatal(err)
	}
	_, err = release.LoadIndex(ctx, "main")
	fmt.Println("signed:", err)

	if err := store.SaveIndex(ctx, "main", &remotecache.Index{}); err != nil {
		log.Fatal(err)
	}
	_, err = release.LoadIndex(ctx, "main")
	fmt.Println("poisoned:", err)
	fmt.Println("hint:", hint.Of(err))
	// Output:
	// signed: <nil>
	// poisoned: cache index "main" is not trusted: it is not signed
	// hint: sign it where it is written, with sign-key= or sign=oidc of --cache-to
}
