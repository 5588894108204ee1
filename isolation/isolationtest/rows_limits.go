package isolationtest

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

func timeout(d time.Duration) func(*isolation.Limits) {
	return func(l *isolation.Limits) { l.Timeout = d }
}

var timeLimits = []row{
	{name: "timeout keeps what was printed", code: "import time\nfor i in range(3): print('line', i)\ntime.sleep(60)", limits: timeout(time.Second), within: 6 * time.Second,
		status: isolation.StatusTimeout, exit: 124, stdout: lines("line 0", "line 1", "line 2"),
		check: func(t *testing.T, got outcome) { assert.Check(t, got.res.Duration >= time.Second) }},
	{name: "timeout of a busy loop", code: "while True: pass", limits: timeout(700 * time.Millisecond), within: 6 * time.Second, status: isolation.StatusTimeout, exit: 124},
	{name: "timeout while signals are ignored", limits: timeout(time.Second), within: 6 * time.Second, code: `
		import signal, time
		for n in range(1, signal.NSIG):
		    try: signal.signal(n, signal.SIG_IGN)
		    except (OSError, ValueError): pass
		while True:
		    try: time.sleep(100)
		    except BaseException: pass
		`, status: isolation.StatusTimeout, exit: 124},
	{name: "timeout in atexit", code: "import atexit, time\natexit.register(time.sleep, 60)\nprint('x')", limits: timeout(time.Second), within: 6 * time.Second,
		status: isolation.StatusTimeout, exit: 124, stdout: lines("x")},
	{name: "timeout while a thread is waited for", code: "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", limits: timeout(time.Second), within: 6 * time.Second,
		status: isolation.StatusTimeout, exit: 124},
	{name: "timeout with descriptors closed", code: "import os, time\nos.closerange(0, 65536)\ntime.sleep(60)", limits: timeout(time.Second), within: 6 * time.Second,
		status: isolation.StatusTimeout, exit: 124},
	{name: "timeout while it floods", code: "import os\nwhile True: os.write(1, b'x' * 65536)", limits: timeout(time.Second), within: 6 * time.Second,
		status: isolation.StatusTimeout, exit: 124, stdout: has("xxxx")},
	{name: "cpu limit", code: "print('x')\nwhile True: pass", limits: func(l *isolation.Limits) { l.CPUTime = 500 * time.Millisecond }, within: 8 * time.Second,
		status: isolation.StatusCPULimit, exit: 152, stdout: lines("x"),
		check: func(t *testing.T, got outcome) { assert.Check(t, got.res.Usage.CPU >= 500*time.Millisecond) }},
	{name: "cpu limit of several processes", code: "import os\nfor _ in range(3): os.fork()\nwhile True: pass", limits: func(l *isolation.Limits) { l.CPUTime = time.Second },
		within: 8 * time.Second, status: isolation.StatusCPULimit, exit: 152},
	{name: "sleeping costs no cpu time", code: "import time\ntime.sleep(1.2)\nprint('x')", limits: func(l *isolation.Limits) { l.CPUTime = time.Second }, stdout: lines("x"), same: true},
	{name: "cpus bound the speed", code: "import time\nt = time.process_time()\nw = time.monotonic()\nwhile time.monotonic() < w + 2: pass\nprint(time.process_time() - t)",
		limits: func(l *isolation.Limits) { l.CPUs = 0.2 }, stdout: anything,
		check: func(t *testing.T, got outcome) {
			assert.Check(t, got.res.Usage.CPU < 900*time.Millisecond, "%v in %v", got.res.Usage.CPU, got.res.Duration)
		}},
}

func memory(n int64) func(*isolation.Limits) {
	return func(l *isolation.Limits) { l.Memory = mebibytes(n) }
}

