package sections

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// A Style is how a CI service folds its logs.
type Style string

// The services whose logs fold.
const (
	GitLab    Style = "gitlab"    // docs.gitlab.com, "Custom collapsible sections"
	Azure     Style = "azure"     // learn.microsoft.com, "Formatting commands"
	Buildkite Style = "buildkite" // buildkite.com/docs, "Managing log output"
	GitHub    Style = "github"    // docs.github.com, "Workflow commands": grouping log lines
)

// Styles lists all of them.
func Styles() []Style { return []Style{Azure, Buildkite, GitHub, GitLab} }

// open returns the line that begins a section. The id is of letters, digits
// and _, and no other section has it.
func (s Style) open(id, title string, at time.Time, folded bool) string {
	title = line(title)
	switch s {
	case GitLab:
		options := ""
		if folded {
			options = "[collapsed=true]"
		}
		return fmt.Sprintf("\x1b[0Ksection_start:%d:%s%s\r\x1b[0K%s\n", at.Unix(), id, options, title)
	case Azure:
		if !folded { // a group is folded whatever we say
			return "##[error]" + s.text(title) + "\n"
		}
		return "##[group]" + s.text(title) + "\n"
	case Buildkite:
		if !folded {
			return "+++ " + title + "\n"
		}
		return "--- " + title + "\n"
	case GitHub:
		if !folded { // as Azure's
			return s.text(title) + "\n"
		}
		return "::group::" + strings.ReplaceAll(s.text(title), "%", "%25") + "\n"
	}
	return title + "\n"
}

// close returns the line that ends it, "" where none does.
func (s Style) close(id string, at time.Time, folded bool) string {
	switch s {
	case GitLab:
		return fmt.Sprintf("\x1b[0Ksection_end:%d:%s\r\x1b[0K\n", at.Unix(), id)
	case Azure:
		if folded {
			return "##[endgroup]\n"
		}
	case GitHub:
		if folded {
			return "::endgroup::\n"
		}
	}
	return ""
}

// between returns the line that stands before text that is in no section,
// where a section has no end of its own.
func (s Style) between() string {
	if s == Buildkite {
		return "--- mayfly\n"
	}
	return ""
}

// warning returns the line of a warning.
func (s Style) warning(text string) string {
	if s == Azure {
		return "##[warning]" + s.text(text) + "\n"
	}
	return "warning: " + s.text(text) + "\n"
}

// text returns a line in which nothing is a command to the service. GitLab's
// need a carriage return, which no line has; Buildkite's begin a line, where
// the time stands; the agents of Azure and GitHub find ##[ anywhere, GitHub's
// also :: at the beginning, and both overlook characters without a width.
func (s Style) text(l string) string {
	if s != Azure && s != GitHub {
		return l
	}
	seen := strings.ToLower(strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, l))
	if strings.Contains(seen, "##vso[") || strings.Contains(seen, "##[") {
		l = strings.ReplaceAll(l, "#", "# ")
	}
	if s == GitHub && strings.HasPrefix(seen, "::") {
		l = "| " + l
	}
	return l
}

// Quote returns text, of any lines, in which nothing is a command to the
// service: an error that shows lines of a Dockerfile, say.
func (s Style) Quote(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		l, ended := strings.CutSuffix(l, "\n")
		l = strings.ReplaceAll(l, "\r", "")
		if s == Buildkite && slices.ContainsFunc([]string{"---", "+++", "~~~", "^^^"}, func(mark string) bool { return strings.HasPrefix(l, mark+" ") }) {
			b.WriteByte(' ')
		}
		b.WriteString(s.text(l))
		if ended {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

const maxTitle = 200 // bytes of a title; the heredoc of a RUN step can be long

// line returns the first line of a text, without what controls a terminal.
func line(s string) string {
	s, _, cut := strings.Cut(s, "\n")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > maxTitle {
		s, cut = strings.ToValidUTF8(s[:maxTitle], ""), true
	}
	if cut {
		s += "…"
	}
	return s
}
