package main

import "testing"

func TestLetters(t *testing.T) {
	for s, want := range map[string]int{"": 0, "world": 5, "grüß dich!": 8} {
		if got := letters(s); got != want {
			t.Errorf("letters(%q) is %d, want %d", s, got, want)
		}
	}
}
