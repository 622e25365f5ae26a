package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"

	"github.com/mayfly-build/mayfly/engine/op"
	"github.com/mayfly-build/mayfly/engine/secret"
	"github.com/mayfly-build/mayfly/internal/hint"
)

// frontendOptions adds what the flags say to the options of the Dockerfile
// frontend.
func frontendOptions(w world, o buildOptions, opts map[string]string) error {
	for _, s := range o.buildArgs {
		name, value, ok := strings.Cut(s, "=")
		if name == "" {
			return usagef("--build-arg: %q is not NAME[=VALUE]", s)
		}
		if !ok {
			if value, ok = w.getenv(name); !ok {
				continue // as docker has it: not set is not given
			}
		}
		opts["build-arg:"+name] = value
	}
	if v := w.env("SOURCE_DATE_EPOCH"); v != "" {
		if _, ok := opts["build-arg:SOURCE_DATE_EPOCH"]; !ok {
			opts["build-arg:SOURCE_DATE_EPOCH"] = v
		}
	}
	for _, s := range o.labels {
		k, v, _ := strings.Cut(s, "=")
		if k == "" {
			return usagef("--label: %q is not KEY=VALUE", s)
		}
		opts["label:"+k] = v
	}
	if len(o.platforms) > 0 {
		opts["platform"] = strings.Join(o.platforms, ",")
	}
	if o.target != "" {
		opts["target"] = o.target
	}
	if o.noCache {
		opts["no-cache"] = ""
	} else if len(o.noCacheFilter) > 0 {
		opts["no-cache"] = strings.Join(o.noCacheFilter, ",")
	}
	switch o.network {
	case "", "default":
	case "host", "none":
		opts["force-network-mode"] = o.network
	default:
		return usagef("--network: %q is none of default, host, none", o.network)
	}
	if len(o.addHosts) > 0 {
		hosts := make([]string, len(o.addHosts))
		for i, h := range o.addHosts {
			name, ip, ok := strings.Cut(strings.Replace(h, "=", ":", 1), ":")
			if !ok {
				return usagef("--add-host: %q is not HOST:IP", h)
			}
			hosts[i] = name + "=" + ip
		}
		opts["add-hosts"] = strings.Join(hosts, ",")
	}
	if o.shmSize != "" {
		if _, err := units.RAMInBytes(o.shmSize); err != nil {
			return usagef("--shm-size: %v", err)
		}
		n, _ := units.RAMInBytes(o.shmSize)
		opts["shm-size"] = itoa(n)
	}
	if len(o.ulimits) > 0 {
		for _, u := range o.ulimits {
			if _, err := units.ParseUlimit(u); err != nil {
				return usagef("--ulimit: %v", err)
			}
		}
		opts["ulimit"] = strings.Join(o.ulimits, ",")
	}
	if o.cgroupParent != "" {
		opts["cgroup-parent"] = o.cgroupParent
	}
	return nil
}

// parsePlatforms reads --platform, several of which are one list, and returns
// each platform once, in the order given. "local" is this machine's.
func parsePlatforms(flags []string) (list []string, err error) {
	for _, s := range strings.Split(strings.Join(flags, ","), ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p := platforms.DefaultSpec()
		if !strings.EqualFold(s, "local") {
			if p, err = platforms.Parse(s); err != nil {
				return nil, usagef("--platform: %v", err)
			}
		}
		if id := platforms.FormatAll(platforms.Normalize(p)); !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	return list, nil
}

// secrets reads --secret, as buildx does: id alone is the environment
// variable of that name, else the file of that name.
func secrets(w world, o buildOptions) (secret.Map, error) {
	out := secret.Map{}
	for _, s := range o.secrets {
		a, plain, err := parseAttrs("secret", s)
		if err != nil {
			return nil, err
		}
		if a == nil {
			return nil, usagef("--secret %s: expected id=ID[,src=FILE|env=NAME]", plain)
		}
		id := a.str("id", "")
		file := a.str("src", a.str("source", ""))
		env := a.str("env", "")
		typ := a.str("type", "")
		if err := a.done(); err != nil {
			return nil, err
		}
		switch {
		case typ != "" && typ != "file" && typ != "env":
			return nil, usagef("--secret %s: type %q is none of file, env", s, typ)
		case id == "":
			return nil, usagef("--secret %s: id is missing", s)
		case typ == "env" && env == "" && file != "":
			env, file = file, ""
		}
		if env == "" && file == "" {
			if _, ok := w.getenv(id); ok && typ != "file" {
				env = id
			} else {
				file = id
			}
		}
		if env != "" {
			v, ok := w.getenv(env)
			if !ok {
				return nil, fmt.Errorf("--secret id=%s: environment variable %s is not set", id, env)
			}
			out[id] = secret.Source{Value: []byte(v)}
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return nil, hint.With(fmt.Errorf("--secret id=%s: %w", id, err), "give the file with src=FILE, or a variable with env=NAME")
		}
		out[id] = secret.Source{File: file}
	}
	return out, nil
}

// agents reads --ssh: an id with a socket, or with keys; without either, the
// agent of the environment.
func agents(w world, o buildOptions) (secret.Agents, error) {
	out := secret.Agents{}
	for _, s := range o.ssh {
		id, paths, _ := strings.Cut(s, "=")
		if id == "" {
			return nil, usagef("--ssh: %q has no id", s)
		}
		var a secret.Agent
		if paths == "" {
			if a.Socket = w.env("SSH_AUTH_SOCK"); a.Socket == "" {
				return nil, usagef("--ssh %s: SSH_AUTH_SOCK is not set; give a socket or keys", s)
			}
		}
		for _, p := range strings.Split(paths, ",") {
			if p == "" {
				continue
			}
			fi, err := os.Stat(p)
			if err != nil {
				return nil, fmt.Errorf("--ssh %s: %w", s, err)
			}
			if fi.Mode()&os.ModeSocket != 0 {
				a.Socket = p
			} else {
				a.Keys = append(a.Keys, p)
			}
		}
		out[id] = a
	}
	return out, nil
}

func entitlements(o buildOptions) (op.Entitlements, error) {
	var e op.Entitlements
	for _, s := range o.allow {
		switch s {
		case "network.host":
			e.HostNetwork = true
		case "security.insecure":
			e.Insecure = true
		default:
			return e, usagef("--allow: %q is none of network.host, security.insecure", s)
		}
	}
	return e, nil
}
