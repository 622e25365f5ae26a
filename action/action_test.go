package action

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// plan reads inputs; the names of those that are environment variables begin
// with a $.
func plan(in map[string]string) (*Plan, error) {
	env := map[string]string{
		"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "acme/app",
		"GITHUB_SHA": "c0ffee", "GITHUB_WORKSPACE": "/ws",
	}
	for name, value := range in {
		if v, ok := strings.CutPrefix(name, "$"); ok {
			env[v] = value
		} else {
			env[variable(name)] = value
		}
	}
	return New(Config{
		Getenv: lookup(env), Variables: slices.Collect(maps.Keys(env)), Tmp: "/tmp/step",
		Gha: func() error {
			if env["ACTIONS_RUNTIME_TOKEN"] == "" {
				return errors.New("there is no token")
			}
			return nil
		},
	})
}

// TestRefused: what cannot be honoured, and would be missed in the result.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		in   map[string]string
		want string
	}{
		"boolean":       {map[string]string{"push": "yes"}, "input push"},
		"quote":         {map[string]string{"secrets": "\"A=s3cret"}, "input secrets"},
		"call":          {map[string]string{"call": "check"}, "input call"},
		"stdin":         {map[string]string{"context": "-"}, "standard input"},
		"stdin file":    {map[string]string{"file": "-", "context": "."}, "standard input"},
		"tar to stdout": {map[string]string{"outputs": "type=tar"}, "dest"},
		"oci to stdout": {map[string]string{"outputs": "type=oci,dest=-"}, "dest"},
		"dash":          {map[string]string{"outputs": "-"}, "dest"},
		"no repository": {map[string]string{"$GITHUB_REPOSITORY": ""}, "GITHUB_REPOSITORY"},
		"cache mounts":  {map[string]string{"cache-mounts": `"a`, "cache": "gha"}, "input cache-mounts"},
	} {
		_, err := plan(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error %v, want one with %q", name, err, tt.want)
		}
	}
}

// TestNotes: what is honoured in part, or not at all without a loss.
func TestNotes(t *testing.T) {
	for name, tt := range map[string]struct {
		in   map[string]string
		want string // "" for none
	}{
		"unknown":             {map[string]string{"colour": "red"}, "warning: input colour is not known"},
		"builder":             {map[string]string{"builder": "b1"}, ""},
		"call build":          {map[string]string{"call": "build"}, ""},
		"report and trace":    {map[string]string{"trace": "t.json", "report": "r.html"}, ""},
		"no secret":           {map[string]string{"secrets": "just-text"}, "warning: input secrets: "},
		"empty secret":        {map[string]string{"secrets": "A="}, "warning: input secrets: "},
		"no secret env":       {map[string]string{"secret-envs": "A"}, "warning: input secret-envs: "},
		"unset secret env":    {map[string]string{"secret-envs": "A=B"}, "warning: input secret-envs: the environment variable B is not set"},
		"no secret file":      {map[string]string{"secret-files": "A"}, "warning: input secret-files: "},
		"index annotations":   {map[string]string{"annotations": "index:a=b", "provenance": "false"}, "warning: input annotations: the image has no index for index:a"},
		"annotated index":     {map[string]string{"annotations": "index:a=b", "platforms": "linux/amd64,linux/arm64"}, ""},
		"annotation":          {map[string]string{"annotations": "a=b:c"}, ""},
		"nowhere":             {map[string]string{"tags": "a/b"}, "info: the image is neither pushed nor loaded"},
		"pushed":              {map[string]string{"tags": "a/b", "push": "true"}, ""},
		"loaded":              {map[string]string{"tags": "a/b", "load": "true"}, ""},
		"mounts without auto": {map[string]string{"cache-to": "type=gha", "cache-mounts": "true"}, "warning: input cache-mounts: "},
		"no token":            {map[string]string{"$ACTIONS_RUNTIME_TOKEN": ""}, "notice: building without a remote cache: there is no token"},
		"enterprise server":   {map[string]string{"$GITHUB_SERVER_URL": "https://git.acme.test"}, "notice: building without a remote cache: https://git.acme.test is not github.com"},
		"enterprise cloud":    {map[string]string{"$GITHUB_SERVER_URL": "https://acme.ghe.com"}, ""},
		"chosen there":        {map[string]string{"$GITHUB_SERVER_URL": "https://git.acme.test", "cache": "gha"}, ""},
	} {
		if _, ok := tt.in["$ACTIONS_RUNTIME_TOKEN"]; !ok {
			tt.in["$ACTIONS_RUNTIME_TOKEN"] = "t"
		}
		p, err := plan(tt.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var notes []string
		for _, n := range p.Notes {
			notes = append(notes, string(n.Level)+": "+n.Text)
		}
		got := strings.Join(notes, "\n")
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) || len(notes) > 1 || strings.Contains(got, "just-text") {
			t.Errorf("%s: %q; want %q", name, got, tt.want)
		}
	}
}

// flags returns the values of a flag.
func flags(args []string, name string) (out []string) {
	for i, a := range args {
		if a == "--"+name {
			out = append(out, args[i+1])
		}
	}
	return out
}

