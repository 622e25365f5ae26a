package explain

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

const (
	namedFiles  = 3   // files that a line names
	namedCauses = 3   // causes that a line tells
	maxTitle    = 60  // bytes of an instruction
	maxValue    = 60  // bytes of a value
	maxLine     = 500 // bytes
)

// line is the Reason for a step in one line.
func (r *Reason) line(step string) string {
	return clean(cut(cut(step, maxTitle)+": "+tell(r.Causes), maxLine))
}

// Told returns the Reason in one line that does not name the step.
func (r *Reason) Told() string { return clean(cut(tell(r.Causes), maxLine)) }

// Full returns the Reason in lines that begin with indent: every cause, every
// file that is listed, and below a step before what differs there.
func (r *Reason) Full(indent string) string {
	var b strings.Builder
	full(&b, r.Causes, indent)
	return b.String()
}

func full(b *strings.Builder, all []Detail, indent string) {
	put := func(s string) { b.WriteString(indent + clean(s) + "\n") }
	for _, d := range all {
		switch {
		case d.Kind == CauseParent && len(d.Root) > 0:
			put("after " + d.Step + ":")
			full(b, d.Root, indent+"  ")
		case d.Kind == CauseFiles && len(d.Files) > 0:
			put("files that it reads" + of(d.Input) + ":")
			for _, c := range d.Files {
				put("  " + c.String())
			}
			if d.More > 0 {
				put(fmt.Sprintf("  and %d more", d.More))
			}
			if len(d.Root) > 0 {
				put("which differ because of:")
				full(b, d.Root, indent+"  ")
			}
		case d.Kind == CauseField && (d.Before != "" || d.After != ""):
			put(d.Name + ":")
			put("  - " + dash(d.Before))
			put("  + " + dash(d.After))
		case d.Kind == CauseInstruction:
			put("the instruction changed, it was:")
			put("  " + d.Before)
		default:
			put(d.String())
		}
	}
}

func of(input string) string {
	if input == "" {
		return ""
	}
	return " (of " + input + ")"
}

func dash(s string) string {
	if s == "" {
		return "(none, or not to be shown)"
	}
	return s
}

// OneLine returns text of any origin as one line that a terminal shows as it
// is: what else it would obey, or break lines at, is escaped.
func OneLine(s string) string { return clean(s) }

// tell tells causes, the first few of them.
func tell(all []Detail) string {
	var parts []string
	for _, d := range all {
		if len(parts) == namedCauses {
			parts = append(parts, fmt.Sprintf("and %d more", len(all)-namedCauses))
			break
		}
		parts = append(parts, d.String())
	}
	return strings.Join(parts, "; ")
}

// String tells one cause.
func (d Detail) String() string {
	switch d.Kind {
	case CauseNoCache:
		return "--no-cache or --no-cache-filter asks for it"
	case CauseEvicted:
		if d.Blob == "" {
			return "the cache lost its result"
		}
		return "the cache lost blob " + d.Blob.String()
	case CauseNever:
		return "files of the client are read in every build"
	case CauseFirst:
		return "first build of this step"
	case CauseInstruction:
		return "the instruction changed, it was: " + cut(d.Before, maxTitle)
	case CauseField:
		switch {
		case d.Change != "":
			return d.Name + " " + d.Change
		case len(d.Args) > 0:
			return d.Name + " changed (arg " + strings.Join(d.Args, ", ") + ")"
		}
		return d.Name + changed(d.Before, d.After, maxValue)
	case CauseSource:
		return d.Name + changed(d.Before, d.After, maxTitle+maxValue)
	case CauseFiles:
		return d.tellFiles()
	case CauseParent:
		if len(d.Root) == 0 {
			return "it is built on " + cut(d.After, maxTitle) + " instead of " + cut(d.Before, maxTitle)
		}
		return "after " + cut(d.Step, maxTitle) + ": " + tell(d.Root)
	case CauseUnknown:
		return "its key changed in something that is not recorded"
	case CauseFailed:
		return "nothing changed since it failed"
	case CauseKeyOnly:
		return "nothing changed, but the cache has no result of it (mode=min keeps those of the image alone)"
	case CauseGone:
		return "nothing changed, but no cache has its result any more"
	}
	return string(d.Kind)
}

func changed(before, after string, limit int) string {
	switch {
	case before == after:
		return " changed"
	case before == "":
		return " changed to " + cut(after, limit)
	case after == "":
		return " changed from " + cut(before, limit)
	}
	return " " + cut(before, limit) + "→" + cut(after, limit)
}

func (d Detail) tellFiles() string {
	var s string
	switch all := d.Files; {
	case len(all) == 0 && d.Input == "":
		s = "files of the build context changed"
	case len(all) == 0:
		s = "files changed"
	case len(all)+d.More > namedFiles && alike(all):
		s = fmt.Sprintf("%s of %d files (%s, …)", all[0].What[0], len(all)+d.More, all[0].Path)
	default:
		var parts []string
		for _, c := range all[:min(len(all), namedFiles)] {
			parts = append(parts, c.String())
		}
		s = strings.Join(parts, ", ")
		if more := len(all) + d.More - len(parts); more > 0 {
			s += fmt.Sprintf(" and %d more", more)
		}
	}
	switch {
	case len(d.Root) == 0:
		return s
	case d.Root[0].Kind == CauseParent || d.Root[0].Kind == CauseSource: // says where it is
		return s + ", " + tell(d.Root[:1])
	}
	return s + ", after " + cut(d.Input, maxTitle) + ": " + tell(d.Root)
}

// alike reports whether all files differ in the same single way, and one of
// whom more is to be said than that they changed.
func alike(all []FileChange) bool {
	first := all[0].What
	if len(first) != 1 || first[0].Before == "" {
		return false
	}
	for _, c := range all[1:] {
		if len(c.What) != 1 || c.What[0] != first[0] {
			return false
		}
	}
	return true
}

// String tells one change: "src/main.go changed (content)".
func (c FileChange) String() string {
	var parts []string
	for _, d := range c.What {
		if d.Kind == Added || d.Kind == Removed {
			return c.Path + " " + d.Kind
		}
		parts = append(parts, d.String())
	}
	if c.Files > 0 {
		return fmt.Sprintf("%s changed (some of %d files)", c.Path, c.Files)
	}
	return c.Path + " changed (" + strings.Join(parts, ", ") + ")"
}

// String tells one difference: "mode 0644→0755".
func (d Difference) String() string {
	if d.Before == "" && d.After == "" {
		return d.Kind
	}
	return d.Kind + " " + d.Before + "→" + d.After
}

// String names the type.
func (t Type) String() string {
	switch t {
	case Regular:
		return "file"
	case Dir:
		return "directory"
	case Link:
		return "link"
	case Special:
		return "special file"
	case Group:
		return "directory with files"
	}
	return strconv.Itoa(int(t))
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }

func owner(e Entry) string { return fmt.Sprintf("%d:%d", e.UID, e.GID) }

// clean makes one line of text of any origin: a file's name may hold line
// breaks and what a terminal obeys.
func clean(s string) string {
	if strings.IndexFunc(s, unsafe) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if !unsafe(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

func unsafe(r rune) bool { return !unicode.IsPrint(r) }
