// Command hello greets whom it is told to.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"runtime"
	"text/template"
)

// version is set by the linker.
var version = "unversioned"

//go:embed greeting.tmpl
var greeting string

func main() {
	who := "world"
	if len(os.Args) > 1 {
		who = os.Args[1]
	}
	if err := greet(who); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func greet(who string) error {
	t, err := template.New("greeting").Parse(greeting)
	if err != nil {
		return err
	}
	return t.Execute(os.Stdout, map[string]string{
		"Who": who, "Version": version, "Go": runtime.Version(), "Letters": fmt.Sprint(letters(who)),
	})
}
