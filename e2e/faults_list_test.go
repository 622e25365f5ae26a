package e2e

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// A fault is what goes wrong between a build and its cache.
type fault struct {
	name  string
	kinds []string // of caches; nil means all that have a server
	short bool     // one of those that every run looks at

	where  place                                                             // which requests it is about
	passes bool                                                              // toxics: only the first requests meet it
	on     func(n int64, w http.ResponseWriter, r *http.Request) (done bool) // before the server sees a request, the n-th; done: it does not
	answer func(n int64, resp *http.Response)                                // changes a server's answer
	toxics []toxic

	setup func(ctx context.Context, x *cell) (end func(), err error) // makes another place for the cache
	spec  func(x *cell, spec string) string                          // changes what the flag says
	env   []string                                                   // of mayfly
	args  string                                                     // more attributes of the flag

	// The outcomes that are wanted, "" where the fault is not tried: of an
	// export beside a push, of an import on an empty machine. but has those
	// of single kinds: "s3 export".
	export, imports string
	but             map[string]string

	says  string        // a part of every reason or hint
	most  time.Duration // that the fault may cost; 0 means 10 seconds
	late  bool          // the cache is slow: the push is done before it
	aside bool          // the cache's place is not where a build without the fault looks

	// blocks are the kinds where what an export could not finish blocks the
	// next one, until the service drops it.
	blocks []string
}

type place string

const (
	everything place = ""
	reads      place = "reads"
	writes     place = "writes"
	blobs      place = "blobs"
	indexes    place = "indexes"
	storage    place = "storage" // of gha: where the bytes are
)

// patience is the attribute timeout= of caches whose fault does not pass.
const patience = 5 * time.Second

var (
	deadline  = fmt.Sprintf("timeout=%s", patience)
	untilThen = patience + 5*time.Second
	github    = []string{"gha", "gha-v1"}
)

// faults are the rows of the table.
func faults() []fault {
	all := []fault{{name: "none", short: true, export: "ok", imports: "ok"}}
	all = append(all, slow()...)
	for _, status := range []int{429, 500, 503} {
		all = append(all,
			fault{name: fmt.Sprintf("%d, 3 times", status), export: "ok", imports: "ok", on: first(passing, answers(status, ""))},
			fault{name: fmt.Sprintf("%d for ever, timeout=%s", status, patience), export: "failed", imports: "failed", args: deadline, short: status == 503,
				on: always(answers(status, "")), says: fmt.Sprint(status), most: untilThen})
	}
	all = append(all, []fault{
		{name: "429 with Retry-After: 1, 3 times", export: "ok", imports: "ok", short: true, on: first(passing, answers(429, "1"))},
		{name: "429 with Retry-After: 30 for ever, timeout=5s", export: "failed", imports: "failed", args: deadline,
			on: always(answers(429, "30")), says: "429", most: untilThen},
		{name: "503 on writes for ever", export: "failed", where: writes, on: always(answers(503, "")), says: "503", short: true},
		{name: "503 on blobs for ever", imports: "partial", where: blobs, on: always(answers(503, "")), says: "503", most: 15 * time.Second},
	}...)
	return append(append(append(all, broken()...), refused()...), patient()...)
}

// slow are the faults of networks.
func slow() []fault {
	both := func(kind, attr string, n int64) []toxic {
		return []toxic{{kind, "upstream", map[string]int64{attr: n}}, {kind, "downstream", map[string]int64{attr: n}}}
	}
	return []fault{
		{name: "200 ms to and fro", export: "ok", imports: "ok", toxics: both("latency", "latency", 100), most: 15 * time.Second, late: true},
		{name: "300 kB/s", export: "ok", imports: "ok", toxics: both("bandwidth", "rate", 300), most: 30 * time.Second, late: true, short: true},
		{name: "connections are reset, 3 of them", export: "ok", imports: "ok", passes: true,
			toxics: []toxic{{"reset_peer", "downstream", map[string]int64{"timeout": 20}}}},
		{name: "connections end after 300 kB", export: "failed", imports: "ok", blocks: []string{"gha"}, toxics: both("limit_data", "bytes", 300_000)},
		{name: "nothing is answered, timeout=5s", export: "failed", imports: "failed", args: deadline, short: true,
			toxics: []toxic{{"timeout", "downstream", map[string]int64{"timeout": 0}}}, most: untilThen, late: true},
	}
}