var memoryLimits = []row{
	{name: "memory: one huge allocation", code: "x = bytearray(2_000_000_000)", limits: memory(128), status: isolation.StatusMemoryLimit, exit: 1,
		raises: &raises{"MemoryError", "", 1}, stderr: has("MemoryError")},
	{name: "memory: a caught MemoryError", code: "try:\n    x = bytearray(2_000_000_000)\nexcept MemoryError:\n    print('caught')", limits: memory(128), stdout: lines("caught")},
	{name: "memory: bit by bit", limits: memory(128), code: `
		keep = []
		try:
		    while True: keep.append(bytearray(1 << 20))
		except MemoryError:
		    n = len(keep)
		    del keep
		    print(n)
		`, stdout: anything, check: func(t *testing.T, got outcome) {
		n, _ := strconv.Atoi(strings.TrimSpace(got.stdout))
		assert.Check(t, n >= 118 && n <= 128+130, "%d MiB of 128 were usable", n)
	}},
	{name: "memory: bit by bit until the end", code: "keep = []\nwhile True: keep.append(bytearray(1 << 20))", limits: memory(64), status: isolation.StatusMemoryLimit, exit: 1,
		raises: &raises{"MemoryError", "", 2}, stderr: has("MemoryError")},
	{name: "memory: small objects until the end", code: "keep = []\nwhile True: keep.append(str(len(keep)))", limits: memory(64), status: isolation.StatusMemoryLimit, exit: 1,
		raises: &raises{"MemoryError", "", anyLine}, stderr: has("MemoryError")},
	{name: "memory: all of it is usable", code: "x = bytearray(120 << 20)\nprint(len(x) >> 20)", limits: memory(128), stdout: lines("120"),
		check: func(t *testing.T, got outcome) {
			assert.Check(t, got.res.Usage.PeakMemory > 120<<20, "peak %d", got.res.Usage.PeakMemory)
		}},
	{name: "memory: several processes together", limits: memory(64), class: disk(16), within: 20 * time.Second, code: `
		import os, time
		for i in range(8):
		    if os.fork() == 0:
		        x = bytearray(b'x' * (25 << 20))
		        y = bytearray(b'y' * (25 << 20))
		        time.sleep(60)
		time.sleep(60)
		`, status: isolation.StatusMemoryLimit, exit: 137, stderr: anything},
	{name: "memory: anonymous files", limits: memory(64), class: disk(16), within: 20 * time.Second, code: `
		import os
		fd = os.memfd_create('x')
		while True: os.write(fd, b'x' * (1 << 20))
		`, status: isolation.StatusMemoryLimit, exit: 137, stderr: anything},
	{name: "memory: shared mappings", limits: memory(64), class: disk(16), within: 20 * time.Second, code: `
		import mmap, os, time
		for _ in range(6):
		    m = mmap.mmap(-1, 48 << 20)
		    if os.fork() == 0:
		        for i in range(0, len(m), 4096): m[i] = 1
		        time.sleep(60)
		    m.close()
		time.sleep(60)
		`, status: isolation.StatusMemoryLimit, exit: 137, stderr: anything},
}

// processes says how many the program may have.
func processLimit(n int) func(*isolation.Limits) {
	return func(l *isolation.Limits) { l.Processes = n }
}

