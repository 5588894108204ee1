package hostile_test

import "fmt"

// refused is a program whose attempt must fail with one of the errors.
func refused(what, code, errors string) program {
	return program{name: what, code: fmt.Sprintf("attempt(%q, lambda: %s)\n", what, code), stdout: fmt.Sprintf(`^%s (%s)\n$`, what, errors)}
}

// no is how the guest kernel says that something is forbidden or not there.
const no = "EPERM|EACCES|ENOSYS|EINVAL|EROFS|ENOENT|ENODEV|ENXIO|EAFNOSUPPORT|EPROTONOSUPPORT|ESOCKTNOSUPPORT|EOPNOTSUPP|ENOTTY|ESRCH|EBADF|EFAULT|EUSERS|ENOSPC"

// kernel are attempts to make the kernel do what it does for root only, or
// what it does not do in here at all.
var kernel = []program{
	refused("mount tmpfs", `call("mount", b"x", b"/tmp", b"tmpfs", 0, None)`, no),
	refused("mount bind", `call("mount", b"/proc", b"/tmp", None, 4096, None)`, no),
	refused("remount", `call("mount", None, b"/", None, 32 | 4096, None)`, no),
	refused("umount", `call("umount2", b"/proc", 2)`, no),
	refused("pivot_root", `syscall(155, b"/tmp", b"/tmp")`, no),
	refused("chroot", `os.chroot("/tmp")`, no),
	refused("fsopen", `syscall(430, b"tmpfs", 0)`, no),
	refused("open_tree", `syscall(428, -100, b"/", 1)`, no),
	refused("move_mount", `syscall(429, -100, b"/proc", -100, b"/tmp", 0)`, no),
	refused("mount_setattr", `syscall(442, -100, b"/", 0, None, 32)`, no),
	refused("unshare user", `call("unshare", 0x10000000)`, no),
	refused("unshare mount", `call("unshare", 0x20000)`, no),
	refused("unshare network", `call("unshare", 0x40000000)`, no),
	refused("unshare pid", `call("unshare", 0x20000000)`, no),
	refused("clone user namespace", `syscall(56, 0x10000000 | 17, 0, 0, 0, 0)`, no),
	refused("setns", `call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), 0)`, no),
	refused("bpf", `syscall(321, 0, bytes(128), 128)`, no),
	refused("io_uring", `syscall(425, 8, bytes(120))`, no),
	refused("add_key", `syscall(248, b"user", b"x", b"y", 1, -3)`, no),
	refused("keyctl", `syscall(250, 0, -3, 1)`, no),
	refused("request_key", `syscall(249, b"user", b"x", None, -3)`, no),
	refused("userfaultfd", `syscall(323, 0)`, no),
	refused("perf_event_open", `syscall(298, bytes(120), 0, -1, -1, 0)`, no),
	refused("kexec_load", `syscall(246, 0, 0, 0, 0)`, no),
	refused("kexec_file_load", `syscall(320, 0, 0, 0, b"", 0)`, no),
	refused("init_module", `syscall(175, b"x", 1, b"")`, no),
	refused("finit_module", `syscall(313, 0, b"", 0)`, no),
	refused("delete_module", `syscall(176, b"x", 0)`, no),
	refused("settimeofday", `syscall(164, struct.pack("qq", 0, 0), None)`, no),
	refused("clock_settime", `time.clock_settime(time.CLOCK_REALTIME, 0)`, no),
	refused("reboot", `syscall(169, 0xfee1dead, 672274793, 0x1234567, None)`, no),
	refused("swapon", `syscall(167, b"/tmp/work/main.py", 0)`, no),
	refused("acct", `syscall(163, b"/tmp/work/main.py")`, no),
	refused("sethostname", `call("sethostname", b"x", 1)`, no),
	refused("setdomainname", `call("setdomainname", b"x", 1)`, no),
	refused("iopl", `syscall(172, 3)`, no),
	refused("ioperm", `syscall(173, 0, 1024, 1)`, no),
	refused("quotactl", `syscall(179, 0x800002, None, 0, None)`, no),
	refused("vhangup", `syscall(153)`, no),
	refused("open_by_handle_at", `syscall(304, -100, bytes(128), 0)`, no),
	refused("fanotify", `syscall(300, 0, 0)`, no),
	refused("setuid", `os.setuid(0)`, no),
	refused("setgid", `os.setgid(0)`, no),
	refused("setgroups", `os.setgroups([0])`, no),
	refused("real time scheduling", `os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))`, no),
	refused("raw socket", `socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)`, no),
	refused("packet socket", `socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)`, no),
	refused("crypto socket", `socket.socket(38, socket.SOCK_SEQPACKET, 0)`, no),
	refused("virtual machine socket", `socket.socket(40, socket.SOCK_STREAM, 0)`, no),
	refused("bluetooth socket", `socket.socket(31, socket.SOCK_RAW, 1)`, no),
	refused("character device", `os.mknod("d", 0o20666, os.makedev(1, 1))`, no),
	refused("block device", `os.mknod("d", 0o60666, os.makedev(8, 0))`, no),
	refused("memory device", `os.open("/dev/mem", os.O_RDONLY)`, no),
	refused("virtual machine device", `os.open("/dev/kvm", os.O_RDWR)`, no),
	refused("kernel memory", `read("/proc/kcore")`, no),
	refused("disk", `os.open("/dev/sda", os.O_RDONLY)`, no),
	refused("sysrq", `write("/proc/sysrq-trigger", b"b")`, no),
	refused("core pattern", `write("/proc/sys/kernel/core_pattern", b"|/tmp/x")`, no),
	refused("release agent", `write("/sys/fs/cgroup/release_agent", b"/tmp/x")`, no),
	refused("uevent helper", `write("/sys/kernel/uevent_helper", b"/tmp/x")`, no),
	refused("hostname by proc", `write("/proc/sys/kernel/hostname", b"x")`, no),
}