// broken are wrong bytes.
func broken() []fault {
	return []fault{
		{name: "answers end early, 3 of them", export: "ok", imports: "ok", answer: shorten(passing)},
		{name: "a byte of each blob is wrong", imports: "partial", where: blobs, answer: flip, says: "corrupt", short: true},
		{name: "a byte of each upload is wrong", kinds: []string{"s3", "registry"}, export: "failed", where: writes, on: flipUpload},
		{name: "the index is garbage", export: "ok", imports: "failed", where: indexes, answer: garbage, says: "corrupt", short: true},
	}
}

// refused are the refusals: of rights, of places that are not there, of more
// bytes than there is room for.
func refused() []fault {
	return []fault{
		{name: "403 on writes", export: "skipped", where: writes, on: always(answers(403, "")), says: "read-only", short: true},
		{name: "403 on reads", imports: "failed", where: reads, on: always(answers(403, "")), says: "403"},
		{name: "401 on everything", export: "failed", imports: "failed", on: always(answers(401, "")), says: "401"},
		{name: "the token may only read", kinds: github, export: "skipped", imports: "ok", spec: readToken, says: "read-only", short: true},
		{name: "ACTIONS_CACHE_MODE=read", kinds: github, export: "skipped", imports: "ok", env: []string{"ACTIONS_CACHE_MODE=read"}, says: "cache-mode"},
		{name: "ACTIONS_CACHE_MODE=none", kinds: github, export: "skipped", imports: "skipped", env: []string{"ACTIONS_CACHE_MODE=none"}},
		{name: "the token has expired", kinds: []string{"gha"}, export: "skipped", imports: "failed", spec: oldToken, says: "expired"},
		{name: "signed URLs expire before they are used, twice", kinds: []string{"gha"}, imports: "ok", setup: shortSAS, where: storage, on: late(2)},
		{name: "signed URLs expire before they are used", kinds: []string{"gha"}, export: "failed", imports: "failed", setup: shortSAS, where: storage, on: late(1 << 60),
			most: 20 * time.Second, says: "403", aside: true},
		{name: "the SAS has expired", kinds: []string{"azblob"}, export: "failed", imports: "failed", spec: expiredSAS, says: "make a new SAS", short: true},
		{name: "ExpiredToken", kinds: []string{"s3"}, export: "failed", imports: "failed", on: always(s3Error(400, "ExpiredToken")), says: "outlive the build"},
		{name: "the clock is wrong", kinds: []string{"s3", "azblob"}, export: "failed", imports: "failed", on: always(skewed), says: "clock"},
		{name: "no such bucket, container or repository", kinds: []string{"s3", "azblob", "registry"}, export: "ok", imports: "skipped", spec: elsewhere, aside: true,
			but: map[string]string{"s3 export": "failed"}},
		{name: "no such directory", kinds: []string{"local"}, imports: "skipped",
			spec: func(x *cell, spec string) string { return spec + "-absent" }},
		{name: "507, no room", kinds: []string{"gha", "gha-v1", "azblob"}, export: "failed", where: writes, on: always(answers(507, "")), says: "507"},
		{name: "the disk is full", kinds: []string{"s3", "registry", "local"}, export: "failed", setup: smallDisk, aside: true},
	}
}

// patient are faults for ever that meet a cache without timeout=: what it costs
// to find out.
func patient() []fault {
	const most = 2*time.Minute + 10*time.Second // blobs, and then the index
	return []fault{
		{name: "nothing is answered, no timeout=", export: "failed", imports: "failed", most: most,
			toxics: []toxic{{"timeout", "downstream", map[string]int64{"timeout": 0}}}},
		{name: "nothing is answered to writes, no timeout=", export: "failed", where: writes, on: always(silent), most: most},
		{name: "blobs stop in the middle, no timeout=", imports: "partial", where: blobs, answer: stop, most: most},
		{name: "429 for ever, no timeout=", export: "failed", imports: "failed", on: always(answers(429, "")), says: "429", most: most},
		{name: "503 with Retry-After: 30 for ever, no timeout=", export: "failed", imports: "failed", on: always(answers(503, "30")), says: "503", most: most},
	}
}
