package isolationtest

import (
	"strings"

	"github.com/fcarli/codesandbox/isolation"
)

var sources = []row{
	{name: "source: CRLF", code: "print('a')\r\nif True:\r\n    print('b')\r\n", same: true, stdout: lines("a", "b")},
	{name: "source: CR", code: "print('a')\rprint('b')\r", same: true, stdout: lines("a", "b")},
	{name: "source: CRLF in a string", code: "print(repr('''a\r\nb'''))\r\n", same: true, stdout: lines(`'a\nb'`)},
	{name: "source: byte order mark", code: "\ufeffprint('ü')", same: true, stdout: lines("ü")},
	{name: "source: latin-1 cookie", code: "# -*- coding: latin-1 -*-\nprint('\xfc')\n", same: true, stdout: lines("ü")},
	{name: "source: latin-1 cookie and an error", code: "# coding: latin-1\nraise ValueError('\xfc')\n", same: true, status: isolation.StatusError, exit: 1,
		raises: &raises{"ValueError", "ü", 2}, stderr: has("raise ValueError('ü')")},
	{name: "source: unknown cookie", code: "# coding: klingon\nprint(1)\n", same: true, status: isolation.StatusError, exit: 1, raises: &raises{"SyntaxError", "encoding problem: klingon", 0}, stderr: has("klingon")},
	{name: "source: not UTF-8 and no cookie", code: "x = 1\nprint('\xff')\n", same: true, status: isolation.StatusError, exit: 1,
		raises: &raises{"SyntaxError", "Non-UTF-8 code starting with", 0}, stderr: has("SyntaxError")},
	{name: "source: NUL", code: "print('a')\nx = '\x00'\nprint('b')\n", same: true, status: isolation.StatusError, exit: 1, raises: &raises{"SyntaxError", "", 2}, stderr: anything},
	{name: "source: NUL in a line of its own", code: "print('a')\n\x00print('b')\n", same: true, stdout: lines("a")},
	{name: "source: no line break at the end", code: "if True:\n    print('x')\n    # end", same: true, stdout: lines("x")},
	{name: "source: form feeds and tabs", code: "\fif True:\n\tprint('x')\n", same: true, stdout: lines("x")},
	{name: "source: 5 MB", code: strings.Repeat("# "+strings.Repeat("x", 97)+"\n", 50000) + "print(__import__('os').path.getsize(__file__))\nraise ValueError('x')\n", same: true,
		status: isolation.StatusError, exit: 1, stdout: lines("5000069"), raises: &raises{"ValueError", "x", 50002}, stderr: has("line 50002")},
	{name: "source: 20000 lines", code: strings.Repeat("x = 1 + len('abc')\n", 20000) + "print(x)\n", same: true, stdout: lines("4")},
	{name: "source: 100000 brackets", code: strings.Repeat("(", 100000), same: true, status: isolation.StatusError, exit: 1, raises: &raises{"SyntaxError", "too many nested parentheses", 1}, stderr: has("too many nested")},
	{name: "source: 100000 signs", code: "x = " + strings.Repeat("-", 100000) + "1", same: true, status: isolation.StatusMemoryLimit, exit: 1, raises: &raises{"MemoryError", "", 0}, stderr: lines("MemoryError")},
	{name: "source: a deep expression", code: "x = " + strings.Repeat("(", 150) + "1" + strings.Repeat(")", 150) + "\nprint(x)", same: true, stdout: lines("1")},
	{name: "source: a warning", code: "x = 1 is 1\nprint('\\d')\n", same: true, stdout: lines(`\d`), stderr: has("SyntaxWarning")},
	{name: "source: __future__ annotations", code: "from __future__ import annotations\ndef f(x: undefined): pass\nprint(f.__annotations__)", same: true, stdout: lines("{'x': 'undefined'}")},
	{name: "source: no __future__ is inherited", code: "import __future__\nprint(eval('1/2'), compile('1', '', 'eval').co_flags & 0x1fff0000)", same: true, stdout: lines("0.5 0")},
}

