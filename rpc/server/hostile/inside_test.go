package hostile_test

import "syscall"

// inside are attacks on what csbd itself has in the sandbox: the runner, whose
// interpreter the program shares, process 1, the three descriptors and the
// files that were put there. A program may spoil its own result; it must neither
// look like a failure of csbd nor reach anything else.
var inside = []program{
	// The runner and process 1.
	{name: "the last word is taken from process 1", ends: one(exits(255)), code: `
		shared()[0] = 0
		os._exit(128)
		`},
	{name: "the last word is taken from process 1, with the status of a panic", ends: one(exits(255)), code: `
		shared()[0] = 0
		os._exit(2)
		`},
	{name: "the status of a panic", ends: one(exits(2)), code: `
		os._exit(2)
		`},
	{name: "the last word is taken from process 1, and a signal", ends: one(dies(syscall.SIGKILL)), code: `
		shared()[0] = 0
		os.kill(os.getpid(), signal.SIGKILL)
		`},
	{name: "an exit status that runsc has for its own failures", ends: one(exits(128)), code: `
		os._exit(128)
		`},
	{name: "that exit status without descriptors", ends: one(exits(128)), code: `
		os.closerange(0, 65536)
		os._exit(128)
		`},
	{name: "another token", stdout: `^x\n\x00csb-end f{32} \x00\x00\x00.\{"exit_code": 0\}$`, stderr: `^\x00csb-end f{32} $`, code: `
		shared()[:32] = b"f" * 32
		print("x")
		`},
	{name: "a token that never ends", ends: []end{ok, exits(0)}, stdout: noise, stderr: noise, code: `
		shared()[:4096] = b"f" * 4096
		print("x")
		`},
	{name: "the shared page is taken away", ends: []end{ok, exits(1), exits(120)}, stdout: lines("x"), stderr: noise, code: `
		reporter().shared.close()
		print("x")
		`},
	{name: "the runner's voice", stdout: `^$`, ends: one(exits(3)), code: `
		reporter().send(b'{"exit_code": 3}')
		print("too late", flush=True)
		`},
	{name: "the runner's voice is taken", ends: one(exits(4)), code: `
		type(reporter()).send = lambda *_: None
		sys.exit(4)
		`},
	{name: "no builtins", ends: one(exits(120)), code: `
		import builtins
		vars(builtins).clear()
		`},
	{name: "no modules", ends: one(exits(3)), code: `
		sys.modules.clear()
		sys.exit(3)
		`},
	{name: "no os", ends: one(exits(1)), stderr: noise, code: `
		exit = sys.exit
		vars(os).clear()
		exit(3)
		`},
	{name: "no json", ends: one(exits(3)), stderr: noise, code: `
		sys.modules["json"].dumps = None
		sys.exit(3)
		`},
	{name: "the runner's frames", ends: []end{exits(3), exits(1)}, stderr: noise, code: `
		for o in gc.get_objects():
		    if type(o).__name__ == "Stage": vars(o).clear()
		sys.exit(3)
		`},
	{name: "an audit hook", ends: []end{ok, exits(120)}, stdout: lines("x"), code: `
		def hook(*_): raise OSError
		sys.addaudithook(hook)
		print("x")
		`},
	{name: "a trace function", ends: one(exits(1)), stderr: noise, code: `
		def trace(*_): raise OSError
		sys.settrace(trace)
		sys.exit(3)
		`},
	{name: "a text that never ends", limits: within("1s"), ends: one(timeout), stdout: lines("x"), code: `
		class E(Exception):
		    def __str__(self): forever()
		print("x", flush=True)
		raise E
		`},
	{name: "a text that is too long", ends: one(exits(1)), cut: true, stderr: noise, code: `
		class E(Exception):
		    def __str__(self): return "\ud800" * (1 << 20)
		raise E
		`},
	{name: "a traceback that is too long", ends: one(exits(1)), stderr: noise, code: `
		import traceback
		traceback.format_exception = lambda *_: "x" * (1 << 24)
		raise OSError
		`},
	{name: "an exception with a long name", ends: one(exits(1)), cut: true, stderr: noise, code: `
		raise type("E" * (1 << 20), (Exception,), {})
		`},
	{name: "the limits of process 1", ends: []end{exits(5), exits(1), dies(syscall.SIGKILL), dies(syscall.SIGSEGV)}, stderr: noise, code: `
		import resource
		for what in resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_STACK, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE:
		    resource.prlimit(1, what, (0, 0))
		sys.exit(5)
		`},
	{name: "the pipes of process 1", ends: one(exits(6)), stdout: lines("by way of init"), code: `
		with open("/proc/1/fd/1000", "w") as f: f.write("by way of init\n")
		sys.exit(6)
		`},
	{name: "every process but one is killed", stdout: lines("alone"), code: `
		fork(forever)
		os.kill(-1, signal.SIGKILL)
		print("alone")
		`},
	{name: "the process group is killed", ends: one(dies(syscall.SIGKILL)), stdout: lines("before"), code: `
		fork(forever)
		print("before", flush=True)
		os.killpg(0, signal.SIGKILL)
		`},

	// Files that csbd has put there.
	{name: "main.py is a symbolic link", ends: one(exits(1)), stdout: `^root:`, stderr: `ZeroDivisionError`, code: `
		os.unlink("main.py")
		os.symlink("/etc/passwd", "main.py")
		print(open("main.py").readline(), end="")
		1 / 0
		`},
	{name: "main.py is a pipe that nobody writes to", ends: one(timeout), stderr: noise, limits: within("1s"), code: `
		os.unlink("main.py")
		os.mkfifo("main.py")
		1 / 0
		`},
	{name: "main.py is endless", ends: one(exits(1)), stderr: `ZeroDivisionError`, code: `
		os.truncate("main.py", 1 << 40)
		1 / 0
		`},
	{name: "no working directory", ends: one(exits(1)), stdout: lines("gone"), stderr: `ZeroDivisionError`, code: `
		import shutil
		shutil.rmtree("/tmp/work")
		print("gone")
		1 / 0
		`},
	{name: "another working directory", ends: one(exits(1)), stderr: `ZeroDivisionError`, code: `
		os.rename("/tmp/work", "/tmp/away")
		os.symlink("/proc/self", "/tmp/work")
		1 / 0
		`},
	{name: "files of the request are changed", files: map[string]string{"a/b": "x", "json.py": "import os; os._exit(7)", "traceback.py": "1 / 0"},
		ends: one(exits(7)), stdout: lines("x"), code: `
		print(open("a/b").read(), flush=True)
		os.rename("a", "b")
		os.symlink("/", "a")
		import json
		`},

	// Descriptors 0 to 2: pipes of the host, and a file for standard input.
	{name: "stdout is opened again", stdout: lines("again", "and by dev"), code: `
		write("/proc/self/fd/1", b"again\n")
		write("/dev/stdout", b"and by dev\n")
		`},
	{name: "stdout is read", stdout: `^(fd|ways) read EBADF\n(fd|ways) read EBADF\n$`, code: `
		attempt("fd read", os.read, 1, 1)
		attempt("ways read", lambda: os.read(os.open("/proc/self/fd/1", os.O_RDWR | os.O_NONBLOCK), 1))
		`},
	{name: "stdout is resized", stdout: lines("size EBADF", "room EBADF", "truncate EINVAL", "seek ESPIPE", "map EACCES", "splice EBADF", "shut down ENOTSOCK"), code: `
		import fcntl
		attempt("size", fcntl.fcntl, 1, 1031, 1 << 30)
		attempt("room", fcntl.fcntl, 1, 1032)
		attempt("truncate", os.ftruncate, 1, 0)
		attempt("seek", os.lseek, 1, 0, os.SEEK_SET)
		attempt("map", mmap.mmap, 1, 4096)
		attempt("splice", lambda: os.splice(1, os.open("x", os.O_CREAT | os.O_RDWR), 1))
		attempt("shut down", lambda: socket.socket(fileno=os.dup(1)).shutdown(2))
		`},
	{name: "stdout does not wait", cut: true, stdout: `^x+$`, code: `
		os.set_blocking(1, False)
		os.set_blocking(2, False)
		sent = 0
		while sent < 1 << 20:
		    try: sent += os.write(1, b"x" * 65536)
		    except BlockingIOError: time.sleep(0.001)
		`},
	{name: "stdout raises signals", ends: one(exits(9)), stdout: lines("x"), code: `
		import fcntl
		signal.signal(signal.SIGIO, signal.SIG_IGN)
		fcntl.fcntl(1, fcntl.F_SETOWN, os.getpid())
		fcntl.fcntl(1, fcntl.F_SETFL, os.O_ASYNC | os.O_APPEND)
		os.fchmod(1, 0)
		print("x")
		sys.exit(9)
		`},
	{name: "stdout is locked", stdout: lines("x"), code: `
		import fcntl
		for n in 1, 1000, 1001: fcntl.flock(n, fcntl.LOCK_EX)
		fcntl.lockf(1, fcntl.LOCK_EX)
		print("x")
		`},
	{name: "stdout is full", ends: []end{exits(120), exits(1)}, stderr: noise, code: `
		os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
		print("x")
		`},
	{name: "stdout is given away", stdout: lines("passed"), code: `
		import array
		a, b = socket.socketpair()
		def child():
		    os.close(1)
		    fds = array.array("i", b.recvmsg(1, 1024)[1][0][2])
		    os.write(fds[0], b"passed\n")
		pid = fork(child)
		a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])
		os.waitpid(pid, 0)
		`},
	{name: "credentials of somebody else", stdout: lines("init EPERM", "root EPERM"), code: `
		a, b = socket.socketpair()
		send = lambda *who: a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", *who))])
		attempt("init", send, 1, 1000, 1000)
		attempt("root", send, os.getpid(), 0, 0)
		`},
	{name: "stdin is written", stdin: "data", stdout: lines("xyzw"), code: `
		write("/proc/self/fd/0", b"xyzw")
		print(sys.stdin.read())
		`},
	{name: "stdin grows", stdin: "data", ends: []end{memoryLimit, exits(1)}, stderr: noise, code: `
		fd = os.open("/proc/self/fd/0", os.O_RDWR)
		while True: os.write(fd, b"x" * 65536)
		`},
}
