#!/bin/bash
# Puts together in dist/stage what the packages hold: in deb and rpm what only
# one format has, in etc configuration files, in image the second package. bin/
# and the default image are built; PACKAGE_VERSION, SOURCE_DATE_EPOCH and
# CSBD_IMAGE_DIR are set.
set -eu
cd "$(dirname "$0")/.."
umask 022

stage=dist/stage/csbd
rm -rf dist/stage

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
put 755 /usr/lib/systemd/system-generators packaging/systemd/csbd-generator
put 644 /usr/share/doc/csbd/examples packaging/systemd/examples/*
put 644 /usr/share/doc/csbd/examples/grafana packaging/grafana/*.json
put 644 /usr/share/doc/csbd/examples/prometheus packaging/prometheus/*.yaml
put 644 /usr/lib/systemd/system-preset packaging/systemd/90-csbd.preset
put 644 /usr/share/csbd/images/python images/python/pyproject.toml
# What the policy's "seccomp: default" is, for who wants to write their own.
put 644 /usr/share/csbd/seccomp "$(go list -m -f '{{.Dir}}' github.com/moby/profiles/seccomp)/default.json"
install -D -m 644 packaging/systemd/csbd.sysusers "$stage/usr/lib/sysusers.d/csbd.conf"
install -D -m 644 packaging/systemd/csbd.tmpfiles "$stage/usr/lib/tmpfiles.d/csbd.conf"

put 644 /usr/lib/systemd/user packaging/systemd/user/*
for page in packaging/man/*.[1-9]; do
	[[ -e $page ]] || continue
	section=$stage/usr/share/man/man${page##*.}
	install -d -m 755 "$section"
	gzip -9n <"$page" >"$section/${page##*/}.gz"
done

for shell in bash-completion/completions:csbctl.bash,csbd.bash zsh/vendor-completions:_csbctl,_csbd fish/vendor_completions.d:csbctl.fish,csbd.fish; do
	IFS=, read -ra files <<<"${shell#*:}"
	for file in "${files[@]}"; do
		if [[ -e packaging/completions/$file ]]; then
			put 644 "/usr/share/${shell%%:*}" "packaging/completions/$file"
		fi
	done
done
for file in "$stage"/usr/share/bash-completion/completions/*.bash; do
	[[ ! -e $file ]] || mv "$file" "${file%.bash}"
done

# Debian's documentation: package, source of the copyright file.
date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")
debian_docs() {
	local doc=dist/stage/deb/$1/usr/share/doc/$1
	install -d -m 755 "$doc"
	gzip -9n >"$doc/changelog.gz" <<-END
		csbd ($PACKAGE_VERSION) unstable; urgency=medium

		  * Built from commit $(git rev-parse HEAD).

		 -- CodeSandbox maintainers <maintainers@codesandbox.invalid>  $date
	END
	cat >"$doc/copyright"
}
programs=(bin/csbd bin/csbctl bin/csbd-sentry bin/runsc)
go run ./packaging/copyright "${programs[@]}" | debian_docs csbd
install -d -m 755 dist/stage/deb/csbd/usr/share/lintian/overrides
install -m 644 packaging/debian/lintian-overrides dist/stage/deb/csbd/usr/share/lintian/overrides/csbd
install -d -m 755 dist/stage/rpm/csbd/usr/share/licenses/csbd
go run ./packaging/copyright -full "${programs[@]}" >dist/stage/rpm/csbd/usr/share/licenses/csbd/copyright

# Apart, because packages treat configuration files differently.
install -D -m 644 packaging/policy.yaml dist/stage/etc/policy.yaml
install -D -m 644 packaging/csbd.default dist/stage/etc/default

# The default image, where csbd looks for images that packages bring.
image=$(readlink -f "$CSBD_IMAGE_DIR/names/python")
shipped=dist/stage/image/usr/lib/csbd/images
install -d -m 755 "$shipped/names" "$shipped/${image##*/}"
install -m 644 "$image"/* "$shipped/${image##*/}"
ln -s "../${image##*/}" "$shipped/names/python"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fsck.erofs --extract="$work/tree" "$image/rootfs.erofs" >/dev/null
{
	cat packaging/image-copyright
	dpkg-query --admindir="$work/tree/var/lib/dpkg" -W -f ' ${source:Package} ${source:Version} (${Package})\n' | sort
} | debian_docs csbd-image-python
texts=dist/stage/image/usr/share/doc/csbd-image-python
install -d -m 755 "$texts"
for file in "$work"/tree/usr/share/doc/*/copyright; do
	name=${file%/copyright}
	printf '==== %s\n\n' "${name##*/}"
	cat "$file"
	echo
done | gzip -9n >"$texts/packages.gz"

find dist/stage -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
