package hostile_test

// nextCaller are programs that leave something, and what looks for it.
var nextCaller = []program{
	{name: "a file in the working directory", code: `open("left", "w").write("x")`, then: `print("clean" if os.listdir() == ["main.py"] else os.listdir())`},
	{name: "a file in /tmp", code: `open("/tmp/left", "w").write("x")`, then: `print("clean" if not os.path.exists("/tmp/left") else "left")`},
	{name: "shared memory that stays", code: `open("/dev/shm/left", "w").write("x")`, then: `print("clean" if not os.listdir("/dev/shm") else "left")`},
	{name: "a module that stays", code: `
		import site
		os.makedirs(site.getusersitepackages())
		open(site.getusersitepackages() + "/usercustomize.py", "w").write("print('left')")
		`, then: `print("clean")`},
	{name: "a daemon with a port", code: `
		s = socket.create_server(("127.0.0.1", 4711))
		fork(forever)
		`, then: `print("clean" if socket.socket().connect_ex(("127.0.0.1", 4711)) == errno.ECONNREFUSED else "left")`},
	{name: "a daemon with an abstract socket", code: `
		s = socket.socket(socket.AF_UNIX)
		s.bind("\0left")
		s.listen()
		fork(forever)
		`, then: `print("clean" if socket.socket(socket.AF_UNIX).connect_ex("\0left") == errno.ECONNREFUSED else "left")`},
	{name: "a segment of System V", code: `call("shmget", 4711, ctypes.c_size_t(4096), 0o1666)`, then: `print("clean" if libc.shmget(4711, ctypes.c_size_t(4096), 0) == -1 else "left")`},
	{name: "a changed function", code: `os.getpid = lambda: 42`, then: `print("clean" if os.getpid() != 42 else "left")`},
	{name: "a changed environment", code: `os.environ["LEFT"] = "x"`, then: `print("clean" if "LEFT" not in os.environ else "left")`},
	{name: "a process that stays", code: `fork(lambda: (stubborn(), os.setsid(), forever()))`, then: `print("clean" if len([p for p in os.listdir("/proc") if p.isdigit()]) == 2 else "left")`},
}
