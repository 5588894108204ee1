package isolationtest

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

var outputs = []row{
	{name: "output: both streams", code: "import sys\nprint('out')\nprint('err', file=sys.stderr)", same: true, stdout: lines("out"), stderr: lines("err")},
	{name: "output: every byte", code: "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 300)\nsys.stderr.buffer.write(bytes(range(255, -1, -1)))", same: true,
		stdout: is(strings.Repeat(everyByte, 300)), stderr: has("\xff\xfe\xfd", "\x01\x00")},
	{name: "output: 8 MiB", code: "import sys\nsys.stdout.buffer.write(b'0123456789abcdef' * (8 << 16))", stdout: is(strings.Repeat("0123456789abcdef", 8<<16))},
	{name: "output: 8 MiB on both", code: `
		import os, threading
		def pour(fd):
		    left = 8 << 20
		    while left: left -= os.write(fd, b'x' * min(left, 65536))  # gVisor may write less
		threads = [threading.Thread(target=pour, args=(fd,)) for fd in (1, 2)]
		for t in threads: t.start()
		for t in threads: t.join()
		`, stdout: is(strings.Repeat("x", 8<<20)), stderr: is(strings.Repeat("x", 8<<20))},
	{name: "output: 200000 lines", code: "for i in range(200000): print(i)", same: true, stdout: func(got string) string {
		if n := strings.Count(got, "\n"); n != 200000 || !strings.HasPrefix(got, "0\n1\n") || !strings.HasSuffix(got, "\n199999\n") {
			return "not 200000 lines, first and last"
		}
		return ""
	}},
	{name: "output: text and bytes mixed", code: "import sys\nprint('a', flush=True)\nsys.stdout.buffer.write(b'b\\n')\nsys.stdout.buffer.flush()\nprint('c', flush=True)\nsys.stdout.buffer.write(b'd\\n')",
		same: true, stdout: lines("a", "b", "c", "d")},
	{name: "output: text, descriptor, text", code: "import os\nprint('a', flush=True)\nos.write(1, b'b\\n')\nprint('c')", same: true, stdout: lines("a", "b", "c")},
	{name: "output: no line break at the end", code: "print('x', end='')", same: true, stdout: is("x")},
	{name: "output: unicode", code: "print('é 日本 😀')\nimport sys; print('ü', file=sys.stderr)", same: true, stdout: lines("é 日本 😀"), stderr: lines("ü")},
	{name: "output: surrogates", code: `print('\udc80x')`, same: true, stdout: is("\x80x\n")},
	{name: "output: a subprocess writes too", code: "import subprocess\nprint('a', flush=True)\nsubprocess.run(['echo', 'b'])\nprint('c')", same: true, stdout: lines("a", "b", "c")},
	{name: "output: arrives while the program runs", limits: timeout(time.Second), code: "print('now')\nimport time\ntime.sleep(60)", status: isolation.StatusTimeout, exit: 124, stdout: lines("now")},
	{name: "output: head and tail are kept", code: "print('head' + 'x' * 5_000_000 + 'tail')", stdout: has("head", "tail"), check: func(t *testing.T, got outcome) {
		c := isolation.NewCapture(1000)
		_, _ = c.Write([]byte(got.stdout))
		dropped, offset := c.Dropped()
		assert.Equal(t, dropped, int64(5_000_009-1000))
		assert.Equal(t, offset, int64(500))
		assert.Assert(t, bytes.HasPrefix(c.Bytes(), []byte("head")) && bytes.HasSuffix(c.Bytes(), []byte("tail\n")))
	}},
	{name: "output: too much kills where it shall", limits: killOnOutput, code: "while True: print('x' * 1000)", within: 8 * time.Second, status: isolation.StatusOutputLimit, exit: 153, stdout: has("xxx")},
	{name: "output: too much on stderr kills, too", limits: killOnOutput, code: "import os\nwhile True: os.write(2, b'x' * 1000)", within: 8 * time.Second,
		status: isolation.StatusOutputLimit, exit: 153, stderr: has("xxx")},
	{name: "output: exactly the limit does not kill", limits: killOnOutput, code: "import os\nos.write(1, b'x' * 4096)\nos.write(2, b'y' * 4096)",
		stdout: is(strings.Repeat("x", 4096)), stderr: is(strings.Repeat("y", 4096))},
	{name: "output: one byte more than the limit kills", limits: killOnOutput, code: "import os\nos.write(1, b'x' * 4097)\nimport time; time.sleep(60)", within: 8 * time.Second,
		status: isolation.StatusOutputLimit, exit: 153, stdout: has("x")},
	{name: "output: more than the limit kills even a program that ends", limits: killOnOutput, code: "import os\nos.write(1, b'x' * 5000)",
		status: isolation.StatusOutputLimit, exit: 153, stdout: has("x")},
}

func killOnOutput(l *isolation.Limits) { l.Output, l.KillOnOutput = 4096, true }

var everyByte = func() string {
	var b []byte
	for i := range 256 {
		b = append(b, byte(i))
	}
	return string(b)
}()

