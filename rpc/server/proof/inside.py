# What a program finds in its sandbox, a line for each: name, tab, value.
# argv: memory limit in bytes, disk limit in bytes, 1 to fill the disk.
import errno, os, sys

memory, disk, fill = map(int, sys.argv[1:])


def say(name, value):
    print(name, value, sep="\t")


def attempt(name, f, *args):
    try:
        f(*args)
    except OSError as e:
        say(name, errno.errorcode.get(e.errno, e.errno))
    except Exception as e:
        say(name, type(e).__name__)
    else:
        say(name, "allowed")


say("version", open("/proc/version").read().strip())
for line in open("/proc/self/status"):
    key, _, value = line.partition(":")
    if key in ("Uid", "Gid", "Seccomp", "NoNewPrivs") or key.startswith("Cap"):
        say(key, value.strip())

import _socket  # what is behind socket, at a tenth of its price


def connect(address):
    s = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    s.settimeout(2)
    s.connect((address, 80))


attempt("interfaces", lambda: say("interface names", " ".join(name for _, name in _socket.if_nameindex())))
attempt("connect", connect, "192.0.2.1")          # nobody's: RFC 5737
attempt("metadata", connect, "169.254.169.254")

attempt("root", os.open, "/csbd-proof", os.O_CREAT | os.O_WRONLY)
attempt("etc", os.open, "/etc/passwd", os.O_WRONLY)


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


attempt("fork", fork)
attempt("allocate", bytearray, 4 * memory + (512 << 20))

path = "/tmp/csbd-proof"
fd = os.open(path, os.O_CREAT | os.O_RDWR)
attempt("fallocate", os.posix_fallocate, fd, 0, disk + 4096)
if fill:
    written = 0

    def write():
        global written
        block = bytes(1 << 20)
        while written <= disk:
            written += os.write(fd, block)

    attempt("fill", write)
    say("filled", written)
os.close(fd)
os.unlink(path)