var mainModule = []row{
	{name: "main: its names", same: true, code: "'''a docstring'''\nprint(__name__, __file__, __doc__, __annotations__, __package__, __spec__, __cached__ if '__cached__' in globals() else None)\nprint(list(globals()))",
		stdout: has("__main__ /tmp/work/main.py a docstring {} None None None")},
	{name: "main: annotations", same: true, code: "x: int = 1\nprint(__annotations__)", stdout: lines("{'x': <class 'int'>}")},
	{name: "main: its loader", same: true, code: "print(type(__loader__), __loader__.name, __loader__.path, __builtins__)\nprint(__loader__.get_source('__main__'))", stdout: has("SourceFileLoader")},
	{name: "main: is in sys.modules", same: true, code: "import sys, __main__\nprint(globals() is sys.modules['__main__'].__dict__, __main__ is sys.modules['__main__'])\nx = 1\nprint(__main__.x)", stdout: lines("True True", "1")},
	{name: "main: exec and eval", same: true, code: "exec('y = 2')\nprint(y, eval('y + 1'), locals() is globals())\ndef f():\n    exec('z = 3')\n    return 'z' in globals()\nprint(f())", stdout: lines("2 3 True", "False")},
	{name: "main: sys.path", code: "import sys\nprint(sys.path)", stdout: has("['/tmp/work', ")},
	{name: "main: sys", same: true, stdout: anything, code: `
		import sys
		print(sys.flags, sys.executable, sys.prefix, sys.base_prefix, sys.getrecursionlimit(), sys.dont_write_bytecode, sys.pycache_prefix, sys.warnoptions, sys._xoptions)
		print(sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), sys.getswitchinterval(), sys.platform, sys.byteorder)
		print(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, hasattr(sys, 'last_type'), hasattr(sys, 'ps1'), sys.gettrace(), sys.getprofile(), sys.exc_info())
		`},
	// The runner's frames lie beneath the program's; docs/decisions/0005-runner.md
	// says why. These rows hold the difference to what it says there.
	{name: "main: the runner is beneath it", code: "import sys\nprint(sys._getframe().f_code.co_name, sys._getframe().f_back.f_code.co_filename)", stdout: lines("<module> /csb/runner.py")},
	{name: "main: print_stack", code: "import traceback\ndef f(): traceback.print_stack()\nf()", stderr: has("line 3, in <module>\n    f()\n")},
	{name: "main: the recursion limit", code: "def f(n=1):\n    try: return f(n + 1)\n    except RecursionError: return n\nprint(990 < f() <= 999)", stdout: lines("True")},
	{name: "main: warnings beneath it", code: "import warnings\nwarnings.warn('w', stacklevel=2)", stderr: has("UserWarning: w\n")},
	{name: "main: signals", same: true, stdout: anything, code: `
		import signal
		for n in range(1, signal.NSIG):
		    try: print(n, signal.getsignal(n))
		    except ValueError: pass
		print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
		`},
	{name: "main: the garbage collector", same: true, code: "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks)", stdout: anything},
	{name: "main: umask, limits and priority", same: true, code: "import os, resource\nprint(oct(os.umask(0)), os.nice(0), resource.getrlimit(resource.RLIMIT_STACK)[0])", stdout: lines("0o22 0 8388608")},
	{name: "main: its process", code: "import os\nprint(os.getpid() != 1, os.getppid(), os.getuid(), os.getgid(), os.geteuid(), os.getgroups(), os.getpgrp() == os.getpid())", stdout: lines("True 1 1000 1000 1000 [] True")},
	{name: "main: the main thread", same: true, code: "import threading\nprint(threading.current_thread().name, threading.main_thread() is threading.current_thread(), threading.active_count(), threading.stack_size(), threading.get_native_id() == __import__('os').getpid())",
		stdout: lines("MainThread True 1 0 True")},
	{name: "main: locale and encodings", same: true, code: "import locale, os\nprint(locale.getpreferredencoding(), locale.getlocale(), locale.setlocale(locale.LC_CTYPE), os.device_encoding(1))\nprint(open(__file__).encoding)", stdout: has("UTF-8")},
	{name: "main: itself again", same: true, code: "import sys\nif __name__ == '__main__':\n    import main\n    print(main is sys.modules['__main__'])\nelse:\n    print('as', __name__)", stdout: lines("as main", "False")},
	{name: "main: code cannot be run without its source", same: true, code: "import os\nos.unlink(__file__)\ndef f(): 1/0\nf()", status: isolation.StatusError, exit: 1, raises: &raises{"ZeroDivisionError", "", 3}, stderr: anything},
	{name: "main: random numbers differ", code: "import os, random, uuid, secrets, tempfile\nprint(len({random.random(), random.random()}), uuid.uuid4().version, len(secrets.token_hex()), tempfile.mkdtemp()[:5])", same: true, stdout: lines("2 4 64 /tmp/")},
}