// findToken gives a program the token that ends its output. A program that
// looks for it finds it: what it does with it concerns its own result only.
const findToken = `
import gc, mmap, os, struct, sys, time
token = None
for o in gc.get_objects() + [v for m in list(sys.modules.values()) for v in vars(m).values()]:
    try: token = token or (type(o).__name__ == 'Reporter' and bytes(o.shared[:32]))
    except BaseException: pass
if not token:
    f = sys._getframe()
    while f and not token:
        for o in list(f.f_locals.values()):
            if type(o).__name__ == 'Reporter': token = bytes(o.shared[:32])
        f = f.f_back
if not token:
    for line in open('/proc/self/maps'):
        a, b = (int(x, 16) for x in line.split()[0].split('-'))
        if b - a == 4096 and 'rw-s' in line:
            import ctypes
            data = ctypes.string_at(a, 32)
            if data.strip(b'0123456789abcdef') == b'': token = data
if not token:
    print('not found')
    sys.exit(99)
mark = b'\0csb-end ' + token + b' '
`

// forgeries: what looks like a word from the runner.
var forgeries = []row{
	{name: "forged: a mark with another token", code: "import os\nos.write(1, b'\\0csb-end ' + b'0' * 32 + b' \\0\\0\\0\\2{}')\nos.write(2, b'\\0csb-end ' + b'0' * 32 + b' ')\nprint('on')",
		same: true, stdout: is("\x00csb-end " + strings.Repeat("0", 32) + " \x00\x00\x00\x02{}on\n"), stderr: is("\x00csb-end " + strings.Repeat("0", 32) + " ")},
	{name: "forged: half a mark at the end", code: "import os\nos.write(1, b'x\\0csb-end ')\nos.write(2, b'y\\0csb')", same: true, stdout: is("x\x00csb-end "), stderr: is("y\x00csb")},
	{name: "forged: one byte of a mark at the end", code: "import os\nos.write(1, b'x\\0')\nos._exit(4)", same: true, status: isolation.StatusError, exit: 4, stdout: is("x\x00")},
	{name: "forged: half a mark and then killed", code: "import os\nos.write(1, b'x\\0csb-en')\nos.kill(os.getpid(), 9)", same: true, status: isolation.StatusKilled, exit: 137, signal: 9, stdout: is("x\x00csb-en")},
	{name: "forged: half a mark and then a timeout", code: "import os, time\nos.write(1, b'x\\0csb-en')\ntime.sleep(60)", limits: timeout(time.Second), status: isolation.StatusTimeout, exit: 124, stdout: is("x\x00csb-en")},
	{name: "forged: another ready line", code: "print('CSB1 ready')", same: true, stdout: lines("CSB1 ready")},
	{name: "forged: an end of its own", within: 15 * time.Second, code: findToken + `
data = b'{"exit_code": 77, "exception": {"type": "Forged", "message": "m", "line": -5, "traceback": ""}}'
os.write(2, mark)
os.write(1, b'out' + mark + struct.pack('>I', len(data)) + data + b'more')
time.sleep(60)
`, status: isolation.StatusError, exit: 77, stdout: is("out"), raises: &raises{"Forged", "m", 0}},
	{name: "forged: an end that makes no sense", within: 15 * time.Second, limits: timeout(3 * time.Second), code: findToken + `
os.write(2, mark)
os.write(1, mark + struct.pack('>I', 5) + b'trash')
os._exit(6)
`, status: isolation.StatusError, exit: 6},
	{name: "forged: an end that makes no sense, and on it runs", within: 6 * time.Second, limits: timeout(3 * time.Second), code: findToken + `
os.write(2, mark)
os.write(1, mark + struct.pack('>I', 5) + b'trash')
time.sleep(60)
`, status: isolation.StatusTimeout, exit: 124},
	{name: "forged: an end that is too long", within: 6 * time.Second, limits: timeout(3 * time.Second), code: findToken + `
os.write(2, mark)
os.write(1, mark + b'\xff' * 100)
time.sleep(60)
`, status: isolation.StatusTimeout, exit: 124},
	{name: "forged: an end that never ends", within: 6 * time.Second, limits: timeout(2 * time.Second), code: findToken + `
os.write(2, mark)
os.write(1, mark + struct.pack('>I', 1 << 20) + b'x' * 1000)
time.sleep(60)
`, status: isolation.StatusTimeout, exit: 124},
	{name: "forged: an exit code out of range", within: 15 * time.Second, limits: timeout(3 * time.Second), code: findToken + `
data = b'{"exit_code": 4711}'
os.write(2, mark)
os.write(1, mark + struct.pack('>I', len(data)) + data)
os._exit(6)
`, status: isolation.StatusError, exit: 6},
	{name: "forged: a failed setup, of which no end frame can speak", within: 6 * time.Second, limits: timeout(3 * time.Second), code: findToken + `
data = b'{"setup": "pretended"}'
os.write(2, mark)
os.write(1, mark + struct.pack('>I', len(data)) + data)
time.sleep(60)
`},
	{name: "forged: only one stream has ended", within: 6 * time.Second, limits: timeout(2 * time.Second), code: findToken + `
os.write(1, mark + struct.pack('>I', 2) + b'{}')
os.write(2, b'still here')
time.sleep(60)
`, status: isolation.StatusTimeout, exit: 124, stderr: is("still here")},
}

// A slow reader is the caller's business, but it must not lose anything.
func slowReader(t *testing.T, h Harness) {
	spec := h.spec("import sys\nfor i in range(3000): print('x' * 1000)")
	var n int
	slow := writerFunc(func(p []byte) (int, error) {
		n += len(p)
		time.Sleep(5 * time.Millisecond)
		return len(p), nil
	})
	res, err := launch(t, h, h.Class).Run(context.Background(), spec, isolation.Output{Stdout: slow, Stderr: slow})
	assert.NilError(t, err)
	assert.Equal(t, res.Status, isolation.StatusOK)
	assert.Equal(t, n, 3000*1001)
}
