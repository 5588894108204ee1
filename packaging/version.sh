#!/bin/bash
# The version of the packages, of the commit that is checked out. It grows from
# commit to commit, in dpkg's order and in rpm's:
#
#   0.1~git123.abcdef0   before the first release, 123 commits
#   1.2                  the commit tagged v1.2
#   1.2+git4.abcdef0     four commits later
#
# and ends in ".dirty" when files are not as committed.
set -eu
cd "$(dirname "$0")/.."

dirty=
[[ -z $(git status --porcelain --untracked-files=no) ]] || dirty=.dirty
hash=$(git rev-parse --short=12 HEAD)
if described=$(git describe --tags --long --match 'v[0-9]*' 2>/dev/null); then
	described=${described%-g*}
	version=${described%-*}
	version=${version#v}
	version=${version//-/\~} # v1.2-rc1 comes before v1.2
	commits=${described##*-}
	if ((commits)) || [[ $dirty ]]; then
		version+=+git$commits.$hash
	fi
else
	version=0.1~git$(git rev-list --count HEAD).$hash
fi
echo "$version$dirty"
