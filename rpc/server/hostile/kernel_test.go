package hostile_test

import (
	_ "embed"
	"fmt"
	"slices"
)

// helpers for attempts on the kernel.
//
//go:embed testdata/kernel.py
var helpers string

// refused is a program whose attempt must fail with one of the errors.
func refused(what, code, errors string) program {
	return program{name: what, code: fmt.Sprintf("attempt(%q, lambda: %s)\n", what, code), stdout: fmt.Sprintf(`^%s (%s)\n$`, what, errors)}
}

// An attempt is one on the kernel, with arguments that would be good for root.
type attempt struct {
	name, code string
	// filtered is the error under Docker's seccomp profile, bare the one without
	// any, from gVisor or for want of a capability. Empty is the same.
	filtered, bare string
}

// done stands for an attempt that is let through, and does no harm.
const done = "DONE"

// attempts to make the kernel do what it does for root only, or what it does
// not do in here at all. EPERM is a refusal, ENOSYS, ENODEV, ENOENT and
// EAFNOSUPPORT say that there is nothing of that kind; the other errors are
// explained where they stand.
var attempts = []attempt{
	// Mounts.
	{"mount tmpfs", `mount(b"none", b"/tmp/a", b"tmpfs")`, "EPERM", ""},
	{"mount proc", `mount(b"none", b"/tmp/a", b"proc")`, "EPERM", ""},
	{"mount bind", `mount(b"/proc", b"/tmp/a", None, 4096)`, "EPERM", ""},
	{"mount fuse", `mount(b"x", b"/tmp/a", b"fuse", 0, b"fd=%d,rootmode=40000,user_id=1000,group_id=1000" % os.open("/dev/fuse", os.O_RDWR))`, "EPERM", ""},
	{"remount", `mount(b"none", b"/", None, 32 | 4096)`, "EPERM", ""},
	{"umount", `call("umount2", b"/proc", 2)`, "EPERM", ""},
	{"pivot_root", `syscall(155, b"/dev/shm", b"/dev/shm/old")`, "EPERM", ""},
	{"chroot", `os.chroot("/tmp")`, "EPERM", ""},
	{"fsopen", `syscall(430, b"tmpfs", 0)`, "EPERM", ""},
	{"open_tree", `syscall(428, -100, b"/tmp", 1)`, "EPERM", ""},
	{"move_mount", `syscall(429, -100, b"/proc", -100, b"/tmp/a", 0)`, "EPERM", ""},
	{"mount_setattr", `syscall(442, -100, b"/", 0, word(1, 0, 0, 0), 32)`, "EPERM", "ENOSYS"},

	// Namespaces. What a program can do in a user namespace of its own: see below.
	{"unshare user", `call("unshare", 0x10000000)`, "EPERM", done},
	{"unshare mount", `call("unshare", 0x20000)`, "EPERM", ""},
	{"unshare network", `call("unshare", 0x40000000)`, "EPERM", ""},
	{"unshare pid", `call("unshare", 0x20000000)`, "EPERM", ""},
	{"unshare uts", `call("unshare", 0x4000000)`, "EPERM", ""},
	{"unshare ipc", `call("unshare", 0x8000000)`, "EPERM", ""},
	{"clone user", `cloned(0x10000000)`, "EPERM", done},
	{"clone network", `cloned(0x40000000)`, "EPERM", ""},
	{"clone pid", `cloned(0x20000000)`, "EPERM", ""},
	{"setns network", `call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)`, "EPERM", ""},
	{"setns mount", `call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)`, "EPERM", ""},
	{"setns of init", `call("setns", os.pidfd_open(1), 0x40000000)`, "EPERM", ""},
	{"uid_map", `write("/proc/self/uid_map", b"0 1000 1")`, "EPERM", ""},

	// Parts of the kernel that have had holes.
	{"bpf map", `syscall(321, 0, struct.pack("4I112x", 1, 4, 4, 1), 128)`, "EPERM", ""},
	{"bpf program", `syscall(321, 5, struct.pack("2I2Q104x", 1, 2, instructions(bytes.fromhex("b700000000000000"), bytes.fromhex("9500000000000000")), instructions(b"GPL")), 128)`, "EPERM", ""},
	{"io_uring", `syscall(425, 8, ctypes.create_string_buffer(120))`, "EPERM", "ENOSYS"},
	{"add_key", `syscall(248, b"user", b"x", b"y", 1, -2)`, "EPERM", "EACCES"}, // gVisor has keyrings, but no keys
	{"request_key", `syscall(249, b"user", b"x", None, 0)`, "EPERM", "EACCES"},
	{"keyctl", `syscall(250, 0, -3, 1)`, "EPERM", done}, // the number of one's own keyring
	{"userfaultfd", `syscall(323, 0)`, "EPERM", "ENOSYS"},
	{"perf_event_open", `syscall(298, struct.pack("2I5Q64x", 1, 112, 0, 0, 0, 0, 1), 0, -1, -1, 0)`, "EPERM", "ENODEV"},
	{"fanotify", `syscall(300, 0, 0)`, "EPERM", "ENOSYS"},
	{"landlock", `syscall(444, None, 0, 1)`, "EPERM", "ENOSYS"},
	{"memfd_secret", `syscall(447, 0)`, "EPERM", "ENOSYS"},
	{"modify_ldt", `syscall(154, 1, struct.pack("4I", 0, 0, 0, 0x51), 16)`, "EPERM", ""},
	{"personality", `syscall(135, 0x40000)`, "EPERM", "EINVAL"},                                                               // gVisor knows PER_LINUX only
	{"seccomp listener", `syscall(317, 1, 8, word(1, instructions(struct.pack("H2BI", 6, 0, 0, 0x7fff0000))))`, "EINVAL", ""}, // gVisor has no listeners
	{"system calls of x32", `syscall(0x40000000 | 39)`, "EPERM", "ENOSYS"},
	{"a system call of the future", `syscall(1000)`, "EPERM", "ENOSYS"},
	{"open_by_handle_at", `syscall(304, os.open("/", os.O_RDONLY), struct.pack("Ii8x", 8, 1), 0)`, "EPERM", "ENOTSUP"},
	{"lookup_dcookie", `syscall(212, ctypes.c_uint64(1), ctypes.create_string_buffer(64), 64)`, "EPERM", ""},
	{"the kernel's log", `syscall(103, 3, ctypes.create_string_buffer(64), 64)`, "EPERM", done}, // gVisor's jokes

	// The machine.
	{"kexec_load", `syscall(246, 0, 0, None, 0)`, "EPERM", ""},
	{"kexec_file_load", `syscall(320, open_file(), -1, 1, b"", 4)`, "EPERM", ""},
	{"init_module", `syscall(175, ctypes.create_string_buffer(4096), 4096, b"")`, "EPERM", ""},
	{"finit_module", `syscall(313, open_file(), b"", 0)`, "EPERM", ""},
	{"delete_module", `syscall(176, b"loop", 0o4000)`, "EPERM", ""},
	{"settimeofday", `syscall(164, struct.pack("qq", 1 << 30, 0), None)`, "EPERM", ""},
	{"clock_settime", `time.clock_settime(time.CLOCK_REALTIME, 1 << 30)`, "EPERM", ""},
	{"adjtimex", `syscall(159, ctypes.create_string_buffer(struct.pack("I204x", 1)))`, "EPERM", ""},
	{"clock_adjtime", `syscall(305, 0, ctypes.create_string_buffer(struct.pack("I204x", 1)))`, "EPERM", ""},
	{"reboot", `syscall(169, 0xfee1dead, 672274793, 0x1234567, None)`, "EPERM", ""},
	{"swapon", `syscall(167, b"/tmp/work/main.py", 0)`, "EPERM", ""},
	{"acct", `syscall(163, b"/tmp/work/main.py")`, "EPERM", ""},
	{"sethostname", `call("sethostname", b"x", 1)`, "EPERM", ""},
	{"setdomainname", `call("setdomainname", b"x", 1)`, "EPERM", ""},
	{"iopl", `syscall(172, 3)`, "EPERM", ""},
	{"ioperm", `syscall(173, 0, 1024, 1)`, "EPERM", ""},
	{"quotactl", `syscall(179, 0x80000200, b"/dev/root", 0, b"/tmp/a")`, "EPERM", ""},
	{"vhangup", `syscall(153)`, "EPERM", ""},

	// Another identity, other limits.
	{"setuid", `os.setuid(0)`, "EPERM", ""},
	{"setresuid", `os.setresuid(0, 0, 0)`, "EPERM", ""},
	{"setgid", `os.setgid(0)`, "EPERM", ""},
	{"setgroups", `os.setgroups([0])`, "EPERM", ""},
	{"capset", `syscall(126, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0))`, "EPERM", ""},
	{"capability in the bounding set", `call("prctl", 24, 21, 0, 0, 0)`, "EPERM", ""},
	{"ambient capability", `call("prctl", 47, 2, 21, 0, 0)`, "EPERM", ""},
	{"securebits", `call("prctl", 28, 0, 0, 0, 0)`, "EPERM", ""},
	{"no_new_privs taken back", `call("prctl", 38, 0, 0, 0, 0)`, "EINVAL", ""}, // nobody can
	{"capability of a file", `os.setxattr("/tmp/work/main.py", "security.capability", struct.pack("5I", 0x02000001, 1 << 21, 0, 0, 0))`, "EPERM", ""},
	{"owner of a file", `os.chown("/tmp/work/main.py", 0, 0)`, "EPERM", ""},
	{"limit of processes", `raise_limit("NPROC")`, "EPERM", ""},
	{"limit of open files", `raise_limit("NOFILE", 257)`, "EPERM", ""},
	{"limit of address space", `raise_limit("AS")`, "EPERM", ""},
	{"limit of locked memory", `raise_limit("MEMLOCK")`, "EPERM", ""},
	{"limits of init", `__import__("resource").prlimit(1, __import__("resource").RLIMIT_NOFILE, (4096, 4096))`, "EPERM", ""},
	{"locked memory", `call("mlockall", 3)`, "ENOMEM", ""},                                                // more than the limit
	{"real time scheduling", `os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))`, "EINVAL", ""}, // gVisor has no such class
	{"deadline scheduling", `syscall(314, 0, struct.pack("2IQiI3Q", 48, 6, 0, 0, 0, 10**6, 10**7, 10**7), 0)`, "EINVAL", ""},
	{"real time priority of disks", `syscall(251, 1, 0, 1 << 13)`, "EPERM", ""},

	// Other processes.
	{"trace init", `ptrace(16, 1)`, "EPERM", ""},
	{"seize init", `ptrace(0x4206, 1)`, "EPERM", ""},
	{"trace a sibling", `ptrace(16, sibling())`, "EPERM", ""},
	{"trace the runner", `fork(lambda: attempt("trace the runner", ptrace, 16, os.getppid())) and (os.wait(), os._exit(0))`, "EPERM", ""},
	{"be traced", `ptrace(0, 0)`, "EPERM", done},
	{"read the memory of init", `copy(310, 1)`, "EPERM", ""},
	{"write the memory of init", `copy(311, 1)`, "EPERM", ""},
	{"read the memory of a sibling", `copy(310, sibling())`, "EPERM", ""},
	{"write the memory of a sibling", `copy(311, sibling())`, "EPERM", ""},
	{"memory of init as a file", `os.open("/proc/1/mem", os.O_RDONLY)`, "EACCES", ""},
	{"memory of init as a file to write", `os.open("/proc/1/mem", os.O_RDWR)`, "EACCES", ""},
	{"memory of a sibling as a file", `os.open("/proc/%d/mem" % sibling(), os.O_RDWR)`, "EACCES", ""},
	{"descriptor of init", `descriptor(1, 1)`, "EPERM", ""},
	{"descriptor of a sibling", `descriptor(sibling(), 1)`, "EPERM", ""},
	{"kcmp", `syscall(312, 1, os.getpid(), 0, 1, 1)`, "EPERM", ""},
	{"pages of init", `syscall(279, 1, 0, None, None, None, 0)`, "EPERM", ""},
	{"session of init", `os.setpgid(1, 1)`, "ESRCH", ""}, // no child of ours

	// Networks.
	{"raw socket", `socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)`, "EPERM", ""},
	{"raw socket of version 6", `socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)`, "EPERM", ""},
	{"packet socket", `socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)`, "EPERM", ""},
	{"crypto socket", `socket.socket(38, socket.SOCK_SEQPACKET, 0)`, "EAFNOSUPPORT", ""},
	{"virtual machine socket", `socket.socket(40, socket.SOCK_STREAM, 0)`, "EPERM", "EAFNOSUPPORT"},
	{"bluetooth socket", `socket.socket(31, socket.SOCK_RAW, 1)`, "EAFNOSUPPORT", ""},
	{"netfilter socket", `socket.socket(16, socket.SOCK_RAW, 12)`, "EPROTONOSUPPORT", ""},
	{"audit socket", `socket.socket(16, socket.SOCK_RAW, 9)`, "EPROTONOSUPPORT", ""},
	{"tunnel", `ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454ca, struct.pack("16sH22x", b"tun0", 1))`, "EPERM", ""},
	{"new interface", `netlink(16, struct.pack("BxHiII", 0, 0, 0, 0, 0) + struct.pack("4H4s", 16, 18, 8, 1, b"veth"))`, "EPERM", ""},
	{"new address", `netlink(20, struct.pack("4BI2H4s", 2, 8, 0, 0, 1, 8, 2, b"\x0a\0\0\1"))`, "EPERM", ""},
	{"new route", `netlink(24, struct.pack("8BI2HI", 2, 0, 0, 0, 254, 3, 0, 1, 0, 8, 4, 1))`, "EPERM", ""},
	{"address by ioctl", `ioctl(socket.socket(), 0x8916, struct.pack("16s2H4s8x", b"lo", 2, 0, b"\x0a\0\0\1"))`, "ENOTTY", ""}, // gVisor sets nothing this way
	{"packet filter", `socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)`, "EPERM", ""},
	{"packet filter by socket option", `socket.socket().getsockopt(0, 64, 84)`, "ENOPROTOOPT", ""},
	{"mark of packets", `socket.socket().setsockopt(1, 36, 1)`, "EPERM", ""},

	// Devices and files of the kernel.
	{"character device", `os.mknod("d", 0o20666, os.makedev(1, 1))`, "EPERM", ""},
	{"block device", `os.mknod("d", 0o60666, os.makedev(8, 0))`, "EPERM", ""},
	{"memory device", `os.open("/dev/mem", os.O_RDONLY)`, "ENOENT", ""},
	{"virtual machine device", `os.open("/dev/kvm", os.O_RDWR)`, "ENOENT", ""},
	{"disk", `os.open("/dev/sda", os.O_RDONLY)`, "ENOENT", ""},
	{"loop device", `os.open("/dev/loop-control", os.O_RDWR)`, "ENOENT", ""},
	{"kernel memory", `read("/proc/kcore")`, "ENOENT", ""},
	{"kernel addresses", `read("/proc/kallsyms")`, "ENOENT", ""},
	{"sysrq", `write("/proc/sysrq-trigger", b"b")`, "EACCES", ""},
	{"core pattern", `write("/proc/sys/kernel/core_pattern", b"|/tmp/x")`, "ENOENT", ""},
	{"helper of the module loader", `write("/proc/sys/kernel/modprobe", b"/tmp/x")`, "ENOENT", ""},
	{"binary formats", `write("/proc/sys/fs/binfmt_misc/register", b":x:M::x::/tmp/x:")`, "ENOENT", ""},
	{"release agent", `write("/sys/fs/cgroup/release_agent", b"/tmp/x")`, "ENOENT", ""},
	{"control group", `write("/sys/fs/cgroup/cgroup.procs", b"0")`, "ENOENT", ""},
	{"uevent helper", `write("/sys/kernel/uevent_helper", b"/tmp/x")`, "ENOENT", ""},
	{"host name by proc", `write("/proc/sys/kernel/hostname", b"x")`, "EACCES", ""},
	{"address layout by proc", `write("/proc/sys/kernel/randomize_va_space", b"0")`, "EACCES", ""},
	{"forwarding by proc", `write("/proc/sys/net/ipv4/ip_forward", b"1")`, "EACCES", ""},

	// The image.
	{"write the runner", `write("/csb/runner.py", b"x")`, "EACCES", ""},
	{"write the interpreter by proc", `os.open("/proc/1/exe", os.O_WRONLY)`, "EACCES", ""},
	{"write the runner by a symbolic link", `(os.symlink("/proc/1/root/csb/runner.py", "s"), write("s", b"x"))`, "EACCES", ""},
	{"write the runner by a descriptor", `os.open("/proc/self/fd/%d" % os.open("/csb/runner.py", os.O_PATH), os.O_WRONLY)`, "EACCES", ""},
	{"remove the runner", `os.unlink("/csb/runner.py")`, "EROFS", ""},
	{"replace the runner", `os.rename("/tmp/work/main.py", "/csb/runner.py")`, "EXDEV", ""},
	{"link to a set-uid program", `os.link("/bin/su", "su")`, "EXDEV", ""},
	{"program in shared memory", `(os.close(os.open("/dev/shm/x", os.O_CREAT, 0o755)), os.execv("/dev/shm/x", ["x"]))`, "EACCES", ""},
}

