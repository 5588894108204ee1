package isolationtest

import (
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

// endings: the ways in which a program leaves.
var endings = []row{
	{name: "falls off its end", code: "print('hello')", stdout: lines("hello"), same: true},
	{name: "is empty", code: "", same: true},
	{name: "exit 0", code: "import sys; sys.exit(0)", same: true},
	{name: "exit 3", code: "import sys; print('x'); sys.exit(3)", status: isolation.StatusError, exit: 3, stdout: lines("x"), same: true},
	{name: "exit without a status", code: "import sys; sys.exit()", same: true},
	{name: "exit None", code: "import sys; sys.exit(None)", same: true},
	{name: "exit True", code: "import sys; sys.exit(True)", status: isolation.StatusError, exit: 1, same: true},
	{name: "exit 256", code: "import sys; sys.exit(256)", same: true},
	{name: "exit -1", code: "import sys; sys.exit(-1)", status: isolation.StatusError, exit: 255, same: true},
	{name: "exit 2**40", code: "import sys; sys.exit(2**40)", same: true},
	{name: "exit 2**40+5", code: "import sys; sys.exit(2**40+5)", status: isolation.StatusError, exit: 5, same: true},
	{name: "exit 2**100", code: "import sys; sys.exit(2**100)", status: isolation.StatusError, exit: 255, same: true},
	{name: "exit with a text", code: "import sys; print('out', end=''); sys.exit('bye ü')", status: isolation.StatusError, exit: 1,
		stdout: is("out"), stderr: lines("bye ü"), same: true},
	{name: "exit with a float", code: "import sys; sys.exit(3.5)", status: isolation.StatusError, exit: 1, stderr: lines("3.5"), same: true},
	{name: "exit with a tuple", code: "import sys; sys.exit((1, 2))", status: isolation.StatusError, exit: 1, stderr: lines("(1, 2)"), same: true},
	{name: "exit by quit()", code: "quit(4)", status: isolation.StatusError, exit: 4, same: true},
	{name: "exit by a class of its own", code: "class Leave(SystemExit): pass\nraise Leave(9)", status: isolation.StatusError, exit: 9, same: true},
	{name: "exit in an except block", code: "import sys\ntry:\n    1/0\nexcept Exception:\n    sys.exit(6)", status: isolation.StatusError, exit: 6, same: true},
	{name: "exit with a text that cannot be shown", code: `
		import sys
		class Mute:
		    def __str__(self): raise ValueError('mute')
		sys.exit(Mute())
		`, status: isolation.StatusError, exit: 1, stderr: anything, same: true},
	{name: "os._exit loses what was not flushed", code: "import os, sys\nsys.stdout.write('lost')\nos._exit(7)", status: isolation.StatusError, exit: 7, same: true},
	{name: "os._exit after a flush", code: "import os\nprint('kept', flush=True)\nos._exit(7)", status: isolation.StatusError, exit: 7, stdout: lines("kept"), same: true},
	{name: "os._exit 0", code: "import os\nos._exit(0)", same: true},
	{name: "os._exit 137 is not a signal", code: "import os\nos._exit(137)", status: isolation.StatusError, exit: 137, same: true},
	{name: "os.abort", code: "import os\nprint('x', flush=True)\nos.abort()", status: isolation.StatusKilled, exit: 134, signal: 6, stdout: lines("x"), same: true},
	{name: "segmentation fault", code: "import ctypes\nprint('x', flush=True)\nctypes.string_at(0)", status: isolation.StatusKilled, exit: 139, signal: 11, stdout: lines("x"), same: true},
	{name: "floating point exception", code: "import os, signal\nos.kill(os.getpid(), signal.SIGFPE)", status: isolation.StatusKilled, exit: 136, signal: 8, same: true},
	{name: "SIGTERM to itself", code: "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", status: isolation.StatusKilled, exit: 143, signal: 15, same: true},
	{name: "SIGKILL to itself", code: "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", status: isolation.StatusKilled, exit: 137, signal: 9, same: true},
	{name: "SIGTERM to its group", code: "import os, signal\nos.kill(0, signal.SIGTERM)", status: isolation.StatusKilled, exit: 143, signal: 15, same: true},
	{name: "SIGKILL to everyone", code: "import os, signal\ntry:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass\nprint('alive')",
		stdout: lines("alive")},
	// Linux protects init from what it does not handle; gVisor does not. It is
	// the program's own sandbox and result that suffer.
	{name: "SIGKILL to init", code: "import os, signal, time\ntry:\n    os.kill(1, signal.SIGKILL)\nexcept OSError:\n    pass\ntime.sleep(0.2)\nprint('alive')",
		status: isolation.StatusKilled, exit: 137, signal: 9},
	{name: "SIGSTOP to init", code: "import os, signal, time\ntry:\n    os.kill(1, signal.SIGSTOP)\nexcept OSError:\n    pass\nos._exit(3)",
		limits: timeout(time.Second), status: isolation.StatusTimeout, exit: 124},
	{name: "an exec replaces it", code: "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo from sh; exit 5'])", status: isolation.StatusError, exit: 5, stdout: lines("from sh"), same: true},
}

// exceptions: those that nobody catches.
var exceptions = []row{
	{name: "ZeroDivisionError in a nested call", code: `
		def inner(x):
		    return 1 / x

		def outer():
		    return inner(0)

		outer()
		`, status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ZeroDivisionError", "division by zero", 2},
		stderr: lines(
			"Traceback (most recent call last):",
			`  File "/tmp/work/main.py", line 7, in <module>`,
			"    outer()",
			`  File "/tmp/work/main.py", line 5, in outer`,
			"    return inner(0)",
			"           ^^^^^^^^",
			`  File "/tmp/work/main.py", line 2, in inner`,
			"    return 1 / x",
			"           ~~^~~",
			"ZeroDivisionError: division by zero"),
		check: func(t *testing.T, got outcome) {
			assert.Check(t, got.res.Exception != nil && got.res.Exception.Traceback == got.stderr)
		}},
	{name: "SyntaxError", code: "x = 1\nif x\n    pass\n", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"SyntaxError", "expected ':'", 2},
		stderr: lines(`  File "/tmp/work/main.py", line 2`, "    if x", "        ^", "SyntaxError: expected ':'")},
	{name: "IndentationError", code: "def f():\npass\n", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"IndentationError", "expected an indented block", 2}, stderr: has("IndentationError")},
	{name: "SyntaxError in a module", code: "import broken", files: []isolation.File{text("broken.py", "x = = 1\n")},
		status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"SyntaxError", "invalid syntax", 1}, stderr: has("broken.py", "main.py")},
	{name: "exception in a module", code: "import helper\n\nhelper.work()",
		files:  []isolation.File{text("helper.py", "class Broken(Exception): pass\n\n\n\ndef work():\n    raise Broken('down')\n")},
		status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"helper.Broken", "down", 3}, stderr: has(`helper.py", line 6, in work`, "helper.Broken: down")},
	{name: "exception of a class of its own", code: "class Custom(Exception): pass\nraise Custom('mine')", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"Custom", "mine", 2}, stderr: has("Custom: mine")},
	{name: "exception of a nested class", code: "class A:\n    class B(Exception): pass\nraise A.B(1, 'two')", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"A.B", "(1, 'two')", 3}, stderr: anything},
	{name: "exception of the standard library", code: "import json\njson.loads('{')", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"json.decoder.JSONDecodeError", "Expecting property name", 2}, stderr: anything},
	{name: "exception whose str fails", code: `
		class Bad(Exception):
		    def __str__(self): raise RuntimeError('no')
		raise Bad()
		`, status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"Bad", "<exception str() failed>", 3}, stderr: has("Bad: <exception str() failed>")},
	{name: "exception whose str exits", code: `
		class Bad(Exception):
		    def __str__(self): raise SystemExit(3)
		raise Bad()
		`, status: isolation.StatusError, exit: 1, same: true, raises: &raises{"Bad", "<exception str() failed>", 3}, stderr: anything},
	{name: "exception with a cause", code: `
		try:
		    {}['x']
		except KeyError as e:
		    raise ValueError('second') from e
		`, status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ValueError", "second", 4}, stderr: has("KeyError: 'x'", "direct cause")},
	{name: "exception during another", code: "try:\n    1/0\nexcept Exception:\n    undefined", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"NameError", "undefined", 4}, stderr: has("During handling")},
	{name: "exception group", code: "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ExceptionGroup", "several (2 sub-exceptions)", 1}, stderr: has("ExceptionGroup")},
	{name: "exception with notes", code: "e = ValueError('x')\ne.add_note('a note')\nraise e", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ValueError", "x", 3}, stderr: has("a note")},
	{name: "exception with a very long text", code: "raise ValueError('x' * 3_000_000)", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ValueError", "xxx", 1}, stderr: has("ValueError: xxx"),
		check: func(t *testing.T, got outcome) {
			assert.Check(t, got.res.Exception != nil && len(got.res.Exception.Message) < 100_000)
		}},
	{name: "exception with surrogates", code: `raise ValueError('\ud800 x')`, status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ValueError", `\ud800 x`, 1}, stderr: has(`ValueError: \ud800 x`)},
	{name: "KeyboardInterrupt", code: "print('x')\nraise KeyboardInterrupt", status: isolation.StatusKilled, exit: 130, signal: 2, same: true,
		raises: &raises{"KeyboardInterrupt", "", 2}, stdout: lines("x"), stderr: has("KeyboardInterrupt")},
	{name: "SIGINT to itself", code: "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)", status: isolation.StatusKilled, exit: 130, signal: 2,
		raises: &raises{"KeyboardInterrupt", "", 2}, stderr: has("KeyboardInterrupt")},
	{name: "RecursionError", code: "def f(): f()\nf()", status: isolation.StatusError, exit: 1,
		raises: &raises{"RecursionError", "maximum recursion depth exceeded", 1}, stderr: has("[Previous line repeated")},
	{name: "exception of eval", code: "eval('1/0')", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ZeroDivisionError", "division by zero", 1}, stderr: has(`File "<string>", line 1`)},
	{name: "exception without a traceback", code: "def f():\n    try:\n        1/0\n    except Exception as e:\n        raise e.with_traceback(None)\nf()", status: isolation.StatusError, exit: 1, same: true,
		raises: &raises{"ZeroDivisionError", "", 5}, stderr: anything},
	{name: "excepthook is replaced", code: "import sys\nsys.excepthook = lambda k, v, tb: print('hooked', k.__name__, v)\nraise ValueError('x')",
		status: isolation.StatusError, exit: 1, same: true, raises: &raises{"ValueError", "x", 3}, stdout: lines("hooked ValueError x")},
	{name: "excepthook fails", code: "import sys\ndef hook(*a): raise TypeError('hook')\nsys.excepthook = hook\nraise ValueError('x')",
		status: isolation.StatusError, exit: 1, same: true, raises: &raises{"ValueError", "x", 4}, stderr: has("Error in sys.excepthook", "Original exception was")},
	{name: "excepthook exits", code: "import sys\ndef hook(*a): sys.exit(5)\nsys.excepthook = hook\nraise ValueError('x')",
		status: isolation.StatusError, exit: 5, same: true, raises: &raises{"ValueError", "x", 4}},
	{name: "excepthook is missing", code: "import sys\ndel sys.excepthook\nraise ValueError('x')",
		status: isolation.StatusError, exit: 1, same: true, raises: &raises{"ValueError", "x", 3}, stderr: has("sys.excepthook is missing")},
	{name: "exception in a thread", code: "import threading\nt = threading.Thread(target=lambda: 1/0, name='worker')\nt.start()\nt.join()\nprint('on')",
		same: true, stdout: lines("on"), stderr: has("Exception in thread worker", "ZeroDivisionError")},
	{name: "sys.exit in a thread", code: "import sys, threading\nt = threading.Thread(target=sys.exit, args=(5,))\nt.start()\nt.join()\nprint('on')",
		same: true, stdout: lines("on")},
}

// processes: what is still there when the program leaves.
var processes = []row{
	{name: "a daemon does not delay the end", within: 10 * time.Second, code: `
		import os, time
		if os.fork() == 0:
		    os.setsid()
		    if os.fork() == 0:
		        time.sleep(100)
		    os._exit(0)
		os.wait()
		print('parent')
		`, stdout: lines("parent")},
	{name: "children are left running", within: 10 * time.Second, code: `
		import subprocess
		for _ in range(3):
		    subprocess.Popen(['sleep', '100'])
		print('on')
		`, stdout: lines("on"), stderr: anything},
	{name: "children write until the end", within: 10 * time.Second, code: `
		import os, sys, time
		if os.fork() == 0:
		    while True:
		        os.write(1, b'c')
		time.sleep(0.2)
		os.write(1, b'last')
		os._exit(3)
		`, status: isolation.StatusError, exit: 3, stdout: has("ccc", "last")},
	{name: "both sides of a fork print", code: `
		import os, sys
		pid = os.fork()
		if pid == 0:
		    print('child')
		    sys.exit(4)
		print('status', os.waitpid(pid, 0)[1] >> 8)
		`, same: true, stdout: lines("child", "status 4")},
	{name: "the forked side falls off the end", code: `
		import atexit, os
		atexit.register(lambda: print('atexit', os.getpid() == me))
		me = os.getpid()
		pid = os.fork()
		if pid:
		    os.waitpid(pid, 0)
		`, same: true, stdout: lines("atexit False", "atexit True")},
	{name: "the forked side raises", code: `
		import os
		pid = os.fork()
		if pid == 0:
		    raise ValueError('in the child')
		print('status', os.waitpid(pid, 0)[1] >> 8)
		`, same: true, stdout: lines("status 1"), stderr: has("ValueError: in the child")},
	{name: "many orphans are reaped", limits: func(l *isolation.Limits) { l.Processes = 8 }, code: `
		import os
		for i in range(30):
		    pid = os.fork()
		    if pid == 0:
		        if os.fork() == 0:
		            os._exit(0)
		        os._exit(0)
		    os.waitpid(pid, 0)
		    import time; time.sleep(0.02)
		print('done')
		`, stdout: lines("done")},
}

// exits: what happens between the program's last line and its end.
var exits = []row{
	{name: "atexit runs backwards", code: "import atexit\natexit.register(print, 'first')\natexit.register(print, 'second')\nprint('main')", same: true,
		stdout: lines("main", "second", "first")},
	{name: "atexit after sys.exit", code: "import atexit, sys\natexit.register(print, 'bye')\nsys.exit(2)", same: true, status: isolation.StatusError, exit: 2, stdout: lines("bye")},
	{name: "atexit after an exception", code: "import atexit\natexit.register(print, 'bye')\n1/0", same: true, status: isolation.StatusError, exit: 1, stdout: lines("bye"),
		stderr: has("ZeroDivisionError"), raises: &raises{"ZeroDivisionError", "", 3}},
	{name: "atexit fails", code: `
		import atexit
		class Fail:
		    def __call__(self): raise ValueError('x')
		    def __repr__(self): return 'Fail'
		atexit.register(print, 'still')
		atexit.register(Fail())
		`, same: true, stdout: lines("still"), stderr: has("Exception ignored in atexit callback", "ValueError: x")},
	{name: "atexit exits", code: "import atexit, sys\natexit.register(print, 'still')\natexit.register(lambda: sys.exit(5))", same: true, stdout: lines("still"), stderr: anything},
	{name: "atexit registers another", code: "import atexit\natexit.register(lambda: atexit.register(print, 'late'))", same: true, stdout: anything},
	{name: "threads are waited for", code: `
		import threading, time
		def work():
		    time.sleep(0.3)
		    print('thread')
		threading.Thread(target=work).start()
		print('main')
		`, same: true, stdout: lines("main", "thread")},
	{name: "daemon threads are not", within: 10 * time.Second, code: `
		import threading, time
		threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
		print('main')
		`, same: true, stdout: lines("main")},
	{name: "daemon threads that print", within: 10 * time.Second, code: `
		import os, threading
		def spam():
		    while True:
		        os.write(2, b'')
		        str(1) * 100
		for _ in range(4):
		    threading.Thread(target=spam, daemon=True).start()
		print('main')
		`, same: true, stdout: lines("main")},
	{name: "threads finish before atexit", code: `
		import atexit, threading, time
		atexit.register(print, 'atexit')
		def work():
		    time.sleep(0.2)
		    print('thread')
		threading.Thread(target=work).start()
		`, same: true, stdout: lines("thread", "atexit")},
	{name: "a file is written out without close", code: "import os\nf = os.fdopen(os.dup(1), 'w')\nf.write('kept')", same: true, stdout: is("kept")},
	{name: "a file in a function's default is written out", code: "import os\ndef f(file=os.fdopen(os.dup(1), 'w')): file.write('kept')\nf()", same: true, stdout: is("kept")},
	{name: "a file of a module is written out", code: "import out\nout.f.write('kept')", files: []isolation.File{text("out.py", "import os\nf = os.fdopen(os.dup(1), 'w')\n")},
		same: true, stdout: is("kept")},
	{name: "a file of a standard module is written out", code: "import os, string\nstring.f = os.fdopen(os.dup(1), 'w')\nstring.f.write('kept')", same: true, stdout: is("kept")},
	{name: "__del__ at the end", code: "class A:\n    def __del__(self): print('bye')\na = A()", same: true, stdout: lines("bye")},
	{name: "__del__ at the end sees globals", code: "import sys\nname = 'world'\nclass A:\n    def __del__(self): print('bye', name, sys.byteorder)\na = A()", same: true,
		stdout: lines("bye world little")},
	{name: "__del__ of several", code: `
		class A:
		    def __init__(self, n): self.n = n
		    def __del__(self): print('bye', self.n)
		b = A(1)
		_a = A(2)
		a = [A(3), A(4)]
		__x = A(5)
		`, stdout: has("bye 1\n", "bye 2\n", "bye 3\n", "bye 4\n", "bye 5\n")},
	{name: "__del__ fails", code: "class A:\n    def __del__(self): raise ValueError('x')\n    def __repr__(self): return 'A'\na = A()",
		stderr: has("Exception ignored in: <function A.__del__", "ValueError: x")}, // and, better than python3, the source line
	{name: "weakref callbacks at the end", code: "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'finalized')", same: true, stdout: lines("finalized")},
	{name: "a generator at the end", code: "def g():\n    try:\n        yield 1\n    finally:\n        print('closed')\nx = g()\nnext(x)", same: true, stdout: lines("closed")},
	{name: "stdout cannot be flushed", code: "import os\nprint('x', end='')\nos.close(1)", same: true, status: isolation.StatusError, exit: 120,
		stderr: has("Exception ignored in: <_io.TextIOWrapper name='<stdout>' mode='w' encoding='utf-8'>", "OSError: [Errno 9] Bad file descriptor")},
	{name: "stdout cannot be flushed after exit 3", code: "import os, sys\nprint('x', end='')\nos.close(1)\nsys.exit(3)", same: true, status: isolation.StatusError, exit: 120,
		stderr: anything},
	{name: "stdout is closed", code: "import sys\nprint('x')\nsys.stdout.close()", same: true, stdout: lines("x")},
	{name: "stdout has no flush", code: "import sys\nsys.stdout = object()", same: true, status: isolation.StatusError, exit: 120, stderr: has("has no attribute 'flush'")},
	{name: "stdout is None", code: "import sys\nsys.stdout = None\nprint('x')", same: true},
	{name: "stdout is deleted", code: "import sys\ndel sys.stdout", same: true},
	{name: "stderr is deleted", code: "import sys\ndel sys.stderr\n1/0", status: isolation.StatusError, exit: 1, stderr: has("lost sys.stderr"), raises: &raises{"ZeroDivisionError", "", 3}},
	{name: "stderr is closed", code: "import sys\nsys.stderr.close()\nprint('x')\n1/0", status: isolation.StatusError, exit: 1, stdout: lines("x"), stderr: has("lost sys.stderr"),
		raises: &raises{"ZeroDivisionError", "", 4}},
	{name: "stdout is another", code: "import io, sys\nsys.stdout = io.StringIO()\nprint('x')", same: true},
	{name: "builtins are broken", code: "import builtins\nprint('ok')\nbuiltins.list = builtins.isinstance = builtins.getattr = None", same: true, stdout: lines("ok")},
	{name: "imports are broken", code: "import builtins\nprint('ok')\nbuiltins.__import__ = None", same: true, stdout: lines("ok")},
	{name: "modules are gone", code: "import sys\nprint('ok')\nsys.modules.clear()", same: true, stdout: lines("ok")},
	{name: "closes 0, 1 and 2", code: "import os\nprint('x')\nos.sys.stdout.flush()\nfor fd in 0, 1, 2: os.close(fd)", same: true, stdout: lines("x"), stderr: anything},
	{name: "closes everything else and exits", within: 10 * time.Second, code: "import os, sys\nos.closerange(3, 65536)\nprint('x')\nsys.exit(5)", same: true,
		status: isolation.StatusError, exit: 5, stdout: lines("x")},
	{name: "closes everything and exits", within: 10 * time.Second, code: "import os\nos.closerange(0, 65536)\nos._exit(5)", same: true, status: isolation.StatusError, exit: 5},
	{name: "interrupted while it waits for threads", code: `
		import os, signal, threading, time
		threading.Thread(target=lambda: (time.sleep(0.3), os.kill(os.getpid(), signal.SIGINT), time.sleep(0.3))).start()
		print('main')
		`, stdout: lines("main"), stderr: has("Exception ignored in: <module 'threading'", "KeyboardInterrupt")},
	{name: "very much to tear down", within: 20 * time.Second, code: "x = None\nfor i in range(300000): x = [x]\nprint(" + strings.Repeat("'x',", 3) + "sep='')", stdout: lines("xxx")},
}
