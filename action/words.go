package action

import (
	"regexp"
	"strings"
)

// inputOf has the inputs whose flags of mayfly build have other names.
var inputOf = map[string]string{
	"add-host": "add-hosts", "annotation": "annotations", "build-arg": "build-args", "build-context": "build-contexts",
	"label": "labels", "no-cache-filter": "no-cache-filters", "output": "outputs", "platform": "platforms", "secret": "secrets", "tag": "tags",
}

var flagInFront = regexp.MustCompile(`^--[a-z-]+:?`)

// Words puts the name of an input in place of the flag that a message of
// mayfly build begins with.
func (p *Plan) Words(message string) string {
	return flagInFront.ReplaceAllStringFunc(message, func(flag string) string {
		name := strings.Trim(flag, "-:")
		if in, ok := inputOf[name]; ok {
			name = in
		}
		if p.ownCache && (name == "cache-from" || name == "cache-to") {
			name = "cache"
		}
		return "input " + name + ":"
	})
}
