"""The program inside the sandbox: a tiny init and the waiting interpreter.

usage: runner.py [MODULE...]

Process 1 forks once. The child imports the MODULEs (what the image preloads),
says that it is ready, and blocks reading one request from descriptor 0. Then
it *becomes* the program of that request: nothing is forked and nothing is
relayed, the program writes to the host's pipes directly. When the program is
done the child writes an end frame and leaves without finalising the
interpreter. Process 1 reaps, and speaks for a child that died from a signal or
left without an end frame.

Nothing in here is trusted by the host: the program shares this interpreter and
can do with it what it likes, to its own result. The frames are described in
isolation/runner/frame.go; both sides change together.

Compatible with Python 3.8 and later.
"""

import sys

# What any `python3 main.py` has imported before its first line. A file of the
# request may shadow every other module, however early we imported it.
BASELINE = frozenset(sys.modules)
# What was imported before the program came, and so is not the program's.
PRELOADED = set()

# Ours, whatever the program does to the builtins module later on.
from builtins import *

import os
import _signal  # what is behind signal, without its enumerations
import fcntl
import mmap

MARK = b"\x00csb-end "           # + token + b" "; then, on stdout, length and JSON


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


class Reporter:
    """Writes the end frame, once, on descriptors the program does not know."""

    def __init__(self):
        # Shared with init: the token, so that init can speak for a dead child.
        self.shared = mmap.mmap(-1, 4096)
        self.out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 1000)
        self.err = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 1000)

    def arm(self, token):
        self.shared[:len(token)] = token

    def send(self, data):
        mark = MARK + self.shared[:32] + b" "
        write_all(self.err, mark)
        write_all(self.out, mark + len(data).to_bytes(4, "big") + data)
        self.shared[0] = 0  # init need not speak


