// Command ghacache runs act's server of the GitHub Actions cache on a free
// loopback port, below the directory given. It prints its ACTIONS_CACHE_URL
// and serves until it is killed.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/nektos/act/pkg/artifactcache"
	"github.com/sirupsen/logrus"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: ghacache DIRECTORY")
		os.Exit(2)
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	h, err := artifactcache.StartHandler(os.Args[1], "", "127.0.0.1", 0, quiet)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ghacache:", err)
		os.Exit(1)
	}
	fmt.Println(h.ExternalURL() + "/")
	select {}
}
