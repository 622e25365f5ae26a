package executor

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// defaultHostname is the one BuildKit gives its containers.
const defaultHostname = "buildkitsandbox"

// hostsFile is the container's /etc/hosts.
func hostsFile(hostname string, extra []Host) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, h.Name)
	}
	return b.Bytes()
}

// publicNameservers stand in where no usable nameserver is known; the list is
// BuildKit's.
const publicNameservers = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n" +
	"nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n"

// resolvConf is the container's /etc/resolv.conf, made of the host's. A
// nameserver on a loopback address is reachable only in the host's network
// (sharesHost) and goes otherwise. Comments go, directives stay.
func resolvConf(host []byte, sharesHost bool) []byte {
	var all, routable, options []string
	var search string
	var other strings.Builder
	for line := range strings.Lines(string(host)) {
		line = strings.TrimRight(line, "\r\n")
		fields := strings.Fields(line)
		if len(fields) == 0 || line[0] == '#' || line[0] == ';' {
			continue
		}
		args := fields[1:]
		switch fields[0] {
		case "nameserver":
			if len(args) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(args[0])
			if err != nil {
				continue
			}
			all = append(all, "nameserver "+addr.String()+"\n")
			if !addr.IsLoopback() {
				routable = append(routable, "nameserver "+addr.String()+"\n")
			}
		case "domain", "search": // the last one counts
			if len(args) > 0 {
				search = "search " + strings.Join(args, " ") + "\n"
			}
		case "options":
			options = append(options, args...)
		default:
			other.WriteString(line + "\n")
		}
	}

	servers := all
	if !sharesHost {
		servers = routable
	}
	var b bytes.Buffer
	b.WriteString(strings.Join(servers, ""))
	if len(servers) == 0 {
		b.WriteString(publicNameservers)
	}
	b.WriteString(search)
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	b.WriteString(other.String())
	return b.Bytes()
}
