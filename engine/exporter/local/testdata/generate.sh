#!/bin/sh
# Writes rootfs.txt: what buildctl v0.33.1, run by root, leaves of the image in
# ../../tar/testdata/image.tar with --output type=local. BUILDKIT_HOST names
# the buildkitd.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
cd "$tmp"
mkdir layout context
tar xf "$here/../../tar/testdata/image.tar" -C layout
digest=$(grep -o 'sha256:[0-9a-f]*' layout/index.json | head -1)
echo 'FROM base' >context/Dockerfile
buildctl build --frontend dockerfile.v0 --local context=context --local dockerfile=context \
	--oci-layout base=layout --opt "context:base=oci-layout://base@$digest" --output type=local,dest=out
cd out
python3 - >"$here/rootfs.txt" <<'PY'
import hashlib, os, stat

paths = []
for top, dirs, files in os.walk("."):
    paths += [os.path.relpath(os.path.join(top, n), ".") for n in dirs + files]
for p in sorted(paths, key=os.fsencode):
    st = os.lstat(p)
    text = "%o %d:%d %d %s" % (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, p)
    if stat.S_ISREG(st.st_mode):
        text += " links=%d sha256:%s" % (st.st_nlink, hashlib.sha256(open(p, "rb").read()).hexdigest())
    if stat.S_ISLNK(st.st_mode):
        text += " -> " + os.readlink(p)
    if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        text += " %d,%d" % (os.major(st.st_rdev), os.minor(st.st_rdev))
    for a in sorted(os.listxattr(p, follow_symlinks=False)):
        text += " %s=%s" % (a, os.getxattr(p, a, follow_symlinks=False).hex())
    print(text)
PY
rm -r "$tmp"