func TestCaches(t *testing.T) {
	for name, tt := range map[string]struct {
		in       map[string]string
		from, to []string
	}{
		"auto": {map[string]string{}, []string{"type=gha,scope=auto"}, []string{"type=gha,scope=auto,mode=max"}},
		"auto with mounts": {map[string]string{"cache": "auto", "cache-mounts": "true"},
			[]string{"type=gha,scope=auto"}, []string{"type=gha,scope=auto,mode=max,mounts=true"}},
		"own from":      {map[string]string{"cache-from": "type=gha"}, []string{"type=gha"}, nil},
		"own to":        {map[string]string{"cache-to": "type=inline"}, nil, []string{"type=inline"}},
		"off":           {map[string]string{"cache": "off"}, nil, nil},
		"false":         {map[string]string{"cache": "false"}, nil, nil},
		"off, but own":  {map[string]string{"cache": "off", "cache-to": "type=inline"}, nil, []string{"type=inline"}},
		"gha beside":    {map[string]string{"cache": "gha", "cache-from": "x/y:c"}, []string{"x/y:c", "type=gha,scope=auto"}, []string{"type=gha,scope=auto,mode=max"}},
		"a reference":   {map[string]string{"cache": "x/y:c"}, []string{"type=registry,ref=x/y:c,scope=auto"}, []string{"type=registry,ref=x/y:c,scope=auto,mode=max"}},
		"its own scope": {map[string]string{"cache": "type=gha,scope=web"}, []string{"type=gha,scope=web"}, []string{"type=gha,scope=web,mode=max"}},
		"no service":    {map[string]string{"$ACTIONS_RUNTIME_TOKEN": ""}, nil, nil},
	} {
		if _, ok := tt.in["$ACTIONS_RUNTIME_TOKEN"]; !ok {
			tt.in["$ACTIONS_RUNTIME_TOKEN"] = "t"
		}
		p, err := plan(tt.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		from, to := flags(p.Args, "cache-from"), flags(p.Args, "cache-to")
		if !slices.Equal(from, tt.from) || !slices.Equal(to, tt.to) {
			t.Errorf("%s: from %q, to %q; want %q, %q", name, from, to, tt.from, tt.to)
		}
	}
}

func TestOutputs(t *testing.T) {
	for name, tt := range map[string]struct {
		in         map[string]string
		want       []string
		load, left []string
		iid        bool
	}{
		"none":            {map[string]string{}, nil, nil, nil, true},
		"load":            {map[string]string{"load": "true"}, []string{"type=docker,dest=/tmp/step/load-1.tar"}, []string{"/tmp/step/load-1.tar"}, nil, true},
		"docker":          {map[string]string{"outputs": "type=docker,name=a/b"}, []string{"type=docker,name=a/b,dest=/tmp/step/load-1.tar"}, []string{"/tmp/step/load-1.tar"}, nil, true},
		"both":            {map[string]string{"outputs": "type=docker", "load": "true"}, []string{"type=docker,dest=/tmp/step/load-1.tar"}, []string{"/tmp/step/load-1.tar"}, nil, true},
		"docker file":     {map[string]string{"outputs": "type=docker,dest=x.tar"}, []string{"type=docker,dest=x.tar"}, nil, []string{"x.tar"}, true},
		"image and load":  {map[string]string{"outputs": "type=image,push=true", "load": "true"}, []string{"type=image,push=true", "type=docker,dest=/tmp/step/load-1.tar"}, []string{"/tmp/step/load-1.tar"}, nil, true},
		"directory":       {map[string]string{"outputs": "out"}, []string{"out"}, nil, []string{"out"}, false},
		"local":           {map[string]string{"outputs": "type=local,dest=out"}, []string{"type=local,dest=out"}, nil, []string{"out"}, false},
		"tar":             {map[string]string{"outputs": `type=tar,"dest=a,b.tar"`}, []string{`type=tar,"dest=a,b.tar"`}, nil, []string{"a,b.tar"}, false},
		"nothing":         {map[string]string{"outputs": "type=cacheonly", "tags": "a/b"}, nil, nil, nil, true},
		"local cache":     {map[string]string{"cache-to": "type=local,dest=c"}, nil, nil, []string{"c"}, true},
		"registry cache":  {map[string]string{"cache-to": "x/y:c"}, nil, nil, nil, true},
		"about the build": {map[string]string{"report": "r.html", "trace": "t.json"}, nil, nil, []string{"r.html", "t.json"}, true},
	} {
		p, err := plan(tt.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := flags(p.Args, "output"); !slices.Equal(got, tt.want) || !slices.Equal(p.Load, tt.load) || !slices.Equal(p.Left, tt.left) || (p.IIDFile != "") != tt.iid {
			t.Errorf("%s: outputs %q, load %q, left %q, iidfile %q", name, got, p.Load, p.Left, p.IIDFile)
		}
	}
}

func TestSecrets(t *testing.T) {
	p, err := plan(map[string]string{
		"secrets": "A=one\n\"B=two\nlines\n\"\n\"odd,id=x\"", "github-token": "ghs_1", "secret-envs": "C=HOME", "$HOME": "/home/me",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"id=C,env=HOME", "id=A,env=MAYFLY_ACTION_SECRET_1", "id=B,env=MAYFLY_ACTION_SECRET_2",
		`"id=odd,id",env=MAYFLY_ACTION_SECRET_3`, "id=GIT_AUTH_TOKEN.github.com,env=MAYFLY_ACTION_SECRET_4",
	}
	if got := flags(p.Args, "secret"); !slices.Equal(got, want) {
		t.Errorf("secrets\n%q\nwant\n%q", got, want)
	}
	if want := []string{"one", "two\nlines\n", "x", "ghs_1"}; !slices.Equal(p.Masks, want) {
		t.Errorf("masks %q, want %q", p.Masks, want)
	}
	get := p.Getenv(lookup(map[string]string{"HOME": "/home/me"}))
	for name, want := range map[string]string{"MAYFLY_ACTION_SECRET_2": "two\nlines\n", "MAYFLY_ACTION_SECRET_4": "ghs_1", "HOME": "/home/me"} {
		if got, ok := get(name); !ok || got != want {
			t.Errorf("%s is %q, %v", name, got, ok)
		}
	}
}

// TestGitToken: the job's token goes to its own server, and nowhere else.
func TestGitToken(t *testing.T) {
	for name, tt := range map[string]struct {
		in   map[string]string
		want string
	}{
		"default":        {map[string]string{}, "id=GIT_AUTH_TOKEN.github.com,env=MAYFLY_ACTION_SECRET_1"},
		"directory":      {map[string]string{"context": "{{defaultContext}}:sub"}, "id=GIT_AUTH_TOKEN.github.com,env=MAYFLY_ACTION_SECRET_1"},
		"with a port":    {map[string]string{"$GITHUB_SERVER_URL": "https://git.acme.test:8443"}, "id=GIT_AUTH_TOKEN.git.acme.test:8443,env=MAYFLY_ACTION_SECRET_1"},
		"path":           {map[string]string{"context": "."}, ""},
		"other server":   {map[string]string{"context": "https://evil.test/acme/app.git#c0ffee"}, ""},
		"other commit":   {map[string]string{"context": "https://github.com/acme/app.git#main"}, ""},
		"no token":       {map[string]string{"github-token": ""}, ""},
		"one of his own": {map[string]string{"secrets": "GIT_AUTH_TOKEN=mine"}, "id=GIT_AUTH_TOKEN,env=MAYFLY_ACTION_SECRET_1"},
	} {
		if _, ok := tt.in["github-token"]; !ok {
			tt.in["github-token"] = "ghs_1"
		}
		p, err := plan(tt.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Join(flags(p.Args, "secret"), " "); got != tt.want {
			t.Errorf("%s: %s; want %s", name, got, tt.want)
		}
	}
}

// TestDockerfile: annotations need the path in the repository.
func TestDockerfile(t *testing.T) {
	for name, tt := range map[string]struct {
		in   map[string]string
		want string
	}{
		"default":         {map[string]string{}, "Dockerfile"},
		"directory":       {map[string]string{"context": "{{defaultContext}}:web"}, "web/Dockerfile"},
		"its file":        {map[string]string{"context": "{{defaultContext}}:web", "file": "./ci/Dockerfile"}, "web/ci/Dockerfile"},
		"path":            {map[string]string{"context": "./app"}, "app/Dockerfile"},
		"path and file":   {map[string]string{"context": "./app", "file": "./docker/app.Dockerfile"}, "docker/app.Dockerfile"},
		"workspace":       {map[string]string{"context": "/ws/app"}, "app/Dockerfile"},
		"outside":         {map[string]string{"context": "/elsewhere"}, ""},
		"somebody else's": {map[string]string{"context": "https://g.test/a.git"}, ""},
	} {
		p, err := plan(tt.in)
		if err != nil || p.Dockerfile != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, p.Dockerfile, err, tt.want)
		}
	}
}

func TestWithoutUser(t *testing.T) {
	for in, want := range map[string]string{
		"https://me:s3cret@g.test/a.git#x": "https://***@g.test/a.git#x", "https://tok@g.test/a b://c@d": "https://***@g.test/a b://***@d",
		"https://g.test/a@b": "https://g.test/a@b", "git@g.test:a.git": "git@g.test:a.git",
	} {
		if got := WithoutUser(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestSwitches(t *testing.T) {
	p, err := plan(map[string]string{"$DOCKER_BUILD_SUMMARY": "false", "$DOCKER_BUILD_CHECKS_ANNOTATIONS": "0"})
	if err != nil || p.Summary || p.Annotate {
		t.Errorf("summary %v, annotations %v, %v", p.Summary, p.Annotate, err)
	}
	p, err = plan(map[string]string{"$DOCKER_BUILD_SUMMARY": "perhaps"})
	if err != nil || !p.Summary || !p.Annotate {
		t.Errorf("summary %v, annotations %v, %v", p.Summary, p.Annotate, err)
	}
}
