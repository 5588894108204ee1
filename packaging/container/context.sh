#!/bin/bash
# context.sh BIN IMAGES DEST: lays out in DEST what the Dockerfile needs, from
# the programs in BIN and the image store IMAGES.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=$1 images=$2 dest=$3
rm -rf "$dest"
mkdir -p "$dest"/rootfs/{usr/bin,usr/sbin,usr/lib/csbd,etc/csbd,run/csbd,var/lib/csbd}
mkdir -m 1777 "$dest/rootfs/tmp"
cp "$here/Dockerfile" "$dest"
cd "$dest/rootfs"
install -m 755 "$bin/csbd" usr/sbin/
install -m 755 "$bin/csbctl" usr/bin/
install -m 755 "$bin/csbd-sentry" usr/lib/csbd/
cp -a "$images" usr/lib/csbd/images
install -m 644 "$here/policy.yaml" etc/csbd/
# Who is who: csbd is root, those who may ask are of the group csb.
printf 'root:x:0:0:root:/:/sbin/nologin\n' >etc/passwd
printf 'root:x:0:\ncsb:x:2753:\n' >etc/group
