#!/bin/sh
# Writes rootfs.tar and rootfs-epoch.tar with the tar exporter of the buildkitd
# v0.33.1 that BUILDKIT_HOST names, and image.tar, which has the same root file
# system as layers. Needs go and a static /bin/busybox.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
cd "$tmp"
cp /bin/busybox .
cat >capable.go <<'GO'
package main

import (
	"os"
	"syscall"
)

func main() {
	// cap_net_raw+ep, revision 2
	v := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := syscall.Setxattr(os.Args[1], "security.capability", v, 0); err != nil {
		panic(err)
	}
}
GO
CGO_ENABLED=0 go build -o capable capable.go
cat >make.sh <<'SH'
/t/busybox mkdir /bin
/t/busybox --install -s /bin
umask 0
mkdir -p /r/a /r/z /r/b /r2/a /r/empty
cd /r
echo hi >a/f
ln a/f a/g
ln a/f b/again
ln -s /etc/passwd a/absolute
ln -s ../x z/dangling
mkfifo a/fifo
mknod a/null c 1 3
mknod a/blk b 300 70000
: >a/zero
echo s >z/suid
chown 5:6 z/suid
chmod 6755 z/suid
echo c >z/capable
/t/capable z/capable
chmod 1777 a
chmod 4710 b
chmod 2755 empty
chown 4000000:3000000 empty
echo ro >ro
chmod 0 ro
p=z
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do p=$p/directory_number_$i; done
mkdir -p $p
echo deep >$p/file
echo unicode >'z/ünïcode 文件'
ln $p/file z/linktodeep
dd if=/dev/zero of=z/block bs=512 count=1 2>/dev/null
echo upper >/r2/a/f
echo upper >/r2/ab
echo upper >/r2/a.b
find /r /r2 | while read -r f; do touch -h -d @1234567890 "$f"; done
touch -h -d @0 a/zero
touch -h -d @4000000000 a/absolute
touch -h -d @9000000000 ro
SH
cat >Dockerfile <<'DF'
FROM scratch AS tools
COPY busybox capable make.sh /
FROM scratch AS made
RUN --mount=from=tools,target=/t ["/t/busybox","sh","-e","/t/make.sh"]
FROM scratch
COPY --from=made /r/ /
COPY --from=made /r2/ /
DF
build() {
	buildctl build --frontend dockerfile.v0 --local context=. --local dockerfile=. --output "$1"
}
build "type=tar,dest=$here/rootfs.tar"
build "type=tar,source-date-epoch=1700000000,dest=$here/rootfs-epoch.tar"
build "type=oci,compression=uncompressed,force-compression=true,dest=$here/image.tar"
rm -r "$tmp"
