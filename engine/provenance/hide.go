package provenance

import (
	"encoding/json"
	"strings"
)

const (
	hiddenText = "***"
	// minHidden is how long a value must be, in bytes, to be looked for within
	// other text: shorter ones are parts of words.
	minHidden = 6
)

// hide returns the JSON with the values of Hidden replaced in all of its texts.
func (b *Build) hide(dt []byte, indent string) ([]byte, error) {
	if len(b.Hidden) == 0 {
		return dt, nil
	}
	var v any
	if err := json.Unmarshal(dt, &v); err != nil {
		return nil, err
	}
	v = b.hideIn(v)
	if indent == "" {
		return json.Marshal(v)
	}
	return json.MarshalIndent(v, "", indent)
}

func (b *Build) hideIn(v any) any {
	switch v := v.(type) {
	case string:
		return b.hideText(v)
	case []any:
		for i := range v {
			v[i] = b.hideIn(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = b.hideIn(v[k])
		}
	}
	return v
}

func (b *Build) hideText(s string) string {
	for _, h := range b.Hidden {
		name, ok := strings.CutSuffix(s, "="+h)
		switch {
		case h == "":
		case s == h:
			return hiddenText
		case ok: // as in a step's environment
			s = name + "=" + hiddenText
		case len(h) >= minHidden:
			s = strings.ReplaceAll(s, h, hiddenText)
		}
	}
	return s
}
