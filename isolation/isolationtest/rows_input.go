package isolationtest

import (
	"strings"

	"github.com/fcarli/codesandbox/isolation"
)

var inputs = []row{
	{name: "stdin: text", code: "import sys\nprint(sys.stdin.read().upper())", stdin: "grüße\n", same: true, stdout: is("GRÜSSE\n\n")},
	{name: "stdin: lines", code: "import sys\nfor line in sys.stdin: print(repr(line))", stdin: "a\nb\r\nc", same: true, stdout: anything},
	{name: "stdin: input()", code: "print(input() + input('prompt '))", stdin: "a\nb\n", same: true, stdout: lines("prompt ab")},
	{name: "stdin: input() at its end", code: "input()", same: true, status: isolation.StatusError, exit: 1,
		raises: &raises{"EOFError", "EOF when reading a line", 1}, stderr: has("EOFError")},
	{name: "stdin: every byte", code: "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", stdin: everyByte, same: true, stdout: is(everyByte)},
	{name: "stdin: 1 MiB", code: "import hashlib, sys\nd = sys.stdin.buffer.read()\nprint(len(d), hashlib.sha256(d).hexdigest())", stdin: strings.Repeat("0123456789abcdef", 1<<16), same: true, stdout: has("1048576 ")},
	{name: "stdin: nobody reads it", code: "print('x')", stdin: strings.Repeat("x", 1<<20), same: true, stdout: lines("x")},
	{name: "stdin: none", code: "import sys\nprint(repr(sys.stdin.read()))", same: true, stdout: lines("''")},
	{name: "stdin: by descriptor", code: "import os\nprint(os.read(0, 3), os.read(0, 10), os.read(0, 10))", stdin: "abcdef", same: true, stdout: lines("b'abc' b'def' b''")},
	{name: "stdin: of a subprocess", code: "import subprocess\nsubprocess.run(['cat'])", stdin: "through\n", same: true, stdout: lines("through")},
	{name: "stdin: can be sought", code: "import sys\nprint(sys.stdin.read(2), sys.stdin.seekable(), sys.stdin.seek(0), sys.stdin.read())", stdin: "abc", same: true, stdout: lines("ab True 0 abc")},
	{name: "stdio: how it looks", same: true, stdin: "x", stdout: anything, code: `
		import sys, os
		for f in sys.stdin, sys.stdout, sys.stderr:
		    print(f, f.name, f.mode, f.encoding, f.errors, f.newlines, f.line_buffering, f.write_through, f.fileno(), f.isatty(), f.closed, f.readable(), f.writable())
		    print(f.buffer, f.buffer.raw, f.buffer.raw.closefd, f.buffer.mode, f.buffer.name)
		    print(os.get_inheritable(f.fileno()))
		print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
		print([os.isatty(fd) for fd in (0, 1, 2)])
		`},
	{name: "stdio: its types", same: true, stdout: anything, code: "import sys\nfor f in sys.stdin, sys.stdout, sys.stderr: print(type(f), type(f.buffer), type(f.buffer.raw))"},
	{name: "stdio: can be reconfigured", same: true, code: "import sys\nsys.stdout.reconfigure(encoding='latin-1', line_buffering=True)\nprint('ü')", stdout: is("\xfc\n")},
	{name: "stdio: can be detached", same: true, code: "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'latin-1')\nprint('ü')", stdout: is("\xfc\n")},
	{name: "open descriptors", stdin: "x", code: "import os\nprint([fd for fd in range(3, 900) if os.path.exists('/proc/self/fd/%d' % fd)])", stdout: lines("[]")},

	{name: "args", code: "import sys\nprint(sys.argv)", args: []string{"a", "", "-x", "ü 😀", "two words", "a\nb"}, same: true,
		stdout: lines(`['main.py', 'a', '', '-x', 'ü 😀', 'two words', 'a\nb']`)},
	{name: "args: as they were", code: "import sys\nprint(sys.orig_argv[1:])", args: []string{"a"}, same: true, stdout: lines("['main.py', 'a']")},
	{name: "environment", code: "import os\nprint(sorted(os.environ.items()))", env: map[string]string{"TZ": "UTC-3", "GREETING": "grüß dich"}, stdout: lines(
		"[('GREETING', 'grüß dich'), ('HOME', '/tmp/work'), ('LANG', 'C.UTF-8'), ('LOGNAME', 'sandbox'), ('OMP_NUM_THREADS', '1'), " +
			"('OPENBLAS_NUM_THREADS', '1'), ('PATH', '/usr/local/bin:/usr/bin:/bin'), ('TZ', 'UTC-3'), ('USER', 'sandbox')]")},
	{name: "environment: of children", code: "import subprocess\nsubprocess.run('echo $GREETING $MALLOC_ARENA_MAX', shell=True)", env: map[string]string{"GREETING": "hi"}, same: true, stdout: lines("hi")},
	{name: "environment: in C", code: "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.getenv.restype = ctypes.c_char_p\nprint(libc.getenv(b'GREETING'), libc.getenv(b'MALLOC_ARENA_MAX'))",
		env: map[string]string{"GREETING": "hi"}, same: true, stdout: lines("b'hi' None")},
	{name: "environment: the time zone", code: "import time\nprint(time.strftime('%H %Z', time.localtime(0)), time.timezone)", env: map[string]string{"TZ": "XYZ-3"}, same: true, stdout: lines("03 XYZ -10800")},
	{name: "environment: may replace what is there", code: "import os\nprint(os.environ['LANG'], os.environ['HOME'])", env: map[string]string{"HOME": "/", "LANG": "C"}, stdout: lines("C /")},
}

