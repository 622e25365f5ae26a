package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"
	"time"
)

//go:embed assets/page.html
var pageHTML string

//go:embed assets/page.css
var pageCSS string

//go:embed assets/page.js
var pageJS string

// Write writes the page. It may be called again.
func (p *Page) Write(w io.Writer) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"date": func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04:05 UTC") },
		"mark": mark,
		"add":  func(a, b int) int { return a + b },
	}).Parse(pageHTML)
	if err != nil {
		return err
	}
	return t.Execute(w, struct {
		*page
		CSS    template.CSS
		JS     template.JS
		Policy string
	}{p.page, template.CSS(pageCSS), template.JS(pageJS), policy()})
}

// policy is the page's own content security policy: nothing is fetched, and no
// style or script counts but those that are in the page.
func policy() string {
	return "default-src 'none'; style-src '" + source256(pageCSS) + "'; script-src '" + source256(pageJS) +
		"'; img-src data:; base-uri 'none'; form-action 'none'"
}

func source256(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// mark shows a state without colour.
func mark(s stepState) string {
	switch s {
	case ran:
		return "●"
	case cached:
		return "◆"
	case failed:
		return "✕"
	case stopped:
		return "■"
	}
	return "○"
}
