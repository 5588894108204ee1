import ctypes, errno, gc, mmap, os, signal, socket, struct, sys, threading, time

host = dict(zip(("file", "csbd_socket", "port", "abstract", "socket", "process", "csbd", "addresses"), sys.argv[1:]))
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p


def call(f, *args):
    """Call a function of libc; an error is an OSError."""
    ctypes.set_errno(0)
    result = getattr(libc, f)(*args) if isinstance(f, str) else f(*args)
    if result in (-1, None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), str(f))
    return result


def syscall(number, *args):
    return call(libc.syscall, ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))


def attempt(what, f, *args):
    """Print what comes of it: the name of an error, or DONE."""
    try:
        f(*args)
    except OSError as e:
        print(what, errno.errorcode.get(e.errno, e), flush=True)
    else:
        print(what, "DONE", flush=True)


def write(path, data):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read(path, size=1 << 16):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, size)
    finally:
        os.close(fd)


def fork(f, *args):
    """Run f in a child, which leaves with it."""
    pid = os.fork()
    if pid == 0:
        try:
            f(*args)
        finally:
            os._exit(0)
    return pid


def stubborn():
    """Ignore every signal that can be ignored."""
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass


def forever():
    while True:
        time.sleep(100)


def reporter():
    """The runner's own object, which every program can find."""
    f = sys._getframe()
    while f:
        for o in list(f.f_locals.values()):
            if type(o).__name__ == "Reporter":
                return o
        f = f.f_back
    for o in gc.get_objects():
        if type(o).__name__ == "Reporter":
            return o
    for module in list(sys.modules.values()):
        for o in list(vars(module).values()):
            if type(o).__name__ == "Reporter":
                return o
    raise SystemExit(99)


def token():
    return bytes(shared()[:32])


def shared():
    """The memory that the runner shares with process 1."""
    try:
        return reporter().shared
    except SystemExit:
        pass
    for line in open("/proc/self/maps"):
        a, b = (int(x, 16) for x in line.split()[0].split("-"))
        if b - a == 4096 and "rw-s" in line:
            data = (ctypes.c_char * 4096).from_address(a)
            if data[:32].strip(b"0123456789abcdef") == b"":
                return data
    raise SystemExit(99)


def mark():
    return b"\0csb-end " + token() + b" "


def frame(data):
    return mark() + struct.pack(">I", len(data)) + data
