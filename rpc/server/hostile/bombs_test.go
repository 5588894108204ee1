package hostile_test

import "syscall"

// bombs use up whatever can be used up.
var bombs = []program{
	// Processes.
	{name: "a fork bomb", ends: []end{timeout, memoryLimit}, limits: within("1s"), stdout: lines("lit"), stderr: noise, code: `
		print("lit", flush=True)
		while True:
		    try: os.fork()
		    except OSError: pass
		`},
	{name: "a fork bomb whose parents leave", ends: []end{ok, memoryLimit}, stderr: noise, code: `
		def chain():
		    while True:
		        if os.fork(): os._exit(0)
		fork(chain)
		time.sleep(0.5)
		`},
	{name: "a fork bomb that ignores signals", ends: []end{timeout, memoryLimit}, limits: within("1s"), stderr: noise, code: `
		stubborn()
		while True:
		    try:
		        if os.fork() == 0: os.setsid()
		    except OSError: pass
		`},
	{name: "a fork bomb of the shell", ends: []end{timeout, ok, memoryLimit}, limits: within("1s"), stderr: noise, code: `
		os.system(":() { : | : & }; :; sleep 100")
		`},
	{name: "a bomb of interpreters", limits: within("2s"), ends: []end{timeout, memoryLimit}, stderr: noise, code: `
		import subprocess
		while True:
		    try: subprocess.Popen([sys.executable, "/tmp/work/main.py"])
		    except OSError: pass
		`},
	{name: "a fork bomb of vfork", ends: []end{timeout, memoryLimit}, limits: within("1s"), stderr: noise, code: `
		while True:
		    try: os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
		    except OSError: pass
		`},
	{name: "a fork bomb of sessions and groups", ends: []end{timeout, memoryLimit}, limits: within("1s"), stderr: noise, code: `
		while True:
		    try:
		        if os.fork() == 0:
		            if os.fork() == 0: os.setsid()
		            else: os.setpgid(0, 0)
		    except OSError: pass
		`},
	// What dead processes had is given back when the guest kernel comes to it.
	{name: "zombies", limits: limits{"memory": "128MiB"}, stdout: lines("31", "0"), code: `
		children = []
		try:
		    while len(children) < 1000: children.append(fork(int))
		except OSError: print(len(children))
		for pid in children: os.waitpid(pid, 0)
		print(os.waitstatus_to_exitcode(os.waitpid(fork(int), 0)[1]))
		`},

	// Threads.
	{name: "a thread bomb", stdout: lines("31 can't start new thread"), code: `
		n = 0
		try:
		    while n < 10000:
		        threading.Thread(target=forever, daemon=True).start()
		        n += 1
		except RuntimeError as e: print(n, e)
		`},
	{name: "a thread bomb in each process", ends: []end{timeout, memoryLimit}, limits: within("1s"), stderr: noise, code: `
		while True:
		    try:
		        os.fork()
		        threading.Thread(target=forever).start()
		    except (OSError, RuntimeError): pass
		`},
	{name: "threads that spin", limits: limits{"timeout": "10s", "cpu_time": "1s"}, ends: []end{cpuLimit}, stderr: noise, code: `
		def spin():
		    while True: pass
		for _ in range(30): threading.Thread(target=spin).start()
		spin()
		`},
	{name: "threads with huge stacks", stdout: lines("refused"), code: `
		threading.stack_size(1 << 30)
		try: threading.Thread(target=int).start()
		except (RuntimeError, MemoryError): print("refused")
		`},
	{name: "raw threads by clone", limits: within("1s"), ends: []end{timeout, segmentation}, stderr: noise, code: `
		stack = mmap.mmap(-1, 1 << 20)
		top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + (1 << 20) - 64
		pause = ctypes.cast(libc.pause, ctypes.c_void_p).value
		while True:
		    try: call(libc.clone, ctypes.c_void_p(pause), ctypes.c_void_p(top), 0x50f00, None)
		    except OSError: pass
		`},

	// Memory.
	{name: "a list that doubles", ends: one(memoryError), stderr: `MemoryError\n$`, code: `
		x = [0]
		while True: x += x
		`},
	{name: "an integer that grows", limits: within("2s"), ends: []end{timeout, memoryError}, stderr: noise, code: `
		x = 3
		while True: x *= x
		`},
	{name: "a string of a tebibyte", ends: one(memoryError), stderr: `MemoryError\n$`, code: `
		"x" * (1 << 40)
		`},
	{name: "MemoryError is ignored", limits: within("2s"), ends: []end{timeout, memoryLimit}, stderr: noise, code: `
		keep = []
		while True:
		    try: keep.append(bytearray(1 << 20))
		    except MemoryError: pass
		`},
	{name: "memory of many processes", ends: one(memoryLimit), stderr: noise, code: `
		for _ in range(16): fork(lambda: (bytearray(b"x" * (20 << 20)), forever()))
		forever()
		`},
	{name: "memory of many processes that ignore signals", ends: one(memoryLimit), stderr: noise, code: `
		stubborn()
		for _ in range(16): fork(lambda: (bytearray(b"x" * (20 << 20)), forever()))
		forever()
		`},
	{name: "address space without limit", stdout: lines("limit EPERM", "map ENOMEM"), code: `
		import resource
		def raise_limit():
		    try: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
		    except ValueError: raise OSError(errno.EPERM, "")
		attempt("limit", raise_limit)
		attempt("map", call, "mmap", None, ctypes.c_size_t(1 << 45), 3, 0x4022, -1, 0)
		`},
	{name: "a bomb of memory mappings", ends: []end{ok, memoryLimit, memoryError, exits(1), timeout}, limits: within("3s"), stdout: noise, stderr: noise, code: `
		n = 0
		try:
		    while True:
		        call("mmap", None, ctypes.c_size_t(4096), 1 + n % 2 * 2, 0x22, -1, 0)
		        n += 1
		except OSError as e: print(errno.errorcode[e.errno])
		`},
	{name: "many small mappings", limits: within("10s"), ends: []end{ok, memoryLimit, memoryError, timeout}, stdout: `^$|^\d+\n$`, stderr: noise, code: `
		size = 48 << 20
		m = call("mmap", None, ctypes.c_size_t(size), 3, 0x4022, -1, 0)
		n = 0
		for at in range(m, m + size, 8192):
		    call("mprotect", ctypes.c_void_p(at), ctypes.c_size_t(4096), 1)
		    n += 1
		print(n)
		`},
	{name: "memory that is locked", stdout: lines("one ENOMEM", "all ENOMEM", "mapped EAGAIN"), code: `
		m = mmap.mmap(-1, 32 << 20)
		attempt("one", call, "mlock", ctypes.byref(ctypes.c_char.from_buffer(m)), ctypes.c_size_t(32 << 20))
		attempt("all", call, "mlockall", 3)
		attempt("mapped", call, "mmap", None, ctypes.c_size_t(32 << 20), 3, 0x2022, -1, 0)
		`},
	{name: "mappings where none may be", stdout: lines("low ENOMEM", "kernel ENOMEM", "vsyscall ENOMEM", "grown ENOMEM"), code: `
		libc.mremap.restype = ctypes.c_void_p
		attempt("low", call, "mmap", None, ctypes.c_size_t(4096), 3, 0x32, -1, 0)
		attempt("kernel", call, "mmap", ctypes.c_void_p(0xffff800000000000), ctypes.c_size_t(4096), 3, 0x32, -1, 0)
		attempt("vsyscall", call, "mprotect", ctypes.c_void_p(0xffffffffff600000), ctypes.c_size_t(4096), 7)
		m = call("mmap", None, ctypes.c_size_t(4096), 3, 0x22, -1, 0)
		attempt("grown", call, "mremap", ctypes.c_void_p(m), ctypes.c_size_t(4096), ctypes.c_size_t(1 << 40), 1)
		`},
	{name: "huge arguments", stdout: lines("one ENAMETOOLONG", "many ENAMETOOLONG", "environment ENAMETOOLONG"), code: `
		attempt("one", os.execve, "/bin/true", ["true", "x" * (1 << 20)], {})
		attempt("many", os.execve, "/bin/true", ["true"] + ["x" * 131071] * 40, {})
		attempt("environment", os.execve, "/bin/true", ["true"], {str(n): "x" * 131000 for n in range(40)})
		`},
	{name: "programs that are none", stdout: lines("itself ELOOP", "far EACCES", "broken ENOEXEC", "large ENOMEM"), code: `
		def program(name, content):
		    with open(name, "wb") as f: f.write(content)
		    os.chmod(name, 0o755)
		    attempt(name, os.execv, "./" + name, [name])
		program("itself", b"#!/tmp/work/itself\n")
		program("far", b"#!" + b"/" * 5000)
		program("broken", b"\x7fELF" + b"\xff" * 60)
		program("large", b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<2HI3QI6H", 2, 62, 1, 0x400000, 64, 0, 0, 64, 56, 1, 0, 0, 0) +
		    struct.pack("<2I6Q", 1, 7, 0, 0x400000, 0x400000, 200, 1 << 46, 4096))
		`},
	{name: "anonymous files", ends: one(memoryLimit), stderr: noise, code: `
		while True:
		    fd = os.memfd_create("x")
		    for _ in range(16): os.write(fd, b"x" * (1 << 20))
		`},
	{name: "anonymous files in a sparse row", ends: []end{memoryLimit, dies(7), exits(1)}, stderr: noise, code: `
		fd = os.memfd_create("x")
		os.ftruncate(fd, 1 << 40)
		at = 0
		while True: at += os.pwrite(fd, b"x" * 4096, at * 16)
		`},
	{name: "pipes filled to the brim", ends: []end{memoryLimit, ok}, stdout: noise, stderr: noise, code: `
		import fcntl
		total = 0
		def fill():
		    while True:
		        r, w = os.pipe()
		        os.set_blocking(w, False)
		        try: fcntl.fcntl(w, 1031, 1 << 20)
		        except OSError: pass
		        try:
		            while True: os.write(w, b"x" * 65536)
		        except BlockingIOError: pass
		for _ in range(24):
		    pid = os.fork()
		    if pid == 0:
		        try: fill()
		        except OSError: forever()
		time.sleep(3)
		`},
	{name: "sockets filled to the brim", ends: []end{memoryLimit, ok}, stderr: noise, code: `
		def fill():
		    keep = []
		    while True:
		        keep.append(socket.socketpair())
		        for s in keep[-1]:
		            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
		            s.setblocking(False)
		            try:
		                while True: s.send(b"x" * 65536)
		            except BlockingIOError: pass
		for _ in range(24):
		    pid = os.fork()
		    if pid == 0:
		        try: fill()
		        except OSError: forever()
		time.sleep(3)
		`},
	{name: "sockets of many processes", limits: within("5s"), ends: []end{memoryLimit, ok}, stderr: noise, code: `
		def bomb():
		    keep = []
		    try:
		        while True: keep.append(socket.socketpair(type=socket.SOCK_DGRAM))
		    except OSError: forever()
		for _ in range(28): fork(bomb)
		time.sleep(2)
		`},
	{name: "pipes that share their pages", stdout: lines("tee EMFILE"), code: `
		r, w = os.pipe()
		os.write(w, b"x" * 4096)
		keep = []
		def bomb():
		    while True:
		        keep.append(os.pipe())
		        syscall(276, r, keep[-1][1], 4096, 0)
		attempt("tee", bomb)
		`},
	{name: "descriptors in flight", limits: within("2s"), ends: []end{ok, timeout, memoryLimit, memoryError, exits(1)}, stdout: noise, stderr: noise, code: `
		import array
		def bury(deep):
		    a, b = socket.socketpair()
		    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [deep.fileno()] * 100))])
		    return b
		deep, _ = socket.socketpair()
		while True: deep = bury(deep)
		`},
	{name: "shared memory of System V", ends: []end{ok, memoryLimit}, stdout: `^$|^shmget [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    while True:
		        n = call("shmget", 0, ctypes.c_size_t(8 << 20), 0o1600)
		        ctypes.memset(call("shmat", n, None, 0), 1, 8 << 20)
		libc.shmat.restype = ctypes.c_void_p
		attempt("shmget", bomb)
		`},
	{name: "messages of System V", limits: within("3s"), ends: []end{ok, memoryLimit, timeout}, stdout: `^$|^msgget [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    message = struct.pack("l", 1) + b"x" * 8000
		    while True:
		        n = call("msgget", 0, 0o1600)
		        try:
		            while True: call("msgsnd", n, message, ctypes.c_size_t(8000), 0o4000)
		        except OSError as e:
		            if e.errno != errno.EAGAIN: raise
		attempt("msgget", bomb)
		`},
	{name: "semaphores of System V", limits: within("3s"), ends: []end{ok, memoryLimit, timeout}, stdout: `^$|^semget [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    while True: call("semget", 0, 30000, 0o1600)
		attempt("semget", bomb)
		`},
	{name: "a bomb in a compressed string", limits: limits{"timeout": "60s", "cpu_time": "60s"}, ends: one(memoryError), stderr: `MemoryError.*\n$`, code: `
		import zlib
		c = zlib.compressobj(1)
		small = b"".join([c.compress(bytes(1 << 20)) for _ in range(256)] + [c.flush()])
		zlib.decompress(small)
		`},
	{name: "source that nests deeply", ends: []end{exits(1), memoryError}, stderr: `(SyntaxError|MemoryError|RecursionError).*$`, code: `
		eval("(" * 1000000)
		`},
	{name: "a constant of the compiler", limits: within("3s"), ends: []end{timeout, memoryError, ok}, stderr: noise, code: `
		eval("9**9**9**9")
		`},
	{name: "a regular expression that explodes", limits: limits{"timeout": "10s", "cpu_time": "1s"}, ends: one(cpuLimit), code: `
		import re
		re.match(r"(a|aa)+$", "a" * 100 + "b")
		`},

	// Files.
	{name: "one large file", stdout: `^ENOSPC 1[5-6]\n$`, code: `
		n = 0
		try:
		    with open("x", "wb", 0) as f:
		        while n < 1 << 30: n += f.write(b"x" * 65536)
		except OSError as e: print(errno.errorcode[e.errno], n >> 20)
		`},
	{name: "large files everywhere", stdout: lines("2"), code: `
		full = 0
		for d in "/tmp", "/dev/shm":
		    try:
		        with open(d + "/x", "wb", 0) as f:
		            for _ in range(1000): f.write(b"x" * 65536)
		    except OSError as e:
		        full += e.errno == errno.ENOSPC
		print(full)
		`},
	{name: "empty files", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^files [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    n = 0
		    while True:
		        os.close(os.open("f%d" % n, os.O_CREAT | os.O_WRONLY))
		        n += 1
		attempt("files", bomb)
		`},
	{name: "empty files with long names", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^files [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    n = 0
		    while True:
		        os.mkdir("x" * 240 + str(n))
		        n += 1
		attempt("files", bomb)
		`},
	{name: "a directory without a bottom", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^depth [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    while True:
		        os.mkdir("d")
		        os.chdir("d")
		attempt("depth", bomb)
		`},
	{name: "a directory without a bottom, and a walk", limits: within("10s"), ends: []end{ok, exits(1), timeout}, stdout: noise, stderr: noise, code: `
		for _ in range(3000):
		    os.mkdir("d")
		    os.chdir("d")
		os.chdir("/tmp/work")
		import shutil
		shutil.rmtree("d")
		print("gone")
		`},
	{name: "hard links", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^links [A-Z]+\n$`, stderr: noise, code: `
		open("x", "w").close()
		def bomb():
		    n = 0
		    while True:
		        os.link("x", "l%d" % n)
		        n += 1
		attempt("links", bomb)
		`},
	{name: "symbolic links in a circle", stdout: lines("open ELOOP", "deep ELOOP"), code: `
		os.symlink("b", "a")
		os.symlink("a", "b")
		attempt("open", open, "a")
		os.symlink(".", "s")
		attempt("deep", open, "s/" * 100 + "x")
		`},
	{name: "a sparse file of an exbibyte", stdout: `^size [A-Z]+\nallocate E[A-Z]+\n$`, code: `
		f = open("x", "wb")
		attempt("size", os.ftruncate, f.fileno(), 1 << 60)
		attempt("allocate", os.posix_fallocate, f.fileno(), 0, 1 << 40)
		`},
	{name: "both disks, and memory besides", limits: limits{"disk": "64MiB"}, ends: one(memoryLimit), stdout: lines("/tmp/x ENOSPC", "/dev/shm/x ENOSPC"), stderr: noise, code: `
		def fill(path):
		    with open(path, "wb", 0) as f:
		        while True: f.write(b"x" * 65536)
		attempt("/tmp/x", fill, "/tmp/x")
		attempt("/dev/shm/x", fill, "/dev/shm/x")
		for _ in range(6): fork(lambda: (bytearray(b"x" * (30 << 20)), forever()))
		forever()
		`},
	{name: "a byte in each of many files", limits: within("10s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^files ENOSPC\n$`, stderr: noise, code: `
		def bomb():
		    n = 0
		    while True:
		        with open("f%d" % n, "wb") as f: f.write(b"x")
		        n += 1
		attempt("files", bomb)
		`},
	{name: "a byte in each gibibyte of a file", limits: within("10s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^bytes ENOSPC\n$`, stderr: noise, code: `
		fd = os.open("/dev/shm/x", os.O_CREAT | os.O_RDWR)
		os.ftruncate(fd, 1 << 50)
		def bomb():
		    n = 0
		    while True:
		        os.pwrite(fd, b"x", n << 30)
		        n += 1
		attempt("bytes", bomb)
		`},
	{name: "a large sparse file in memory", ends: one(dies(syscall.SIGBUS)), stdout: lines("all of it ENOMEM"), code: `
		f = open("x", "w+b")
		os.ftruncate(f.fileno(), 1 << 50)
		attempt("all of it", mmap.mmap, f.fileno(), 1 << 50)
		m = mmap.mmap(f.fileno(), 32 << 20)
		for at in range(0, len(m), 4096): m[at] = 1
		`},
	{name: "long symbolic links", limits: within("10s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^links ENOSPC\n$`, stderr: noise, code: `
		def bomb():
		    n = 0
		    while True:
		        os.symlink("x" * 4000, "/dev/shm/%d" % n)
		        n += 1
		attempt("links", bomb)
		`},
	{name: "attributes of many files", limits: within("10s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^attributes [A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    n = 0
		    while True:
		        open("/dev/shm/%d" % n, "w").close()
		        os.setxattr("/dev/shm/%d" % n, "user.x", b"x" * 65536)
		        n += 1
		attempt("attributes", bomb)
		`},
	{name: "extended attributes", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^attributes [A-Z]+\n$`, stderr: noise, code: `
		open("x", "w").close()
		def bomb():
		    n = 0
		    while True:
		        os.setxattr("x", "user.%d" % n, b"x" * 60000)
		        n += 1
		attempt("attributes", bomb)
		`},
	{name: "a file under its last reader", ends: []end{dies(7), ok}, stdout: noise, stderr: noise, code: `
		with open("x", "w+b") as f:
		    f.truncate(1 << 20)
		    m = mmap.mmap(f.fileno(), 1 << 20)
		    f.truncate(0)
		    m[1 << 19] = 1
		print("written")
		`},

	// Descriptors.
	{name: "descriptors", stdout: `^descriptors EMFILE\n$`, code: `
		def bomb():
		    while True: os.dup(0)
		attempt("descriptors", bomb)
		`},
	{name: "descriptors of every process", limits: limits{"memory": "256MiB"}, ends: []end{ok, memoryLimit}, stdout: `^(done\n)?$`, stderr: noise, code: `
		def bomb():
		    while True:
		        try: os.open("/dev/null", os.O_RDWR)
		        except OSError: forever()
		for _ in range(30): fork(bomb)
		time.sleep(1)
		print("done")
		`},
	{name: "descriptors of every kind", stdout: `^(\w+ (EMFILE|ENFILE|ENOSYS|EPERM|ENOSPC|EINVAL)\n){7}$`, code: `
		import select
		def bomb(make):
		    while True: make()
		for name, make in {
		    "pipe": os.pipe, "eventfd": lambda: os.eventfd(0), "memfd": lambda: os.memfd_create("x"),
		    "epoll": lambda: syscall(291, 0), "timerfd": lambda: syscall(283, 1, 0), "inotify": lambda: syscall(294, 0),
		    "pidfd": lambda: os.pidfd_open(os.getpid()),
		}.items():
		    attempt(name, bomb, make)
		    os.closerange(3, 256)
		`},
	{name: "epoll that watches epoll", stdout: `^nest E[A-Z]+\ncircle E[A-Z]+\n$`, code: `
		import select
		a, b = select.epoll(), select.epoll()
		keep = [a]
		def nest():
		    while True:
		        keep.append(select.epoll())
		        keep[-1].register(keep[-2].fileno())
		attempt("nest", nest)
		del keep[5:]
		a.register(b.fileno())
		attempt("circle", b.register, a.fileno())
		`},
	{name: "pseudo terminals", stdout: `^pty E[A-Z]+\n$`, code: `
		def bomb():
		    while True: os.openpty()
		attempt("pty", bomb)
		`},
	{name: "watches of inotify", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^watches E[A-Z]+\n$`, stderr: noise, code: `
		def bomb():
		    i, n = syscall(294, 0), 0
		    while True:
		        os.mkdir("d%d" % n)
		        syscall(254, i, b"d%d" % n, 0xfff)
		        n += 1
		attempt("watches", bomb)
		`},

	// Output.
	{name: "output without an end", limits: within("1s"), ends: one(timeout), cut: true, stdout: `^begin\nx+$`, code: `
		print("begin", flush=True)
		while True: os.write(1, b"x" * 65536)
		`},
	{name: "output of many processes on both streams", limits: limits{"timeout": "1s", "memory": "256MiB"}, ends: one(timeout), cut: true, stdout: `^o+$`, stderr: `^e+$`, code: `
		for _ in range(3): os.fork()
		while True:
		    os.write(1, b"o" * 4096)
		    os.write(2, b"e" * 4096)
		`},
	{name: "output in single bytes", limits: within("1s"), ends: one(timeout), stdout: `^x+$`, code: `
		while True: os.write(1, b"x")
		`},
	{name: "output that the answer has to encode", cut: true, stdout: noise, code: `
		for _ in range(64): os.write(1, bytes(range(256)) * 256)
		`},
	{name: "output of nothing but control characters", limits: limits{"output": "16MiB"}, stdout: `^\x00+$`, code: `
		for _ in range(256): os.write(1, bytes(65536))
		`},
	{name: "output without an end from the kernel", limits: within("1s"), ends: []end{timeout, exits(1)}, stdout: `^\x00*$`, stderr: noise, code: `
		zero = os.open("/dev/zero", os.O_RDONLY)
		while True: os.sendfile(1, zero, None, 1 << 30)
		`},
	{name: "output past a limit that kills", as: strict, ends: one(outputLimit), cut: true, stdout: `^x+$`, code: `
		while True: os.write(1, b"x" * 4096)
		`},
	{name: "output past a limit that kills, by children", as: strict, ends: one(outputLimit), cut: true, stderr: `^x+$`, code: `
		stubborn()
		def flood():
		    while True: os.write(2, b"x" * 4096)
		for _ in range(8): fork(flood)
		forever()
		`},
	{name: "output past a limit that kills, and a quick end", as: strict, ends: one(outputLimit), cut: true, stdout: `^x+$`, code: `
		sys.stdout.write("x" * 80000)
		sys.stdout.flush()
		os._exit(0)
		`},

	// Signals and timers.
	{name: "signals to itself", limits: within("1s"), ends: []end{timeout, exits(1)}, stderr: noise, code: `
		signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
		os.kill(os.getpid(), signal.SIGUSR1)
		while True: pass
		`},
	{name: "timers without an end", limits: within("10s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^timers E[A-Z]+\n$`, stderr: noise, code: `
		event = (ctypes.c_char * 64).from_buffer_copy(struct.pack("qii48x", 0, signal.SIGALRM, 1))
		def bomb():
		    while True: call("timer_create", 1, event, ctypes.byref(ctypes.c_void_p()))
		attempt("timers", bomb)
		`},
	{name: "timers as descriptors", limits: within("1s"), ends: []end{timeout, cpuLimit}, code: `
		for _ in range(200): syscall(286, syscall(283, 1, 0), 0, struct.pack("4q", 0, 1, 0, 1), None)
		while True: pass
		`},
	{name: "events of inotify", limits: within("1s"), ends: one(timeout), code: `
		syscall(254, syscall(294, 0), b"/tmp/work", 0xfff)
		while True: open("x", "w").close()
		`},
	{name: "signals to the process group", limits: within("1s"), ends: []end{timeout, memoryLimit, dies(10), dies(12)}, stderr: noise, code: `
		for n in (10, 12): signal.signal(n, lambda *_: None)
		for _ in range(3): os.fork()
		while True:
		    for n in (10, 12): os.killpg(0, n)
		`},
	{name: "signals in a queue", limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^$|^queue EAGAIN\n$`, stderr: noise, code: `
		signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 65))
		def bomb():
		    while True:
		        for n in range(34, 65): call("sigqueue", os.getpid(), n, None)
		attempt("queue", bomb)
		`},
	{name: "signals to everyone by everyone", limits: within("1s"), ends: []end{timeout, ok, memoryLimit, dies(10), dies(12), dies(34)}, stderr: noise, code: `
		for n in (10, 12, 34): signal.signal(n, lambda *_: None)
		for _ in range(4): os.fork()
		while True:
		    for n in (10, 12, 34):
		        try: os.kill(-1, n)
		        except OSError: pass
		`},
	{name: "timers of a nanosecond", limits: within("1s"), ends: []end{timeout, cpuLimit}, stderr: noise, code: `
		signal.signal(signal.SIGALRM, lambda *_: None)
		for n in range(1000):
		    timer = ctypes.c_void_p()
		    event = (ctypes.c_char * 64).from_buffer_copy(struct.pack("qii48x", 0, signal.SIGALRM, 0))
		    try:
		        call("timer_create", 1, event, ctypes.byref(timer))
		        call("timer_settime", timer, 0, struct.pack("4q", 0, 1, 0, 1), None)
		    except OSError: break
		while True: pass
		`},

	// The loopback network.
	{name: "connections to itself", stdout: `^connections E[A-Z]+\n$`, code: `
		server = socket.create_server(("127.0.0.1", 0), backlog=10000)
		keep = []
		def bomb():
		    while True:
		        keep.append(socket.create_connection(server.getsockname()))
		        keep.append(server.accept())
		attempt("connections", bomb)
		`},
	{name: "datagrams to itself", limits: within("1s"), ends: one(timeout), code: `
		s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		s.bind(("127.0.0.1", 0))
		while True: s.sendto(b"x" * 60000, s.getsockname())
		`},
	{name: "network buffers", limits: within("3s"), ends: []end{ok, memoryLimit, timeout}, stdout: `^$|^buffers E[A-Z]+\n$`, stderr: noise, code: `
		server = socket.create_server(("127.0.0.1", 0), backlog=10000)
		keep = []
		def bomb():
		    while True:
		        c = socket.create_connection(server.getsockname())
		        c.setblocking(False)
		        keep.append(c)
		        try:
		            while True: c.send(b"x" * 65536)
		        except BlockingIOError: pass
		attempt("buffers", bomb)
		`},
}
