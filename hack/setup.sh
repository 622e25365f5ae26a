#!/usr/bin/env bash
# hack/setup.sh: installs what tests, demo and benchmarks need on a Debian
# machine with Go, gcc and apt. Run it as often as you like: what is there
# stays. Programs go to $MAYFLY_DEV/bin (default ~/.cache/mayfly-dev/bin).
#
#   hack/setup.sh             everything
#   hack/setup.sh packages    Debian packages: enough to build mayfly and for the demo
#   hack/setup.sh buildkit    and the real BuildKit, for tests and benchmarks
#   hack/setup.sh services    and the services of cache backends (azurite, versitygw, those of Actions), jaeger, act, actionlint
#   hack/setup.sh browser     and Chromium with the fonts of docs/pictures
#   hack/setup.sh lint        and golangci-lint
set -euo pipefail
part=${1:-all}
case $part in all|packages|buildkit|services|browser|lint) ;; *) echo "setup: unknown part $part" >&2; exit 2 ;; esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dev=${MAYFLY_DEV:-${XDG_CACHE_HOME:-$HOME/.cache}/mayfly-dev}
bin=$dev/bin
mkdir -p "$bin"
say() { printf 'setup: %s\n' "$*" >&2; }
wants() { [ "$part" = all ] || [ "$part" = "$1" ]; }

packages=(
  libseccomp-dev pkg-config                   # mayfly's static build
  busybox-static mmdebstrap                   # base images, since none is pulled
  docker-registry git openssh-client          # the services of e2e/services
  runc crun                                   # buildkitd's runtime; an external one for mayfly
  skopeo umoci podman                         # consumers of what mayfly pushes
  apache2-utils                               # htpasswd, for registries that ask for one
  rsync                                       # by which gitlab-ci-local gives a job its files
  sudo                                        # by which the action becomes root on a runner
  ca-certificates curl jq bzip2 xz-utils
)
if wants services && ! command -v npm >/dev/null; then
  packages+=(nodejs npm)                      # for azurite, actions-cache and gitlab-ci-local: node 20 or newer
fi
if wants services; then
  packages+=(qemu-user-static)                # runs steps of another platform in a test
fi
if wants browser; then
  command -v google-chrome >/dev/null || packages+=(chromium) # runners of GitHub have Chrome; Ubuntu's Chromium is a snap
  packages+=(fonts-inter fonts-jetbrains-mono fonts-liberation fonts-noto-color-emoji)
fi
missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  say "apt-get install ${missing[*]}"
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  export DEBIAN_FRONTEND=noninteractive
  install() { $sudo apt-get install -y --no-install-recommends "${missing[@]}" </dev/null >"$dev/apt.log" 2>&1; }
  # The package lists of a fresh machine are empty or old.
  $sudo apt-get update </dev/null >"$dev/apt.log" 2>&1 || say "apt-get update: $(tail -1 "$dev/apt.log")"
  install || { tail -20 "$dev/apt.log" >&2; exit 1; }
fi

# build MODULE_DIR PACKAGE [LDFLAGS]: a program whose version the go.mod of
# MODULE_DIR pins, or one of that module; built again when they change.
build() {
  local name=${2##*/} stamp
  stamp="$(cat "$1/go.mod" "$1"/*.go 2>/dev/null | sha256sum | cut -c1-16) $(go env GOVERSION)"
  [ -x "$bin/$name" ] && [ "$(cat "$bin/.$name.stamp" 2>/dev/null)" = "$stamp" ] && return
  say "go build $2"
  (cd "$1" && CGO_ENABLED=0 go build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w ${3:-}" -o "$bin/$name.tmp$$" "$2")
  mv "$bin/$name.tmp$$" "$bin/$name"
  echo "$stamp" >"$bin/.$name.stamp"
}

# npm_program NAME PROGRAM [FILE]: a program of the npm packages whose versions
# hack/NAME/package-lock.json pins, or FILE beside it, which uses them;
# installed again when they change.
npm_program() {
  local name=$1 dir=$dev/$1 tmp=$dev/$1.tmp$$ stamp
  stamp="$(cat "$here/$name"/package-lock.json ${3:+"$here/$name/$3"} | sha256sum | cut -c1-16) $(node --version)"
  [ -x "$bin/$2" ] && [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ] && return
  say "npm ci in hack/$name"
  mkdir -p "$tmp"
  cp "$here/$name"/* "$tmp"
  (cd "$tmp" && npm ci --ignore-scripts --no-audit --no-fund </dev/null >"$dev/npm.log" 2>&1) || { rm -rf "$tmp"; tail -20 "$dev/npm.log" >&2; exit 1; }
  echo "$stamp" >"$tmp/.stamp"
  rm -rf "$dir"
  mv "$tmp" "$dir"
  ln -sfn "../$name/${3:-node_modules/.bin/$2}" "$bin/$2"
}
if wants buildkit; then
  bk=github.com/moby/buildkit
  version=$(cd "$here/buildkit" && go list -mod=readonly -m -f '{{.Version}}' $bk)
  for c in buildkitd buildctl; do
    build "$here/buildkit" $bk/cmd/$c "-X $bk/version.Version=$version -X $bk/version.Package=$bk"
  done
fi
if wants services; then
  npm_program azurite azurite-blob
  npm_program actions-cache actions-cache actions-cache.mjs
  npm_program gitlab-ci-local gitlab-ci-local gitlab-ci-local.mjs
  build "$here/versitygw" github.com/versity/versitygw/cmd/versitygw
  build "$here/distribution" github.com/distribution/distribution/v3/cmd/registry
  build "$here/ghacache" github.com/mayfly-build/mayfly/hack/ghacache
  build "$here/buildx" github.com/docker/buildx/cmd/buildx
  build "$here/jaeger" github.com/jaegertracing/jaeger/cmd/all-in-one
  build "$here/act" github.com/nektos/act "-X main.version=$(cd "$here/act" && go list -mod=readonly -m -f "{{.Version}}" github.com/nektos/act)"
  build "$here/actionlint" github.com/rhysd/actionlint/cmd/actionlint
fi
if wants lint; then
  build "$here/tools" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
fi
say "$part: ready"
