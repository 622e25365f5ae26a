#!/bin/sh
# Makes the golden files *.txtar: caches as BuildKit v0.33.1 writes them.
#
#	BUILDKIT_HOST=unix:///run/buildkit/buildkitd.sock REGISTRY=127.0.0.1:5000 ./generate.sh
#
# needs buildctl, skopeo, jq, a buildkitd with --oci-worker-net=host, an empty
# registry, and busybox-static as /bin/busybox.
set -eu
cd "$(dirname "$0")"
ctx=$(mktemp -d)
trap 'rm -rf "$ctx"' EXIT
mkdir "$ctx/docs"
cp /bin/busybox Dockerfile Dockerfile.multi "$ctx"
echo one >"$ctx/docs/a.txt"
echo two >"$ctx/docs/b.txt"
find "$ctx" -exec touch -d 2025-01-02T03:04:05Z {} +

# build NAME FLAGS...: the command is the head of NAME.txtar
build() {
	name=$1
	shift
	buildctl prune >/dev/null
	set -- buildctl build --frontend dockerfile.v0 --local context="$ctx" --local dockerfile="$ctx" "$@"
	"$@" >/dev/null 2>&1
	echo "$*" | sed "s#$ctx#ctx#g; s#$REGISTRY#registry.test#g" >"$name.txtar"
}

# file NAME FILE: adds stdin
file() {
	{
		echo "-- $2 --"
		cat
		echo
	} >>"$1.txtar"
}

oci=application/vnd.oci.image
docker=application/vnd.docker.distribution
accept="$oci.manifest.v1+json, $oci.index.v1+json, $docker.manifest.list.v2+json"
get() { curl -sSf -H "Accept: $accept" "http://$REGISTRY/v2/$1"; }

registry() { # NAME FLAGS...
	name=$1
	shift
	build "$name" --export-cache "type=registry,ref=$REGISTRY/$name:cache$1"
	get "$name/manifests/cache" | file "$name" manifest.json
	config=$(get "$name/manifests/cache" | jq -r '.config.digest // (.manifests[] | select(.mediaType == "application/vnd.buildkit.cacheconfig.v0") | .digest)')
	get "$name/blobs/$config" | file "$name" config.json
}

registry registry-max ,mode=max
registry registry-min ,mode=min
registry registry-index ,mode=max,image-manifest=false
registry registry-docker ,mode=max,oci-mediatypes=false
registry registry-zstd ,mode=max,compression=zstd,force-compression=true

rm -rf "$ctx/cache"
build local-max --export-cache "type=local,dest=$ctx/cache,mode=max"
file local-max index.json <"$ctx/cache/index.json"
blob() { echo "$ctx/cache/blobs/sha256/${1#sha256:}"; }
manifest=$(blob "$(jq -r '.manifests[0].digest' "$ctx/cache/index.json")")
file local-max manifest.json <"$manifest"
file local-max config.json <"$(blob "$(jq -r .config.digest "$manifest")")"
rm -rf "$ctx/cache"

image() { # NAME MANIFEST N
	get "$1/manifests/$2" | file "$1" "manifest$3.json"
	get "$1/blobs/$(get "$1/manifests/$2" | jq -r .config.digest)" | file "$1" "config$3.json"
}

build inline --output "type=image,name=$REGISTRY/inline:app,push=true" --export-cache type=inline
image inline app ""

build inline-multi --opt filename=Dockerfile.multi --opt platform=linux/amd64,linux/arm64 \
	--output "type=image,name=$REGISTRY/inline-multi:app,push=true" --export-cache type=inline
get inline-multi/manifests/app | file inline-multi index.json
n=0
for d in $(get inline-multi/manifests/app | jq -r '.manifests[].digest'); do
	image inline-multi "$d" "$n"
	n=$((n + 1))
done
