

def word(*values):
    """A buffer of 64-bit numbers."""
    return (ctypes.c_uint64 * len(values))(*values)


def instructions(*code):
    """The address of a program of BPF."""
    keep.append(ctypes.create_string_buffer(b"".join(code)))
    return ctypes.addressof(keep[-1])


keep = []


def open_file():
    return os.open("/tmp/work/main.py", os.O_RDONLY)


def cloned(flags):
    """Begin a child with the flags of clone."""
    pid = syscall(56, flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def ptrace(request, pid):
    libc.ptrace.restype = ctypes.c_long
    return call(libc.ptrace, ctypes.c_long(request), ctypes.c_long(pid), None, None)


def sibling():
    """A process that is neither our parent nor our child."""
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, struct.pack("i", fork(forever)))
        os._exit(0)
    os.wait()
    return struct.unpack("i", os.read(r, 4))[0]


def copy(number, pid):
    """process_vm_readv or writev, of memory that is there in every fork."""
    here = ctypes.create_string_buffer(64)
    keep.append(here)
    vector = word(ctypes.addressof(here), 64)
    return syscall(number, pid, vector, 1, vector, 1, 0)


def descriptor(pid, number):
    return syscall(438, syscall(434, pid, 0), number, 0)


def ioctl(fd, request, data):
    import fcntl
    return fcntl.ioctl(fd, request, data)


def netlink(kind, payload):
    """Send a request to rtnetlink that wants to be acknowledged."""
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.send(struct.pack("IHHII", 16 + len(payload), kind, 0x605, 1, 0) + payload)
    code = struct.unpack("i", s.recv(65536)[16:20])[0]
    if code < 0:
        raise OSError(-code, "")


def raise_limit(name, value=-1):
    import resource
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    except ValueError:
        raise OSError(errno.EPERM, "")


def mount(what, where, kind, flags=0, data=None):
    return call("mount", what, where, kind, flags, data)


def in_namespace(flags=0):
    """Become root of a user namespace of one's own, and of others."""
    call("unshare", 0x10000000)
    write("/proc/self/uid_map", b"0 1000 1")
    if flags:
        call("unshare", flags)


for d in "/tmp/a", "/dev/shm/old":
    os.mkdir(d)
