package action

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sethvargo/go-githubactions"

	"github.com/mayfly-build/mayfly/engine/progress/steplog"
)

// A Log writes what GitHub's runner reads: a step's log with its commands, and
// the files of its outputs and summary. A log that is gone fails no build.
type Log struct {
	out    io.Writer
	runner *githubactions.Action
	getenv func(string) (string, bool)

	resume  string // ends what Quote began; "" outside of it
	grouped bool   // it began a group
}

// NewLog returns a Log to w; getenv names the files.
func NewLog(w io.Writer, getenv func(string) (string, bool)) *Log {
	out := forgiving{w}
	env := func(name string) string { v, _ := getenv(name); return v }
	return &Log{out: out, getenv: getenv, runner: githubactions.New(githubactions.WithWriter(out), githubactions.WithGetenv(env))}
}

// forgiving writes what can be written.
type forgiving struct{ w io.Writer }

func (f forgiving) Write(p []byte) (int, error) {
	_, _ = f.w.Write(p)
	return len(p), nil
}

// Mask has the runner hide values from here on, wherever they are printed.
func (l *Log) Mask(values []string) {
	for _, v := range values {
		l.runner.AddMask(v)
	}
}

// Note shows what the user is to know.
func (l *Log) Note(n Note) {
	switch n.Level {
	case Warning:
		l.runner.Warningf("%s", n.Text)
	case Notice:
		l.runner.Noticef("%s", n.Text)
	default:
		fmt.Fprintln(l.out, n.Text)
	}
}

// Quote begins the output of other programs, whose commands to the runner are
// only text; in a group unless title is "". It ends with Unquote.
func (l *Log) Quote(title string) {
	if l.grouped = title != ""; l.grouped {
		l.runner.Group(title)
	}
	token := make([]byte, 16)
	rand.Read(token)
	l.resume = hex.EncodeToString(token)
	l.runner.IssueCommand(&githubactions.Command{Name: "stop-commands", Message: l.resume})
}

// Unquote ends what Quote began.
func (l *Log) Unquote() {
	if l.resume == "" {
		return
	}
	l.runner.IssueCommand(&githubactions.Command{Name: l.resume})
	l.resume = ""
	if l.grouped {
		l.runner.EndGroup()
	}
}

// Group shows text under a title that opens and closes. What looks like a
// command in it is only text.
func (l *Log) Group(title, text string) {
	l.Quote(title)
	fmt.Fprintln(l.out, strings.TrimRight(text, "\n"))
	l.Unquote()
}

// Tail shows the end of the log of a step that failed, outside of any group:
// nobody has to open it.
func (l *Log) Tail(s steplog.Step) {
	l.Quote("")
	fmt.Fprintln(l.out, s.Name)
	for _, line := range s.Tail {
		fmt.Fprintln(l.out, line)
	}
	l.Unquote()
}

// An Annotation is text about lines of a file.
type Annotation struct {
	File       string // in the repository; "" for none
	Start, End int    // lines; 0 for none
	Title      string
	Text       string
}

func (a Annotation) fields() githubactions.CommandProperties {
	f := githubactions.CommandProperties{}
	set := func(key, value string) {
		if value != "" {
			f[key] = value
		}
	}
	set("title", a.Title)
	if a.File == "" {
		return f
	}
	set("file", a.File)
	if a.Start > 0 {
		set("line", strconv.Itoa(a.Start))
		set("endLine", strconv.Itoa(max(a.Start, a.End)))
	}
	return f
}

// Error annotates what failed.
func (l *Log) Error(a Annotation) { l.runner.WithFieldsMap(a.fields()).Errorf("%s", a.Text) }

// Lint annotates a lint warning. dockerfile is where the Dockerfile is in the
// repository.
func (l *Log) Lint(w steplog.Warning, dockerfile string) {
	a := Annotation{File: steplog.FileOf(w.File, dockerfile), Start: w.Start, End: w.End}
	text := []string{w.Text}
	if w.Detail != "" {
		text = append(text, w.Detail)
	}
	if w.URL != "" {
		text = append(text, "More: "+w.URL)
	}
	a.Text = strings.Join(text, "\n")
	l.runner.WithFieldsMap(a.fields()).Warningf("%s", a.Text)
}

// Output sets an output of the step and shows it in a group of its own. Outside
// of a runner it is only shown.
func (l *Log) Output(name, title, value string) error {
	if value == "" {
		return nil
	}
	l.Group(title, value)
	return l.Set(name, value)
}

// Set sets an output of the step and shows nothing.
func (l *Log) Set(name, value string) error {
	if path, _ := l.getenv("GITHUB_OUTPUT"); path == "" {
		return nil
	}
	return l.file(func() { l.runner.SetOutput(name, value) })
}

// Summary adds to the job summary. Outside of a runner there is none.
func (l *Log) Summary(markdown string) error {
	if path, _ := l.getenv("GITHUB_STEP_SUMMARY"); path == "" {
		return nil
	}
	return l.file(func() { l.runner.AddStepSummary(markdown) })
}

// file turns the panic of a file that cannot be written into an error.
func (l *Log) file(write func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("tell the runner: %v", r)
		}
	}()
	write()
	return nil
}