var countLimits = []row{
	{name: "processes: forks are counted", limits: processLimit(16), code: `
		import errno, os, signal, time
		children = []
		try:
		    while True:
		        pid = os.fork()
		        if pid == 0:
		            time.sleep(60)
		            os._exit(0)
		        children.append(pid)
		except OSError as e:
		    print(type(e).__name__, errno.errorcode[e.errno], len(children))
		for pid in children: os.kill(pid, signal.SIGKILL)
		for pid in children: os.waitpid(pid, 0)
		os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)
		print('and again')
		`, stdout: lines("BlockingIOError EAGAIN 15", "and again")},
	{name: "processes: a fork bomb", limits: func(l *isolation.Limits) { l.Processes, l.Timeout = 32, 3*time.Second }, within: 15 * time.Second, code: `
		import os
		while True:
		    try: os.fork()
		    except OSError: pass
		`, status: isolation.StatusTimeout, exit: 124},
	{name: "processes: the program outlives a fork bomb", limits: processLimit(32), within: 20 * time.Second, code: `
		import os, time
		if os.fork() == 0:
		    os.setsid()
		    end = time.monotonic() + 1
		    while time.monotonic() < end:
		        try: os.fork()
		        except OSError: pass
		    os._exit(0)
		try:
		    os.wait()
		    time.sleep(0.5)
		except OSError: pass
		print('still here')
		`, stdout: lines("still here")},
	{name: "processes: threads are counted", limits: processLimit(16), code: `
		import threading
		stop = threading.Event()
		started = []
		try:
		    while len(started) < 200:
		        t = threading.Thread(target=stop.wait)
		        t.start()
		        started.append(t)
		except RuntimeError as e:
		    print(e, len(started))
		stop.set()
		`, stdout: lines("can't start new thread 15")},
	{name: "processes: 30 threads at the default limits", same: true, code: `
		import threading
		barrier = threading.Barrier(30)
		done = []
		def work():
		    barrier.wait()
		    done.append(1)
		threads = [threading.Thread(target=work) for _ in range(30)]
		for t in threads: t.start()
		for t in threads: t.join()
		print(len(done))
		`, stdout: lines("30")},
	{name: "open files", limits: func(l *isolation.Limits) { l.OpenFiles = 32 }, code: `
		import errno, os, resource
		files = []
		try:
		    while True: files.append(os.open('/dev/null', os.O_RDONLY))
		except OSError as e:
		    print(errno.errorcode[e.errno], len(files), files[-1])
		print(resource.getrlimit(resource.RLIMIT_NOFILE))
		`, stdout: lines("EMFILE 29 31", "(32, 32)")},
	{name: "limits cannot be raised", code: `
		import resource
		for what in resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_AS:
		    try: resource.setrlimit(what, (1 << 40, 1 << 40))
		    except (ValueError, OSError): print('refused')
		`, stdout: lines("refused", "refused", "refused")},
}

// disk sets the size of the writable filesystem.
func disk(n int64) func(*isolation.Class) {
	return func(c *isolation.Class) { c.Ceiling.Disk = mebibytes(n) }
}

const fillDisk = `
import errno, os, sys
total = 0
with open(sys.argv[1], 'wb', buffering=0) as f:
    try:
        while total < 1 << 30: total += f.write(b'x' * 65536)
    except OSError as e:
        print(errno.errorcode[e.errno])
print(total >> 20)
os.unlink(sys.argv[1])
with open(sys.argv[1], 'wb') as f: f.write(b'y' * 1000)
print('and again')
`

// usable checks that nearly n MiB could be written, and no more.
func usable(n int) func(t *testing.T, got outcome) {
	return func(t *testing.T, got outcome) {
		said := strings.Fields(got.stdout)
		if assert.Check(t, len(said) == 4 && said[0] == "ENOSPC", "%q", got.stdout) {
			wrote, _ := strconv.Atoi(said[1])
			assert.Check(t, wrote >= n-1 && wrote <= n, "%d MiB of %d were usable", wrote, n)
		}
	}
}

var diskLimits = []row{
	{name: "disk: the sandbox's", code: fillDisk, args: []string{"/tmp/x"}, class: disk(8), stdout: anything, check: usable(8)},
	{name: "disk: all of 64 MiB", code: fillDisk, args: []string{"x"}, stdout: anything, check: usable(64)},
	{name: "disk: shared memory is bounded", code: fillDisk, args: []string{"/dev/shm/x"}, class: disk(8), stdout: anything, check: usable(8)},
	{name: "disk: many small files", class: disk(8), code: `
		import errno
		try:
		    for i in range(100000):
		        with open('f%d' % i, 'w') as f: f.write('x')
		except OSError as e:
		    print(errno.errorcode[e.errno])
		`, stdout: lines("ENOSPC")},
	{name: "disk: files do not fit", code: "print('never')", class: disk(4), files: []isolation.File{{Path: "big", Content: bytes.Repeat([]byte("x"), 5<<20)}},
		setup: "No space left on device"},
	{name: "disk: code does not fit", code: strings.Repeat("#", 5<<20), class: disk(4), setup: "No space left on device"},
}
