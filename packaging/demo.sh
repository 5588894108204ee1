#!/bin/bash
# make demo: a csbd of its own, the README's examples, a clean stop.
set -eu
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
export CSBD_SOCKET=$dir/csbd.sock CSBD_STATE_DIR=$dir/state CSBD_POLICY=packaging/policy.yaml
export CSBD_IMAGE_DIR=${CSBD_IMAGE_DIR:-$PWD/run/images} CSBD_CGROUP=${CSBD_CGROUP:-/csbd-demo}
bin/csbd 2>"$dir/csbd.log" &
csbd=$!
trap 'kill $csbd 2>/dev/null && wait $csbd; rm -rf "$dir"' EXIT

echo "== starting csbd"
for _ in $(seq 300); do
	[ -S "$CSBD_SOCKET" ] && break
	kill -0 $csbd 2>/dev/null || { cat "$dir/csbd.log"; exit 1; }
	sleep 0.1
done
[ -S "$CSBD_SOCKET" ] || { cat "$dir/csbd.log"; exit 1; }
PATH=$PWD/bin:$PATH

show() {
	echo
	echo "\$ $1"
	status=0
	bash -c "$1" </dev/null || status=$?
	if [ "$status" != "$2" ]; then
		echo "exit status $status, expected $2" >&2
		exit 1
	fi
}

cat >"$dir/script.py" <<'PY'
import sys
import numpy as np
import pandas as pd

frame = pd.DataFrame({"n": np.arange(5)})
print(sys.argv[1:], frame.n.sum())
PY
printf 'some data\n' >"$dir/data.txt"
cd "$dir"

show "echo 'print(\"Hello from CodeSandbox!\")' | csbctl" 0
show "PYTHON_CODE=\"print('Hello World!')\" csbctl" 0
show "csbctl -c 'import sys; print(sys.argv, sys.stdin.read())' a b < data.txt" 0
show "csbctl script.py arg" 0
show "csbctl --raw script.py" 0
show "csbctl -c 'print(1/0)'" 1
show "csbctl --timeout 2s --memory 64MiB -c 'while True: pass'" 124
show "csbctl --memory 64MiB -c 'x = bytearray(1 << 30)'" 1
show "csbctl -c 'import urllib.request as u; u.urlopen(\"http://example.org\")' | cut -c1-300" 0

echo
echo "== stopping csbd"
trap - EXIT
kill $csbd
wait $csbd
left=$(ls "$CSBD_STATE_DIR/sandboxes")
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
rm -rf "$dir"
echo "== done"
