#!/bin/sh
# Writes what is here with the buildkitd v0.33.1 that BUILDKIT_HOST names.
set -eux
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
cd "$tmp"
build() {
	buildctl build --frontend dockerfile.v0 --local context=. --local dockerfile=. --output "$@"
}
echo hello >hello
printf 'FROM scratch\nCOPY hello /\nCOPY hello /again\n' >Dockerfile
names='"name=example.com:5000/a/b:1,c,d:x"'
digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
for type in oci docker; do
	build "type=$type,dest=$here/$type.tar"
	build "type=$type,$names,dest=$here/$type-names.tar"
	build "type=$type,\"name=e@$digest,f:1@$digest\",dest=$here/$type-digests.tar"
done
build "type=docker,oci-mediatypes=false,name=c,dest=$here/docker-types.tar"
build "type=oci,annotation-manifest-descriptor.x=<&>,dest=$here/oci-annotated.tar"

# An index.json that images are added to, one after another.
build "type=oci,tar=false,dest=layout"
cp layout/index.json "$here/index-1.json"
build "type=oci,tar=false,$names,dest=layout"
cp layout/index.json "$here/index-2.json"
echo more >>hello
build "type=oci,tar=false,name=c,dest=layout"
cp layout/index.json "$here/index-3.json"
build "type=oci,tar=false,\"name=e@$digest\",dest=layout"
cp layout/index.json "$here/index-4.json"
build "type=oci,tar=false,dest=layout"
cp layout/index.json "$here/index-5.json"

printf 'FROM scratch\nENV a=b\n' >Dockerfile
build "type=docker,name=empty,dest=$here/docker-nolayers.tar"
rm -r "$tmp"
