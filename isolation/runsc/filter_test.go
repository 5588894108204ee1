package runsc

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// instruction is a struct sock_filter of <linux/filter.h>.
type instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// filtersOf reads the seccomp filters that the kernel applies to a process,
// the newest first.
func filtersOf(t *testing.T, pid int) [][]instruction {
	t.Helper()
	runtime.LockOSThread() // the tracer
	defer runtime.UnlockOSThread()
	trace := func(request, addr, data uintptr) (uintptr, error) {
		n, _, errno := unix.Syscall6(unix.SYS_PTRACE, request, uintptr(pid), addr, data, 0, 0)
		if errno != 0 {
			return 0, errno
		}
		return n, nil
	}
	_, err := trace(unix.PTRACE_SEIZE, 0, 0)
	assert.NilError(t, err)
	_, err = trace(unix.PTRACE_INTERRUPT, 0, 0)
	assert.NilError(t, err)
	var status unix.WaitStatus
	for deadline := time.Now().Add(5 * time.Second); ; {
		n, err := unix.Wait4(pid, &status, unix.WNOHANG|unix.WALL, nil)
		assert.NilError(t, err)
		if n == pid && status.Stopped() {
			break
		}
		assert.Assert(t, time.Now().Before(deadline), "the process does not stop")
		time.Sleep(time.Millisecond)
	}
	defer func() {
		_, err := trace(unix.PTRACE_DETACH, 0, 0)
		assert.Check(t, err)
	}()
	var all [][]instruction
	for i := uintptr(0); ; i++ {
		n, err := trace(unix.PTRACE_SECCOMP_GET_FILTER, i, 0)
		if err == unix.ENOENT {
			return all
		}
		assert.NilError(t, err)
		filter := make([]instruction, n)
		_, err = trace(unix.PTRACE_SECCOMP_GET_FILTER, i, uintptr(unsafe.Pointer(&filter[0])))
		assert.NilError(t, err)
		all = append(all, filter)
	}
}

// The filter that a sentry really has is, instruction by instruction, the one
// that gVisor compiles for it: the precompiled one is not stale.
func TestFilter(t *testing.T) {
	compile := exec.CommandContext(t.Context(), "go", "run", "github.com/fcarli/codesandbox/cmd/csbd/sentry/precompile", "compile")
	compile.Env = append(compile.Environ(), "CGO_ENABLED=0")
	var said bytes.Buffer
	compile.Stderr = &said
	out, err := compile.Output()
	assert.NilError(t, err, said.String())
	lines := bufio.NewScanner(bytes.NewReader(out))
	var control uint32
	assert.Assert(t, lines.Scan())
	_, err = fmt.Sscan(lines.Text(), &control)
	assert.NilError(t, err)
	var want []instruction
	for lines.Scan() {
		var i instruction
		_, err := fmt.Sscan(lines.Text(), &i.Code, &i.JT, &i.JF, &i.K)
		assert.NilError(t, err)
		want = append(want, i)
	}
	assert.Assert(t, len(want) > 300)

	for name, o := range map[string]Options{"direct": options(t, t.TempDir()), "stock": stockOptions(t, t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			r := openWith(t, o)
			s, err := r.Launcher(class(t), nil).Launch(t.Context())
			assert.NilError(t, err)
			defer func() { assert.Check(t, s.Close()) }()
			sentry := sentryOf(t, s)
			filters := filtersOf(t, sentry)
			assert.Equal(t, len(filters), 1)
			got := filters[0]
			assert.Equal(t, len(got), len(want))
			descriptor := uint32(0)
			for i := range got {
				expected := want[i]
				if expected.K == control {
					if descriptor == 0 {
						descriptor = got[i].K
					}
					expected.K = descriptor
				}
				assert.Assert(t, got[i] == expected, "instruction %d is %v, not %v", i, got[i], expected)
			}
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", sentry, descriptor))
			assert.NilError(t, err)
			assert.Check(t, strings.HasPrefix(link, "socket:"), "the control socket is %s", link)
		})
	}
}
