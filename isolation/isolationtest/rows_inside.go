package isolationtest

import (
	"strings"

	"github.com/fcarli/codesandbox/isolation"
)

// denyLinks is a seccomp profile that denies what works without it. gVisor
// answers EPERM whatever errno a profile names.
const denyLinks = `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
	{"names": ["symlink", "symlinkat", "sched_yield"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`

// attempt prints what comes of each attempt in a list.
const attempt = `
import errno
def attempt(what, f, *args):
    try: print(what, f(*args))
    except OSError as e: print(what, errno.errorcode.get(e.errno, e))
`

const denied = attempt + `
import os
attempt('symlink', os.symlink, 'a', 'b')
attempt('sched_yield', os.sched_yield)
os.system('grep Seccomp: /proc/self/status; ln -s a c')
`

// inside proves the isolation from the program's side.
func inside(hostFile string) []row {
	return []row{
		{name: "inside: the kernel is gVisor", class: unconfined, code: "import os\nprint(os.uname().sysname, os.uname().nodename)\nprint(open('/proc/version').read())\nos.system('dmesg')",
			stdout: has("Linux sandbox", "gVisor")},
		{name: "inside: no network", code: attempt + `
import socket, time
start = time.monotonic()
def connect(host, port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(10)
        s.connect((host, port))
def lookup(name):
    try: socket.getaddrinfo(name, 80)
    except socket.gaierror: return 'no such name'
attempt('interfaces', lambda: [name for _, name in socket.if_nameindex()])
attempt('tcp', connect, '1.1.1.1', 53)
attempt('udp', connect, '1.1.1.1', 53, socket.SOCK_DGRAM)
attempt('metadata', connect, '169.254.169.254', 80)
attempt('private', connect, '10.0.0.1', 22)
attempt('dns', lookup, 'example.com')
print(len(open('/proc/net/route').readlines()) <= 1, time.monotonic() - start < 5)
`, stdout: lines("interfaces ['lo']", "tcp ENETUNREACH", "udp ENETUNREACH", "metadata ENETUNREACH", "private ENETUNREACH", "dns no such name", "True True")},
		{name: "inside: no raw sockets", code: attempt + `
import socket
attempt('raw', socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)
attempt('packet', socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 3)
`, stdout: lines("raw EPERM", "packet EPERM")},
		{name: "inside: the root filesystem is read-only", code: attempt + `
for d in '/', '/usr/', '/etc/', '/root/', '/var/', '/home/', '/csb/', '/dev/':
    attempt(d, open, d + 'x', 'w')
attempt('overwrite', open, '/etc/passwd', 'a')
attempt('runner', open, '/csb/runner.py', 'a')
`, stdout: func(got string) string {
			for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
				if !strings.HasSuffix(line, " EROFS") && !strings.HasSuffix(line, " EACCES") {
					return "could write: " + line
				}
			}
			return has("/ EROFS", "/usr/ EROFS", "/etc/ EROFS")(got)
		}},
		{name: "inside: only /tmp and /dev/shm can be written to", code: `
import os
found = set()
for d, dirs, _ in os.walk('/'):
    if d == '/': dirs[:] = [x for x in dirs if x not in ('proc', 'sys')]
    if os.access(d, os.W_OK): found.add(d)
print(sorted(found))
`, stdout: lines("['/dev/shm', '/tmp', '/tmp/work']")},
		{name: "inside: no privileges", code: attempt + `
import ctypes, os
print({k: int(v, 16) for k, v in (line.split(':') for line in open('/proc/self/status')) if k.startswith('Cap')})
libc = ctypes.CDLL(None, use_errno=True)
print('no_new_privs', libc.prctl(39, 0, 0, 0, 0))
def call(name, *args):
    if getattr(libc, name)(*args) < 0: raise OSError(ctypes.get_errno(), name)
attempt('setuid', os.setuid, 0)
attempt('setgroups', os.setgroups, [0])
attempt('chroot', os.chroot, '/tmp')
attempt('mount', call, 'mount', b'x', b'/tmp', b'tmpfs', 0, None)
attempt('sethostname', call, 'sethostname', b'x', 1)
attempt('mknod', os.mknod, 'device', 0o20666, os.makedev(1, 1))
attempt('nice', os.nice, -5)
`, stdout: func(got string) string {
			if !strings.Contains(got, "'CapEff': 0") || !strings.Contains(got, "'CapBnd': 0") || !strings.Contains(got, "'CapPrm': 0") {
				return "has capabilities: " + got
			}
			return has("no_new_privs 1", "setuid EPERM", "setgroups EPERM", "chroot EPERM", "mount EPERM", "sethostname EPERM", "mknod EPERM")(got)
		}},
		{name: "inside: set-user-ID programs do not work", code: "import os, subprocess\nfor p in '/usr/bin/su', '/bin/mount', '/usr/bin/passwd': print(os.path.exists(p) and bool(os.stat(p).st_mode & 0o4000))\nos.system('id -u')",
			stdout: has("1000\n")},
		{name: "inside: no seccomp profile", class: unconfined, code: denied, stdout: lines("symlink None", "sched_yield None", "Seccomp:\t0")},
		{name: "inside: the seccomp profile bites", class: func(c *isolation.Class) { c.Seccomp = denyLinks }, code: denied,
			stdout: lines("symlink EPERM", "sched_yield EPERM", "Seccomp:\t2"), stderr: has("Operation not permitted")},
		{name: "inside: nothing of the host's environment", code: "import os\nprint([k for k in os.environ if 'CANARY' in k])\nfor p in 1, os.getpid(): print(b'CANARY' in open('/proc/%d/environ' % p, 'rb').read())",
			stdout: lines("[]", "False", "False")},
		{name: "inside: no processes of the host", code: "import os\nprint(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()) == [1, os.getpid()])\nprint(open('/proc/1/cmdline').read().split('\\0')[:2])",
			stdout: lines("True", "['/usr/bin/python3', '/csb/runner.py']")},
		{name: "inside: no files of the host", args: []string{hostFile}, code: "import os, sys\nprint(os.path.exists(sys.argv[1]), sorted(os.listdir('/tmp')), os.path.exists('/work'))\nprint([l.split()[1] for l in open('/proc/mounts') if l.split()[2] in ('9p', 'gofer', 'ext4', 'fuse')])",
			stdout: lines("False ['work'] False", "[]")},
		{name: "inside: no devices of the host", code: "import os\nprint(sorted(set(os.listdir('/dev')) - {'fd', 'full', 'null', 'ptmx', 'pts', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'tty', 'urandom', 'zero', 'fuse', 'net', 'mqueue', 'console', 'char'}))",
			stdout: lines("[]")},
		{name: "inside: no descriptors of the host", code: "import os\nfor fd in sorted(map(int, os.listdir('/proc/self/fd'))):\n    try: print(fd, os.readlink('/proc/self/fd/%d' % fd).split(':')[0].split('/')[-1])\n    except OSError: pass",
			stdin: "x", stdout: func(got string) string {
				for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
					if f := strings.Fields(line); len(f) > 1 && f[1] != "pipe" && f[1] != "host" && f[1] != "fd" && !strings.HasPrefix(f[1], "memfd") {
						return "unexpected descriptor: " + line
					}
				}
				return ""
			}},
		{name: "inside: the runner's init cannot be traced", code: attempt + `
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def peek(): return open('/proc/1/mem', 'rb').read(1)
attempt('mem', peek)
`, stdout: anything},
	}
}

// unconfined is a class without a seccomp profile.
func unconfined(c *isolation.Class) { c.Seccomp = "" }