// kernel are the attempts under Docker's seccomp profile, and what a program
// may do but should gain nothing from.
var kernel = slices.Concat(tried(attempts, "", func(a attempt) program { return refused(a.name, a.code, a.filtered) }), gains)

// unfiltered are the attempts without any seccomp profile.
var unfiltered = slices.Concat(tried(attempts, ", without seccomp", func(a attempt) program {
	if a.bare == "" {
		a.bare = a.filtered
	}
	p := refused(a.name, a.code, a.bare)
	p.as = unconfined
	return p
}), namespaces)

func tried(attempts []attempt, suffix string, f func(attempt) program) (programs []program) {
	for _, a := range attempts {
		p := f(a)
		p.name += suffix
		p.code = helpers + p.code
		programs = append(programs, p)
	}
	return programs
}

// gains are tries to gain what set-uid programs, tracers and filters have.
var gains = []program{
	{name: "set-uid programs of the image", stdout: lines(`\['1000', '1000', '1000', '1000'\] 0+ 1`), code: `
		import subprocess
		p = subprocess.Popen(["/bin/su"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
		while os.readlink("/proc/%d/exe" % p.pid) != "/usr/bin/su": time.sleep(0.01)
		status = dict(line.split(":", 1) for line in open("/proc/%d/status" % p.pid))
		print(status["Uid"].split(), status["CapEff"].strip(), status["NoNewPrivs"].strip())
		p.kill()
		`},
	{name: "a better place than others", limits: limits{"timeout": "20s", "cpu_time": "1s"}, ends: one(cpuLimit), stdout: lines(`\{0\}`), code: `
		os.setpriority(os.PRIO_PROCESS, 0, -20)
		os.sched_setaffinity(0, range(64))
		print(os.sched_getaffinity(0), flush=True)
		while True: pass
		`},
	{name: "a set-uid copy", stdout: lines("0o106755 1000 1000"), code: `
		import shutil, subprocess
		shutil.copy("/usr/bin/id", "/tmp/id")
		os.chmod("/tmp/id", 0o6755)
		uid, gid = (int(subprocess.check_output(["/tmp/id", "-" + c])) for c in "ug")
		print(oct(os.stat("/tmp/id").st_mode), uid, gid)
		`},
	{name: "traced by everybody", stdout: `^tracer \w+\nattach EPERM\n$`, code: helpers + `
attempt("tracer", call, "prctl", 0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)
os.waitpid(fork(lambda: attempt("attach", ptrace, 16, os.getppid())), 0)
`},
	{name: "a filter that allows everything", stdout: lines("filter DONE", "unshare EPERM"), code: helpers + `
attempt("filter", syscall, 317, 1, 0, word(1, instructions(struct.pack("H2BI", 6, 0, 0, 0x7fff0000))))
attempt("unshare", call, "unshare", 0x10000000)
`},
	{name: "a filter that leaves unshare to a tracer", stdout: lines("filter DONE", "unshare EPERM"), code: helpers + `
attempt("filter", syscall, 317, 1, 0, word(4, instructions(*(struct.pack("H2BI", *i) for i in
    ((0x20, 0, 0, 0), (0x15, 0, 1, 272), (6, 0, 0, 0x7ff00000), (6, 0, 0, 0x7fff0000))))))
attempt("unshare", call, "unshare", 0x10000000)
`},
	{name: "a filter that leaves everything to a tracer", ends: []end{segmentation, timeout}, limits: within("2s"), code: helpers + `
syscall(317, 1, 0, word(1, instructions(struct.pack("H2BI", 6, 0, 0, 0x7ff00000))))
`},
}