var files = []row{
	{name: "files: in the working directory", same: true, code: `
		import os
		print(sorted(os.listdir()), os.getcwd() == os.path.dirname(__file__))
		print(open('a.txt').read(), open('d/e/f.txt').read())
		for p in 'a.txt', 'd/e/f.txt', 'run.sh', 'secret': print(p, oct(os.stat(p).st_mode & 0o777), os.stat(p).st_uid == os.getuid())
		`, files: []isolation.File{text("a.txt", "A"), text("d/e/f.txt", "F"), {Path: "run.sh", Mode: 0o755}, {Path: "secret", Mode: 0o400}},
		stdout: lines("['a.txt', 'd', 'main.py', 'run.sh', 'secret'] True", "A F", "a.txt 0o644 True", "d/e/f.txt 0o644 True", "run.sh 0o755 True", "secret 0o400 True")},
	{name: "files: executable", same: true, code: "import subprocess\nprint(subprocess.run(['./run.sh', 'x'], capture_output=True, text=True))",
		files:  []isolation.File{{Path: "run.sh", Mode: 0o755, Content: []byte("#!/bin/sh\necho ran $1\nexit 3\n")}},
		stdout: lines(`CompletedProcess(args=['./run.sh', 'x'], returncode=3, stdout='ran x\n', stderr='')`)},
	{name: "files: every byte", same: true, code: "import sys\nsys.stdout.buffer.write(open('x', 'rb').read())", files: []isolation.File{text("x", everyByte)}, stdout: is(everyByte)},
	{name: "files: names", same: true, code: "import os\nprint(sorted(os.listdir()))", files: []isolation.File{text("with space", ""), text("ü", ""), text(".hidden", ""), text(`"quo'te"`, "")},
		stdout: anything},
	{name: "files: a module", same: true, code: "import helper\nprint(helper.f())", files: []isolation.File{text("helper.py", "def f(): return __name__\n")}, stdout: lines("helper")},
	{name: "files: a package", same: true, code: "import pack.sub\nfrom pack import x\nprint(pack.sub.y, x)", files: []isolation.File{text("pack/__init__.py", "x = 1\n"), text("pack/sub.py", "from . import x\ny = x + 1\n")}, stdout: lines("2 1")},
	{name: "files: one shadows json", same: true, code: "import json\nprint(json.mine, json.__file__)", files: []isolation.File{text("json.py", "mine = True\n")}, stdout: lines("True /tmp/work/json.py")},
	{name: "files: a package shadows ctypes", same: true, code: "import ctypes\nprint(ctypes.mine)", files: []isolation.File{text("ctypes/__init__.py", "mine = True\n")}, stdout: lines("True")},
	{name: "files: one shadows threading", same: true, code: "import threading\nprint(threading.mine)", files: []isolation.File{text("threading.py", "mine = True\n")}, stdout: lines("True"), stderr: has("has no attribute '_shutdown'")},
	{name: "files: one shadows atexit", same: true, code: "import atexit\nprint(atexit)", files: []isolation.File{text("atexit.py", "mine = True\n")}, stdout: lines("<module 'atexit' (built-in)>")},
	{name: "files: one shadows traceback", same: true, code: "1/0", files: []isolation.File{text("traceback.py", "print('mine')\n")}, status: isolation.StatusError, exit: 1,
		raises: &raises{"ZeroDivisionError", "", 1}, stderr: has("ZeroDivisionError")},
	{name: "files: one does not shadow os", same: true, code: "import os\nprint(hasattr(os, 'mine'))", files: []isolation.File{text("os.py", "mine = True\n")}, stdout: lines("False")},
	{name: "files: one is below another", code: "print('never')", files: []isolation.File{text("a", ""), text("a/b", "")}, setup: "a"},
	{name: "files: a name is too long for its place", code: "print('never')", files: []isolation.File{text("d/"+strings.Repeat("x", 256), "")}, setup: "too long"},
}
