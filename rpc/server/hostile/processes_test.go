package hostile_test

import "syscall"

// processes will not die, or see to it that others do.
var processes = []program{
	{name: "every signal is ignored", limits: within("1s"), ends: one(timeout), code: `
		stubborn()
		forever()
		`},
	{name: "every signal is blocked", limits: limits{"timeout": "10s", "cpu_time": "1s"}, ends: one(cpuLimit), stderr: noise, code: `
		signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
		while True: pass
		`},
	{name: "a daemon that holds the pipes", stdout: lines("left"), code: `
		fork(lambda: (os.setsid(), stubborn(), fork(forever), forever()))
		print("left")
		`},
	{name: "a daemon that writes too late", stdout: lines("left"), code: `
		fork(lambda: (os.setsid(), time.sleep(0.5), os.write(1, b"LATE")))
		print("left")
		`},
	{name: "init is killed", ends: one(dies(syscall.SIGKILL)), stdout: lines("before"), code: `
		print("before", flush=True)
		os.kill(1, signal.SIGKILL)
		forever()
		`},
	{name: "init is stopped", limits: within("1s"), ends: one(timeout), code: `
		os.kill(1, signal.SIGSTOP)
		os._exit(3)
		`},
	{name: "a child kills the runner", ends: one(dies(syscall.SIGKILL)), stdout: lines("before"), code: `
		print("before", flush=True)
		fork(os.kill, os.getpid(), signal.SIGKILL)
		forever()
		`},
	{name: "it stops itself", limits: within("1s"), ends: one(timeout), code: `
		os.kill(os.getpid(), signal.SIGSTOP)
		`},
	{name: "it becomes another program", limits: within("1s"), ends: one(timeout), code: `
		os.execv("/bin/sleep", ["sleep", "100"])
		`},
	{name: "descriptors 0 to 2 are closed", limits: within("1s"), ends: one(timeout), code: `
		os.closerange(0, 3)
		forever()
		`},
	{name: "stdout and stderr change places", stdout: lines("e"), stderr: lines("o"), code: `
		a, b = os.dup(1), os.dup(2)
		os.dup2(b, 1)
		os.dup2(a, 2)
		print("o", flush=True)
		print("e", file=sys.stderr)
		os.dup2(a, 1)
		os.dup2(b, 2)
		`},
	{name: "it sleeps past every limit", limits: within("1s"), ends: one(timeout), stdout: lines("before"), code: `
		print("before")
		time.sleep(1e6)
		`},
	{name: "stdin is never read", stdin: string(make([]byte, 1<<20)), stdout: lines("on"), code: `
		print("on")
		`},
	{name: "a segmentation fault", ends: one(segmentation), stdout: lines("before"), code: `
		print("before", flush=True)
		ctypes.string_at(0)
		`},
	{name: "an abort", ends: one(aborted), code: `
		os.abort()
		`},
	{name: "the stack of C", ends: []end{segmentation, memoryError, exits(1), memoryLimit}, stderr: noise, code: `
		sys.setrecursionlimit(1 << 30)
		class A:
		    def __getattr__(self, name): return getattr(self, name + "x"[:0])
		A().x
		`},
	{name: "atexit without an end", limits: within("1s"), ends: one(timeout), code: `
		import atexit
		atexit.register(forever)
		`},
	{name: "the last descriptor of the runner is closed", ends: one(exits(5)), stdout: lines("before"), code: `
		print("before", flush=True)
		os.closerange(3, 65536)
		sys.exit(5)
		`},
}

// host are attempts to reach what is outside.
var host = []program{
	refused("metadata", `socket.create_connection(("169.254.169.254", 80), 5)`, "ENETUNREACH"),
	refused("private network", `socket.create_connection(("10.0.0.1", 22), 5)`, "ENETUNREACH"),
	refused("name server", `socket.create_connection(("1.1.1.1", 53), 5)`, "ENETUNREACH"),
	refused("loopback of the host", `socket.create_connection(("127.0.0.1", int(host["port"])), 5)`, "ECONNREFUSED"),
	refused("abstract socket of the host", `socket.socket(socket.AF_UNIX).connect("\0" + host["abstract"])`, "ECONNREFUSED"),
	refused("socket of the host", `socket.socket(socket.AF_UNIX).connect(host["socket"])`, "ENOENT"),
	refused("socket of csbd", `socket.socket(socket.AF_UNIX).connect(host["csbd_socket"])`, "ENOENT"),
	refused("file of the host", `print(read(host["file"]))`, "ENOENT"),
	refused("file of the host by init", `print(read("/proc/1/root" + host["file"]))`, "ENOENT|EACCES"),
	refused("arguments of a process of the host", `print(read("/proc/%s/cmdline" % host["process"]))`, "ENOENT"),
	refused("environment of csbd", `print(read("/proc/%s/environ" % host["csbd"]))`, "ENOENT"),
	refused("port of a neighbour", `socket.create_connection(("127.0.0.1", 4712), 5)`, "ECONNREFUSED"),
	refused("abstract socket of a neighbour", `socket.socket(socket.AF_UNIX).connect("\0neighbour")`, "ECONNREFUSED"),
	refused("shared memory of a neighbour", `print(read("/dev/shm/neighbour"))`, "ENOENT"),
	refused("hard link to the runner", `os.link("/csb/runner.py", "x")`, "EXDEV|EPERM"),
	refused("symbolic link to a file of the host", `(os.symlink(host["file"], "s"), print(read("s")))`, "ENOENT"),
}

// neighbour is another caller's program, which has a secret and listens where
// others might look.
const neighbour = `
		s = socket.create_server(("127.0.0.1", 4712))
		a = socket.socket(socket.AF_UNIX)
		a.bind("\0neighbour")
		a.listen()
		open("/dev/shm/neighbour", "w").write(sys.stdin.read())
		print("settled", flush=True)
		`
