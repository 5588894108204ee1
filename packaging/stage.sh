#!/bin/bash
# Puts together in dist/stage what the packages hold. bin/ is built;
# PACKAGE_VERSION and SOURCE_DATE_EPOCH are set.
set -eu
cd "$(dirname "$0")/.."
umask 022

stage=dist/stage/csbd
rm -rf dist/stage
doc=$stage/usr/share/doc/csbd

# put MODE DESTINATION FILE...
put() {
	local mode=$1 to=$stage$2
	shift 2
	install -d -m 755 "$to"
	install -m "$mode" "$@" "$to"
}

put 755 /usr/sbin bin/csbd
put 755 /usr/bin bin/csbctl
put 755 /usr/lib/csbd bin/csbd-sentry bin/runsc
put 644 /usr/lib/systemd/system packaging/systemd/csbd.socket packaging/systemd/csbd.service
put 644 /usr/lib/systemd/system-preset packaging/systemd/90-csbd.preset
put 644 /usr/share/csbd/images/python images/python/pyproject.toml
install -D -m 644 packaging/systemd/csbd.sysusers "$stage/usr/lib/sysusers.d/csbd.conf"
install -D -m 644 packaging/systemd/csbd.tmpfiles "$stage/usr/lib/tmpfiles.d/csbd.conf"

if [[ -d packaging/systemd/user ]]; then
	put 644 /usr/lib/systemd/user packaging/systemd/user/*
fi
for page in packaging/man/*.[1-9]; do
	[[ -e $page ]] || continue
	section=$stage/usr/share/man/man${page##*.}
	install -d -m 755 "$section"
	gzip -9n <"$page" >"$section/${page##*/}.gz"
done

date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")
install -d -m 755 "$doc"
gzip -9n >"$doc/changelog.gz" <<END
csbd ($PACKAGE_VERSION) unstable; urgency=medium

  * Built from commit $(git rev-parse HEAD).

 -- CodeSandbox maintainers <csbd@localhost>  $date
END

# Apart, because packages treat configuration files differently.
install -D -m 644 packaging/policy.yaml dist/stage/etc/policy.yaml
install -D -m 644 packaging/csbd.default dist/stage/etc/default

find dist/stage -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
