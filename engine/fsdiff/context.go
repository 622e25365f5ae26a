package fsdiff

// A Context is a Diff that is a build context. A client sends the entries of
// one but not its root directory, whose header therefore counts as empty in
// content digests.
type Context interface {
	Diff
	IsContext() bool
}

// AsContext returns d as a build context, for one that was received from a
// remote client and lies unpacked somewhere.
func AsContext(d Diff) Context { return asContext{d} }

type asContext struct{ Diff }

func (asContext) IsContext() bool { return true }

// IsContext says whether v is one build context and nothing else.
func (v *View) IsContext() bool {
	if v == nil || v.parent != nil {
		return false
	}
	c, ok := v.diff.(Context)
	return ok && c.IsContext()
}
