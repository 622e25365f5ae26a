package registry

import (
	"net"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// parseChallenges reads a WWW-Authenticate header (RFC 9110, 11.6.1): one or
// more schemes, each with name=value or name="value" pairs. What it cannot
// read ends the list.
func parseChallenges(header string) []transport.Challenge {
	var out []transport.Challenge
	s := header
	for {
		s = strings.TrimLeft(s, " \t,")
		word := takeWord(&s)
		if word == "" {
			return out
		}
		rest := strings.TrimLeft(s, " \t")
		value, isParam := strings.CutPrefix(rest, "=")
		if !isParam {
			out = append(out, transport.Challenge{Scheme: strings.ToLower(word), Parameters: map[string]string{}})
			continue
		}
		if len(out) == 0 {
			return nil
		}
		s = strings.TrimLeft(value, " \t")
		out[len(out)-1].Parameters[strings.ToLower(word)] = takeValue(&s)
	}
}

// takeWord takes a token (RFC 9110, 5.6.2) off the front of s.
func takeWord(s *string) string {
	i := strings.IndexFunc(*s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
	if i < 0 {
		i = len(*s)
	}
	word := (*s)[:i]
	*s = (*s)[i:]
	return word
}

// takeValue takes a quoted string or a token off the front of s. A bare value
// ends at a comma, since some servers do not quote their realm.
func takeValue(s *string) string {
	if !strings.HasPrefix(*s, `"`) {
		value, rest, _ := strings.Cut(*s, ",")
		*s = rest
		return strings.TrimSpace(value)
	}
	var b strings.Builder
	for i := 1; i < len(*s); i++ {
		switch ch := (*s)[i]; {
		case ch == '"':
			*s = (*s)[i+1:]
			return b.String()
		case ch == '\\' && i+1 < len(*s):
			i++
			b.WriteByte((*s)[i])
		default:
			b.WriteByte(ch)
		}
	}
	*s = ""
	return b.String()
}

func isPrivate(hostport string) bool {
	h := hostport
	if n, _, err := net.SplitHostPort(hostport); err == nil {
		h = n
	}
	ip := net.ParseIP(strings.Trim(h, "[]"))
	return ip != nil && (ip.IsPrivate() || ip.IsLoopback())
}