// namespaces are what programs do as root of a user namespace of their own,
// which gVisor lets them make where no seccomp profile forbids it: they have
// every capability in there, and no limit of theirs is any higher.
var namespaces = []program{
	{name: "root of a namespace", as: unconfined, stdout: lines(
		"devices EPERM", "blocks EPERM", "time EPERM", "reboot EPERM", "modules EPERM", "processes EPERM", "files EPERM", "space EPERM",
		"root EPERM", "groups EPERM", "memory of init EACCES", "trace init EPERM", "network of init EPERM", "raw EPERM", "sysctl EACCES"), code: helpers + `
in_namespace()
attempt("devices", os.mknod, "/tmp/n", 0o20666, os.makedev(1, 1))
attempt("blocks", os.mknod, "/tmp/n", 0o60666, os.makedev(8, 0))
attempt("time", time.clock_settime, 0, 1 << 30)
attempt("reboot", syscall, 169, 0xfee1dead, 672274793, 0x1234567, None)
attempt("modules", lambda: syscall(313, open_file(), b"", 0))
attempt("processes", raise_limit, "NPROC")
attempt("files", raise_limit, "NOFILE", 257)
attempt("space", raise_limit, "AS")
attempt("root", mount, b"none", b"/", None, 32)
attempt("groups", os.setgroups, [0])
attempt("memory of init", os.open, "/proc/1/mem", os.O_RDWR)
attempt("trace init", ptrace, 16, 1)
attempt("network of init", lambda: call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0))
attempt("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
attempt("sysctl", write, "/proc/sys/net/ipv4/ip_forward", b"1")
`},
	{name: "mounts in a namespace", as: unconfined, stdout: lines("root EPERM", "file systems", "tmpfs DONE", "write DONE", "overlay DONE", "runner b'.*'"), stderr: "", code: helpers + `
in_namespace(0x20000)
attempt("root", mount, b"none", b"/", None, 32)
kinds = []
for kind in b"9p", b"gofer", b"erofs", b"ext4", b"cgroup2", b"bpf", b"debugfs", b"fuse":
    try: mount(b"none", b"/tmp/a", kind)
    except OSError: continue
    kinds.append(kind)
print("file systems", *kinds)
attempt("tmpfs", mount, b"none", b"/tmp/a", b"tmpfs")
for d in "/tmp/a/u", "/tmp/a/w", "/tmp/a/m": os.mkdir(d)
attempt("write", lambda: open("/tmp/a/x", "w").write("x"))
attempt("overlay", mount, b"none", b"/tmp/a/m", b"overlay", 0, b"lowerdir=/,upperdir=/tmp/a/u,workdir=/tmp/a/w")
print("runner", read("/csb/runner.py", 10))
`},
	{name: "a disk of its own in a namespace", as: unconfined, ends: one(memoryLimit), stderr: noise, code: helpers + `
in_namespace(0x20000)
mount(b"none", b"/tmp/a", b"tmpfs", 0, b"size=64g")
with open("/tmp/a/x", "wb", 0) as f:
    while True: f.write(b"x" * 65536)
`},
	// The tunnel's other end is the program's own descriptor.
	{name: "a network of its own in a namespace", as: unconfined, stdout: lines("only lo", "metadata ENETUNREACH", "tunnel DONE", "raw DONE", "metadata ENETUNREACH"), code: helpers + `
in_namespace(0x40000000)
print("only", *[name for _, name in socket.if_nameindex()])
attempt("metadata", socket.create_connection, ("169.254.169.254", 80), 5)
attempt("tunnel", lambda: ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454ca, struct.pack("16sH22x", b"tun0", 1)))
attempt("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
attempt("metadata", socket.create_connection, ("169.254.169.254", 80), 5)
`},
	{name: "namespaces without a bottom", as: unconfined, limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^(\d+ E[A-Z]+\n)?$`, stderr: noise, code: helpers + `
n = 0
try:
    while True:
        call("unshare", 0x10000000 | 0x20000 | 0x8000000)
        n += 1
except OSError as e: print(n, errno.errorcode[e.errno])
`},
	{name: "a fork bomb in namespaces", as: unconfined, limits: within("1s"), ends: []end{timeout, memoryLimit}, stderr: noise, code: helpers + `
while True:
    try: syscall(56, 0x10000000 | 0x20000000 | signal.SIGCHLD, 0, 0, 0, 0)
    except OSError: pass
`},
	{name: "interfaces without an end", as: unconfined, limits: within("3s"), ends: []end{ok, timeout, memoryLimit}, stdout: `^(\d+ E[A-Z]+\n)?$`, stderr: noise, code: helpers + `
in_namespace(0x40000000)
n = 0
try:
    while True:
        netlink(16, struct.pack("BxHiII", 0, 0, 0, 0, 0) + struct.pack("4H4s", 16, 18, 8, 1, b"veth"))
        n += 1
except OSError as e: print(n, errno.errorcode[e.errno])
`},
	{name: "its own child is traced", as: unconfined, stdout: lines("0 changed"), code: helpers + `
box = ctypes.create_string_buffer(b"as it was")
def child():
    ptrace(0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    print(box.value.decode(), flush=True)
pid = fork(child)
os.waitpid(pid, 0)
value = struct.unpack("Q", b"changed\0")[0]
result = call(libc.ptrace, ctypes.c_long(5), ctypes.c_long(pid), ctypes.c_void_p(ctypes.addressof(box)), ctypes.c_void_p(value))
print(result, end=" ", flush=True)
ptrace(17, pid)
os.kill(pid, signal.SIGCONT)
os.waitpid(pid, 0)
`},
}