def init(child, reporter):
    """Process 1: reap until the program is gone, then end the sandbox."""
    for number in range(1, _signal.NSIG):
        if number in (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD):
            continue
        try:
            _signal.signal(number, _signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    os.close(0)
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except InterruptedError:
            continue
        if pid == child:
            break
    if os.WIFSIGNALED(status):
        body, code = b'{"signal": %d}' % os.WTERMSIG(status), 128 + os.WTERMSIG(status)
    else:
        code = os.WEXITSTATUS(status)
        body = b'{"exit_code": %d}' % code
    if reporter.shared[0]:
        try:
            reporter.send(body)
        except OSError:
            pass
    # runsc ends with 128 when it fails itself, and with 2 when it panics. A
    # program can keep us from saying how it ended: that must not look the same.
    os._exit(255 if code in (2, 128) else code)


if __name__ == "__main__":
    # As early as can be: what process 1 has in memory, each sandbox has twice.
    reporter = Reporter()
    child = os.fork()
    if child:
        init(child, reporter)
    os.setsid()

# From here on it is the interpreter that waits.

import atexit
import ctypes
import gc
import io
import json
import resource
import signal
import struct
import time
import traceback

MAGIC = b"CSB1"
WARM = b"CSBW"
NOTICE = b"CSBN"
READY = b"CSB1 ready\n"
REFUSED = b"CSB1 files\n"       # + length and text
WORK = "/tmp/work"
MAIN = WORK + "/main.py"
HIDDEN = ("MALLOC_ARENA_MAX",)  # ours, not the program's
THREAD_STACK = 2 << 20
TEXT_MAX = 32 << 10             # per text field of the end frame


def bounded(text, limit=TEXT_MAX):
    """text cut to about limit bytes of UTF-8, keeping head and tail."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + "\n[... %d characters cut ...]\n" % (len(text) - 2 * half) + text[-half:]


class Requests:
    """The host's frames, from the pipe that was descriptor 0.

    The pipe gives way to what the program is to find there. A system call
    costs 30 microseconds and more in here, so each takes all that has come.
    """

    def __init__(self):
        self.pipe = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 1000)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        self.ahead = bytearray(64 << 10)  # what has come beyond what was asked for
        self.start = self.end = 0

    def read(self, size):
        data = bytearray(size)
        done = min(size, self.end - self.start)
        data[:done] = self.ahead[self.start:self.start + done]
        self.start += done
        with memoryview(data) as view:
            while done < size:
                n = os.readv(self.pipe, [view[done:], self.ahead])
                if n == 0:
                    os._exit(0)  # the host went away before it sent a program
                self.start, self.end = 0, max(n - (size - done), 0)
                done = min(done + n, size)
        return data

    def number(self):
        return struct.unpack(">I", self.read(4))[0]


class Stdout(io.TextIOWrapper):
    """sys.stdout on a pipe, whose lines reach the host as they are written.

    A program that is killed must not take its last lines with it, and a
    watching client wants them now; but a write costs some 20 microseconds in
    here, which a program that prints a million lines cannot afford. So lines
    are flushed at once while the program prints at a human pace, by a token
    bucket: a burst of BURST, then one per millisecond. Beyond that the block
    buffer of every Python on a pipe decides.
    """

    BURST = 1000
    left = BURST
    since = 0.0

    def write(self, text, /):
        n = super().write(text)
        if "\n" in text:
            if self.left <= 0:
                now = time.monotonic()
                self.left = min(self.BURST, int((now - self.since) * 1000))
                if self.left <= 0:
                    return n
                self.since = now
            self.left -= 1
            self.flush()
        return n


Stdout.__name__ = Stdout.__qualname__ = "TextIOWrapper"
Stdout.__module__ = "_io"


# As python3 has chosen them for its own streams.
STDIN_CODING = {"encoding": sys.stdin.encoding, "errors": sys.stdin.errors}
STDOUT_CODING = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors}


def open_stdio():
    """sys.stdin and sys.stdout as python3 opens them, on the new descriptors."""
    raw = io.FileIO(0, "r", closefd=False)
    raw.name = "<stdin>"
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(
        io.BufferedReader(raw), newline="\n", **STDIN_CODING)
    sys.stdin.mode = "r"

    raw = io.FileIO(1, "w", closefd=False)
    raw.name = "<stdout>"
    sys.stdout = sys.__stdout__ = Stdout(
        io.BufferedWriter(raw), newline="\n", **STDOUT_CODING)
    sys.stdout.mode = "w"


def set_limits(limits, ceilings, mapped):
    """Lower this process's limits; its children inherit them.

    mapped is what its address space holds already, in bytes.
    """
    for what, value in (
            (resource.RLIMIT_NOFILE, limits["open_files"]),
            # Init is a process of the same user.
            (resource.RLIMIT_NPROC, limits["processes"] + 1),
            (resource.RLIMIT_AS, mapped + limits["memory"]
             + min(limits["processes"] * THREAD_STACK, limits["memory"] // 4))):
        if ceilings[what] != resource.RLIM_INFINITY:
            value = min(value, ceilings[what])
        resource.setrlimit(what, (value, value))


def set_thread_stack():
    """Give threads 2 MiB stacks, so that RLIMIT_AS can be a memory limit.

    glibc's default is the stack limit, 8 MiB: 64 threads would use up half a
    gigabyte of address space. threading.stack_size() still reads 0 and can
    still be set.
    """
    try:
        libc = ctypes.CDLL(None)
        attr = ctypes.create_string_buffer(64)
        if libc.pthread_attr_init(attr) == 0:
            libc.pthread_attr_setstacksize(attr, ctypes.c_size_t(THREAD_STACK))
            libc.pthread_setattr_default_np(attr)
    except AttributeError:
        pass  # not glibc


class Stage:
    """What a program finds when it begins, as far as all programs find the same.

    It is set before the program comes, and so takes none of its time.
    """

    def __init__(self):
        self.fd = os.open(MAIN, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.fchmod(self.fd, 0o644)
        self.file = _fdopen(self.fd, b"rb")
        # Its buffer is made now, not when it is read.
        if not self.file or _setvbuf(self.file, None, _IOFBF, 0):
            raise OSError("main.py cannot be opened")
        self.main = new_main()  # held by nobody else but sys.modules
        open_stdio()
        self.pid = os.getpid()
        self.ceilings = {what: resource.getrlimit(what)[1]
                         for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_AS)}
        with open("/proc/self/statm") as f:  # last: all this is not the program's
            self.mapped = int(f.read().split()[0]) * mmap.PAGESIZE

    def place(self, code):
        """Make code the content of main.py, whose file is left at its beginning."""
        done = 0
        with memoryview(code) as view:
            while done < len(code):
                done += os.pwrite(self.fd, view[done:], done)


def warm(stage, code):
    """Do once what every program will have done, so that its memory is in place.

    After a restore each page is fetched when it is first touched, which would
    make the first program 15 to 40 ms slower. So this goes the way of serve()
    with what it has, and then undoes it: nothing of it may remain.
    """
    header = json.loads(json.dumps({"token": "", "args": ["a"], "environment": {"LANG": "C.UTF-8"}, "files": []}))
    environ, argv = dict(os.environ), sys.argv[:]
    saved = [os.dup(fd) for fd in (0, 1, 2)]
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        stage.place(code)
        place(WORK + "/d/file", 0o644, b"")
        give_stdin(b"data")
        os.environ.update(header["environment"])
        sys.argv[:] = ["main.py"] + header["args"]
        shadow([])
        status, exception, number = run(stage)
        put_away(stage)
        json.dumps({"exit_code": status, "signal": number, "exception": exception})
    finally:
        for fd, copy in enumerate(saved):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(null)
        sys.argv[:] = argv
        for name in set(os.environ) - set(environ):
            del os.environ[name]
        os.environ.update(environ)
        os.unlink(WORK + "/d/file")
        os.rmdir(WORK + "/d")
    del sys.last_type, sys.last_value, sys.last_traceback
    import linecache
    linecache.clearcache()


def receive(reporter, requests, stage):
    """Wait for the program, and rehearse as often as the host wants it."""
    while True:
        kind = requests.read(4)
        if kind == NOTICE:
            continue
        if kind != WARM:
            break
        code = requests.read(requests.number())
        if code:
            reporter.arm(b"\0")
            warm(stage, code)
            settle()
            stage = Stage()
        # The host sends one after each restore.
        reseed()
        write_all(1, READY)
    if kind != MAGIC:
        sys.stderr.write("runner: bad request frame\n")
        os._exit(70)
    header = json.loads(requests.read(requests.number()))
    code = requests.read(header["code"])
    stdin = requests.read(header["stdin"])
    files = [(f["path"], f["mode"], requests.read(f["size"])) for f in header["files"]]
    return stage, header, code, stdin, files


def place(path, mode, content):
    parent = os.path.dirname(path)
    if parent:
        os.makedirs(parent, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, memoryview(content))
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def give_stdin(data):
    """A regular file as descriptor 0, as in `python3 main.py < data`."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    write_all(fd, memoryview(data))
    source = os.open("/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(source, 0)
    os.close(source)
    os.close(fd)


def generators():
    """Every pseudo-random generator that some module holds by now."""
    kinds = []
    if "random" in sys.modules:
        kinds.append(sys.modules["random"].Random)
    if "numpy.random" in sys.modules:
        numpy_random = sys.modules["numpy.random"]
        kinds += [numpy_random.RandomState, numpy_random.BitGenerator]
    return [thing for thing in gc.get_objects() if issubclass(type(thing), tuple(kinds))]


def renew(generator):
    """Give a generator a state that no other sandbox has."""
    try:
        generator.seed()
    except (AttributeError, TypeError):  # a BitGenerator, or a RandomState on a new one
        if hasattr(generator, "state"):
            generator.state = type(generator)().state


# Those that a snapshot has, found before they are frozen.
GENERATORS = []


def reseed():
    """Undo what a snapshot would make equal in two sandboxes."""
    for generator in GENERATORS:
        renew(generator)
    random = sys.modules.get("random")
    if random:
        random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random:
        numpy_random.seed()
    process = sys.modules.get("multiprocessing.process")
    if process:
        process.current_process().authkey = os.urandom(32)
    uuid = sys.modules.get("uuid")
    if uuid:
        uuid._last_timestamp = None
    tempfile = sys.modules.get("tempfile")
    if tempfile:
        tempfile._name_sequence = None


def shadow(names):
    """Let the request's own modules win over what we happen to have imported."""
    for name in names:
        top = name.split("/", 1)[0]
        if top.endswith(".py"):
            top = top[:-3]
        if top not in sys.modules:
            continue
        for loaded in list(sys.modules):
            if (loaded == top or loaded.startswith(top + ".")) and loaded not in BASELINE:
                del sys.modules[loaded]
                PRELOADED.discard(loaded)


def new_main():
    main = type(sys)("__main__")
    main.__annotations__ = {}
    main.__builtins__ = sys.modules["builtins"]
    main.__file__ = MAIN
    main.__cached__ = None
    from importlib.machinery import SourceFileLoader
    main.__loader__ = SourceFileLoader("__main__", MAIN)
    sys.modules["__main__"] = main
    return main


_libc = ctypes.CDLL(None)
_fdopen = _libc.fdopen
_fdopen.restype = ctypes.c_void_p
_fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
_setvbuf = _libc.setvbuf
_setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_IOFBF = 0
_run_file = ctypes.pythonapi.PyRun_FileExFlags
_run_file.restype = ctypes.py_object
_run_file.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int,
                      ctypes.py_object, ctypes.py_object, ctypes.c_int, ctypes.c_void_p]
PY_FILE_INPUT = 257


def run_file(stage):
    """Execute main.py just as `python3 main.py` does, from the open file.

    compile() differs where it hurts: its messages for undecodable source, its
    view of NUL bytes, the future flags it inherits.
    """
    main = stage.main.__dict__
    _run_file(stage.file, MAIN.encode(), PY_FILE_INPUT, main, main, 1, None)


def own_frames(tb):
    """tb without the frames of this file."""
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    return tb


def describe(kind, value, tb):
    """The exception for the end frame. str() of it runs the program's code."""
    module = getattr(kind, "__module__", None)
    name = getattr(kind, "__qualname__", "Exception")
    if isinstance(module, str) and module not in ("builtins", "__main__"):
        name = module + "." + name
    try:
        message = str(value)
    except BaseException:
        message = "<exception str() failed>"
    line = 0
    if isinstance(value, SyntaxError) and value.filename == MAIN:
        line = value.lineno or 0
    else:
        step = tb
        while step is not None:
            if step.tb_frame.f_code.co_filename == MAIN:
                line = step.tb_lineno or 0
            step = step.tb_next
    try:
        text = "".join(traceback.format_exception(kind, value, tb))
    except BaseException:
        text = ""
    return {"type": bounded(str(name), 1024), "message": bounded(message), "line": line,
            "traceback": bounded(text)}


def exit_code_of(value):
    """What handle_system_exit of CPython makes of a SystemExit."""
    code = value.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    flush("stdout")
    for text in (code, None):
        try:
            sys.stderr.write("\n" if text is None else str(text))
        except BaseException:
            pass
    return 1


def show(kind, value, tb):
    """Print an uncaught exception as the interpreter would."""
    flush("stdout")
    sys.last_type, sys.last_value, sys.last_traceback = kind, value, tb
    hook = getattr(sys, "excepthook", None)
    if hook is None:
        complain("sys.excepthook is missing\n", value)
        return 1
    try:
        sys.audit("sys.excepthook", hook, kind, value, tb)
        hook(kind, value, tb)
    except SystemExit as e:
        return exit_code_of(e)
    except BaseException:
        complain("Error in sys.excepthook:\n", sys.exc_info()[1])
        complain("\nOriginal exception was:\n", value)
    return 1


def complain(text, value):
    """Write text and an exception to stderr, without our own frames."""
    try:
        value.__traceback__ = own_frames(value.__traceback__)
        sys.stderr.write(text)
        sys.__excepthook__(type(value), value, value.__traceback__)
    except BaseException:
        pass


def flush(name, aloud=True):
    """Flush sys.stdout or sys.stderr; say whether that went well."""
    stream = getattr(sys, name, None)
    try:
        if stream is None or getattr(stream, "closed", False):
            return True
        stream.flush()
        return True
    except BaseException as e:
        if name == "stdout" and aloud:
            complain("Exception ignored in: %r\n" % (stream,), e)
        return False


def run(stage):
    """Run main.py to its end: (exit status, exception, signal)."""
    try:
        run_file(stage)
        return 0, None, 0
    except SystemExit as e:
        return exit_code_of(e), None, 0
    except BaseException as e:
        kind, value, tb = type(e), e, own_frames(e.__traceback__)
        value.__traceback__ = tb
        del e
    exception = describe(kind, value, tb)
    status = show(kind, value, tb)
    # CPython ends itself with SIGINT after an uncaught KeyboardInterrupt.
    return status, exception, signal.SIGINT if issubclass(kind, KeyboardInterrupt) and status == 1 else 0


WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def finish(stage):
    """What Py_FinalizeEx does that a program can see, and nothing else."""
    threading = sys.modules.get("threading")
    if threading:
        try:
            threading._shutdown()
        except BaseException as e:
            complain("Exception ignored in: %r\n" % (threading,), e)
    try:
        atexit._run_exitfuncs()
    except BaseException:
        pass  # each was printed as it happened
    return put_away(stage)


def put_away(stage):
    """Flush what is open and let the program's modules die; False if output was lost."""
    ok = flush("stdout") & flush("stderr")
    # Files that are still open, whoever holds them: the collector might finalise
    # a file's buffer before the file.
    try:
        things = gc.get_objects()
    except MemoryError:
        things = ()  # the program has left none; its files go with its objects
    for thing in things:
        if issubclass(type(thing), WRITERS):
            try:
                thing.closed or thing.flush()
            except BaseException:
                pass
    thing = things = None
    # The program's modules die, by reference count or by the collector, which
    # lets each __del__ see its globals.
    sys.last_type = sys.last_value = sys.last_traceback = None
    stage.main = None
    for name in set(sys.modules) - PRELOADED | {"__main__"}:
        module = sys.modules.get(name)
        if name == "__main__" or str(getattr(module, "__file__", None)).startswith(WORK + "/"):
            sys.modules.pop(name, None)
    name = module = None
    try:
        gc.collect()
    except BaseException:
        pass
    flush("stdout", False)
    flush("stderr", False)
    return ok


def serve(reporter):
    os.makedirs(WORK, exist_ok=True)
    os.chdir(WORK)
    sys.path[0] = WORK
    for name in HIDDEN:
        os.environ.pop(name, None)
    set_thread_stack()
    requests = Requests()
    stage = Stage()
    write_all(1, READY)

    stage, header, code, stdin, files = receive(reporter, requests, stage)
    del requests
    reporter.arm(header["token"].encode())
    try:
        stage.place(code)
        for path, mode, content in files:
            place(path, mode, content)
    except OSError as e:
        reason = ("%s: %s" % (e.filename or "files", e.strerror)).encode()
        write_all(1, REFUSED + len(reason).to_bytes(4, "big") + reason)
        os._exit(71)
    # It is taken: what follows can be the program's doing, this cannot.
    write_all(1, READY)
    del code
    if stdin:
        give_stdin(stdin)
    del stdin

    os.environ.update(header["environment"])
    if "TZ" in header["environment"]:
        time.tzset()
    sys.argv[:] = ["main.py"] + header["args"]
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = ["python3", "main.py"] + header["args"]
    shadow(["main.py"] + [path for path, _, _ in files])
    del files
    set_limits(header["limits"], stage.ceilings, stage.mapped)
    del header

    status, exception, number = run(stage)
    if os.getpid() != stage.pid:
        # A child that the program forked and that came back up to here.
        finish(stage)
        os._exit(status)
    try:
        if not finish(stage):
            status = 120
    except BaseException:
        # Whatever the program has done to us, its end is reported; but what may
        # have lost output is no success.
        status = status or 120
    body = {"exit_code": status}
    if exception:
        body["exception"] = exception
    if number:
        body["signal"] = number
    try:
        reporter.send(json.dumps(body).encode())
    finally:
        os._exit(status)


def settle():
    """Make what is loaded by now no business of the program's."""
    gc.collect()
    gc.freeze()  # its collections need not look at it
    PRELOADED.update(sys.modules)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        __import__(module)
    GENERATORS += generators()
    settle()
    serve(reporter)
