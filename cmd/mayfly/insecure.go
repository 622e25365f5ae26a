package main

import (
	"strings"

	"github.com/mayfly-build/mayfly/internal/registry"
)

// insecureHosts returns the hosts that cache flags call insecure.
func insecureHosts(o buildOptions) (hosts []string) {
	for _, text := range append(append([]string{}, o.cacheFrom...), o.cacheTo...) {
		a, _, err := parseAttrs("cache", text)
		if err != nil || a == nil || !a.boolean("registry.insecure", false) {
			continue
		}
		if ref, err := registry.ParseRef(a.str("ref", "")); err == nil {
			hosts = append(hosts, ref.Host)
		}
	}
	for _, text := range o.outputs {
		a, _, err := parseAttrs("output", text)
		if err != nil || a == nil || !a.boolean("registry.insecure", false) {
			continue
		}
		for _, name := range append(strings.Split(a.str("name", ""), ","), o.tags...) {
			if ref, err := registry.ParseRef(name); err == nil && name != "" {
				hosts = append(hosts, ref.Host)
			}
		}
	}
	return hosts
}