var library = []row{
	{name: "library: inspect.getsource", same: true, code: "import inspect\ndef f():\n    return 1  # one\nprint(inspect.getsource(f), inspect.getsourcefile(f) == __file__)", stdout: has("return 1  # one", "True")},
	{name: "library: dataclasses and pickle", same: true, code: `
		import copy, pickle
		from dataclasses import dataclass
		@dataclass
		class Point:
		    x: int
		    y: int = 2
		p = pickle.loads(pickle.dumps(Point(1)))
		print(p, p == Point(1), copy.deepcopy(p), Point.__module__)
		`, stdout: lines("Point(x=1, y=2) True Point(x=1, y=2) __main__")},
	{name: "library: multiprocessing by fork", same: true, code: `
		import multiprocessing as mp
		def square(x): return x * x
		if __name__ == '__main__':
		    with mp.Pool(3) as pool: print(pool.map(square, range(5)))
		    q = mp.Queue()
		    p = mp.Process(target=q.put, args=('from the child',))
		    p.start()
		    print(q.get())
		    p.join()
		    print(p.exitcode, mp.current_process().name)
		`, stdout: lines("[0, 1, 4, 9, 16]", "from the child", "0 MainProcess")},
	{name: "library: multiprocessing by spawn", same: true, code: `
		import multiprocessing as mp
		def square(x): return x * x
		if __name__ == '__main__':
		    mp.set_start_method('spawn')
		    with mp.Pool(2) as pool: print(pool.map(square, range(5)))
		    p = mp.Process(target=exit, args=(3,))
		    p.start()
		    p.join()
		    print(p.exitcode)
		`, stdout: lines("[0, 1, 4, 9, 16]", "3")},
	{name: "library: multiprocessing that nobody joins", same: true, code: `
		import multiprocessing as mp, time
		def work():
		    time.sleep(0.3)
		    print('child')
		mp.Process(target=work).start()
		print('main')
		`, stdout: lines("main", "child")},
	{name: "library: shared memory", same: true, code: `
		from multiprocessing import shared_memory
		s = shared_memory.SharedMemory(create=True, size=100)
		s.buf[:3] = b'abc'
		again = shared_memory.SharedMemory(s.name)
		print(bytes(again.buf[:3]))
		again.close()
		s.close()
		s.unlink()
		`, stdout: lines("b'abc'")},
	{name: "library: ProcessPoolExecutor", same: true, code: "from concurrent.futures import ProcessPoolExecutor\ndef double(x): return 2 * x\nwith ProcessPoolExecutor(2) as e: print(list(e.map(double, range(4))))", stdout: lines("[0, 2, 4, 6]")},
	{name: "library: ThreadPoolExecutor", same: true, code: "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(8) as e: print(sum(e.map(lambda x: x * x, range(100))))", stdout: lines("328350")},
	{name: "library: ThreadPoolExecutor at the end", same: true, code: "from concurrent.futures import ThreadPoolExecutor\nimport time\ne = ThreadPoolExecutor(2)\ne.submit(lambda: (time.sleep(0.2), print('pool')))\nprint('main')", stdout: lines("main", "pool")},
	{name: "library: asyncio", same: true, code: `
		import asyncio
		async def main():
		    p = await asyncio.create_subprocess_exec('echo', 'sub', stdout=asyncio.subprocess.PIPE)
		    out, _ = await p.communicate()
		    print(out, p.returncode, await asyncio.gather(*(asyncio.sleep(0.01, i) for i in range(3))))
		    print(await asyncio.to_thread(lambda: 'thread'))
		asyncio.run(main())
		`, stdout: lines(`b'sub\n' 0 [0, 1, 2]`, "thread")},
	{name: "library: subprocess", same: true, code: "import subprocess, sys\nr = subprocess.run([sys.executable, '-c', 'print(input()); raise SystemExit(4)'], input='x', capture_output=True, text=True)\nprint(r.returncode, repr(r.stdout), r.stderr)",
		stdout: lines(`4 'x\n' `)},
	{name: "library: signals and alarms", same: true, code: `
		import signal, time
		def handler(n, frame): print('signal', n, frame.f_code.co_name)
		signal.signal(signal.SIGALRM, handler)
		signal.signal(signal.SIGUSR1, handler)
		signal.raise_signal(signal.SIGUSR1)
		signal.setitimer(signal.ITIMER_REAL, 0.1)
		time.sleep(0.4)
		print('on')
		`, stdout: lines("signal 10 <module>", "signal 14 <module>", "on")},
	{name: "library: an alarm that nobody handles", same: true, code: "import signal, time\nsignal.alarm(1)\ntime.sleep(5)", status: isolation.StatusKilled, exit: 142, signal: 14},
	{name: "library: tempfile", same: true, code: "import os, tempfile\nwith tempfile.NamedTemporaryFile('w+') as f, tempfile.TemporaryDirectory() as d:\n    f.write('x'); f.seek(0)\n    print(f.read(), os.path.isdir(d), tempfile.gettempdir())", stdout: lines("x True /tmp")},
	{name: "library: sqlite3", same: true, code: "import sqlite3\ndb = sqlite3.connect(':memory:')\ndb.execute('create table t (x)')\ndb.executemany('insert into t values (?)', [(1,), (2,)])\nprint(db.execute('select sum(x) from t').fetchone())", stdout: lines("(3,)")},
	{name: "library: mmap and files", same: true, code: "import mmap\nwith open('x', 'w+b') as f:\n    f.write(b'abc' * 5000); f.flush()\n    with mmap.mmap(f.fileno(), 0) as m: m[0] = 65; print(m[:3], len(m))", stdout: lines("b'Abc' 15000")},
	{name: "library: sockets on loopback", same: true, code: `
		import socket, threading
		s = socket.create_server(('127.0.0.1', 0))
		def serve():
		    c, _ = s.accept()
		    c.sendall(c.recv(10).upper())
		    c.close()
		threading.Thread(target=serve).start()
		c = socket.create_connection(s.getsockname())
		c.sendall(b'hello')
		print(c.recv(10))
		`, stdout: lines("b'HELLO'"), stderr: anything},
	{name: "library: compression and hashes", same: true, code: "import bz2, hashlib, lzma, zlib\nd = b'x' * 1000\nprint([len(m.decompress(m.compress(d))) for m in (bz2, lzma, zlib)], hashlib.md5(d).hexdigest())", stdout: has("[1000, 1000, 1000]")},
	{name: "library: unittest", code: "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\nunittest.main(argv=['x'])", stderr: has("Ran 1 test", "OK")},
	{name: "library: runpy", same: true, code: "import runpy\nprint(runpy.run_path('other.py')['x'])", files: []isolation.File{text("other.py", "x = __name__\n")}, stdout: lines("<run_path>")},
	{name: "library: doctest", same: true, code: "'''\n>>> 1 + 1\n2\n'''\nimport doctest\nprint(doctest.testmod())", stdout: lines("TestResults(failed=0, attempted=1)")},
	{name: "library: typing.get_type_hints", same: true, code: "from __future__ import annotations\nimport typing\nclass A: pass\ndef f(a: A) -> int: pass\nprint(typing.get_type_hints(f))", stdout: lines("{'a': <class '__main__.A'>, 'return': <class 'int'>}")},
	{name: "library: logging", same: true, code: "import logging\nlogging.basicConfig(format='%(filename)s:%(lineno)d:%(name)s:%(message)s')\nlogging.warning('careful')", stderr: lines("main.py:3:root:careful")},
	{name: "library: numpy", code: "import numpy as np\na = np.arange(12).reshape(3, 4)\nprint((a @ a.T).tolist(), np.linalg.det(np.eye(3)))\nprint(len({np.random.random(), np.random.random()}))",
		stdout: lines("[[14, 38, 62], [38, 126, 214], [62, 214, 366]] 1.0", "2")},
	{name: "library: pandas", code: "import pandas as pd\ndf = pd.DataFrame({'k': list('aab'), 'v': [1, 2, 3]})\nprint(df.groupby('k').v.sum().to_dict())\nprint(df.to_csv(index=False), end='')",
		stdout: lines("{'a': 3, 'b': 3}", "k,v", "a,1", "a,2", "b,3")},
}
