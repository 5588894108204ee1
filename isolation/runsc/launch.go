package runsc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/cgroup"
	"github.com/fcarli/codesandbox/isolation/runner"
)

// headroom is what the guest kernel may need on top of the program's own
// memory and of what the idle sandbox holds: its heap, page tables and pipe
// buffers.
const headroom = 64 << 20

// bootMemory is the memory limit, in bytes, of a sandbox that has not been
// given a program yet. Only our own code runs in it then.
const bootMemory = 1 << 30

// startTimeout bounds the start of one sandbox, which takes 0.3 to 2 s here.
const startTimeout = 60 * time.Second

// A launcher cold-starts sandboxes of one class.
type launcher struct {
	runtime *Runtime
	class   isolation.Class
	modules []string
}

// Launcher returns a Launcher of sandboxes whose interpreter has imported the
// given modules.
func (r *Runtime) Launcher(c isolation.Class, modules []string) isolation.Launcher {
	return &launcher{r, c, modules}
}

// hostTasks is the host's pids limit for a guest with n processes. Each guest
// process costs a stub process on the host, and the sentry has threads of its
// own; a sentry that cannot fork crashes, so this only backs RLIMIT_NPROC up.
func hostTasks(n int) int { return 128 + 4*n }

// Launch implements isolation.Launcher.
func (l *launcher) Launch(ctx context.Context) (isolation.Sandbox, error) {
	return l.runtime.launch(ctx, l.class, l.modules, "")
}

// A restorer starts sandboxes of one class from its snapshot.
type restorer struct {
	runtime *Runtime
	class   isolation.Class
}

// RestoreLauncher returns a Launcher of sandboxes that are restored from a
// snapshot, with the class's modules imported and its warm-up behind them. The
// snapshot is made when there is none.
func (r *Runtime) RestoreLauncher(c isolation.Class) isolation.Launcher { return &restorer{r, c} }

// Launch implements isolation.Launcher.
func (l *restorer) Launch(ctx context.Context) (isolation.Sandbox, error) {
	r := l.runtime
	dir, err := r.snapshots.get(ctx, l.class)
	if err != nil {
		return nil, err
	}
	s, err := r.launch(ctx, l.class, strings.Fields(l.class.Preload), dir)
	if err != nil && ctx.Err() == nil {
		// Perhaps it is the snapshot: the next Launch looks closer.
		r.snapshots.forget(l.class)
	}
	return s, err
}

// launch starts a sandbox: from the snapshot, with the class's warm-up, or cold
// if there is none.
func (r *Runtime) launch(ctx context.Context, c isolation.Class, modules []string, snapshot string) (_ isolation.Sandbox, err error) {
	if err := c.Ceiling.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("not ready after "+startTimeout.String()))
	defer cancel()
	s := &sandbox{id: newID(), class: c, litter: &r.litter, begun: time.Now()}
	s.dir = filepath.Join(r.dir, s.id)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start sandbox %s: %w", s.id, err), s.Close())
		}
	}()
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.config, err = configuration(c, modules); err != nil {
		return nil, err
	}
	if s.group, err = r.cgroups.New(s.id); err != nil {
		return nil, err
	}
	if err := errors.Join(
		s.group.SetMemory(bootMemory),
		s.group.SetPids(hostTasks(c.Ceiling.Processes))); err != nil {
		return nil, err
	}
	if err := s.start(ctx, r.booter, snapshot); err != nil {
		return nil, err
	}
	if snapshot != "" {
		if err := runner.WriteWarmup(s.stdin, []byte(c.Warmup)); err != nil {
			return nil, err
		}
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	s.reached("ready")
	r.log.Debug("sandbox started", append([]any{"sandbox", s.id, "snapshot", snapshot != ""}, s.timeline...)...)
	return s, nil
}

// reached notes how long it took to get here, and what it cost.
func (s *sandbox) reached(stage string) {
	cpu, _ := s.group.CPU()
	s.timeline = append(s.timeline, slog.Group(stage, "wall", time.Since(s.begun).Round(100*time.Microsecond), "cpu", cpu.Round(100*time.Microsecond)))
}

// A booter starts the processes of sandboxes.
type booter interface {
	// open prepares what all sandboxes have in common, close undoes it.
	open() error
	// start starts the sandbox's container with the given standard streams, from
	// the snapshot in a directory if that is not empty. It calls s.await.
	start(ctx context.Context, s *sandbox, stdio [3]*os.File, snapshot string) error
	// checkpoint saves the sandbox's state into an empty directory and so ends
	// the sandbox.
	checkpoint(ctx context.Context, s *sandbox, dir string) error
	close() error
}

// A sandbox is one sentry with its container.
type sandbox struct {
	id     string
	class  isolation.Class
	config []byte // the OCI configuration
	dir    string
	litter *litter // where its directory goes if it cannot be removed
	group  *cgroup.Group

	first                 *os.Process   // with which all others die; nil before it is known
	stdin, stdout, stderr *os.File      // our ends
	exited                chan struct{} // nil: nothing was started
	status                syscall.WaitStatus
	waitErr               error // both are valid once exited is closed

	begun    time.Time
	timeline []any // for the log

	used      bool
	closeOnce sync.Once
	closeErr  error
}

func (s *sandbox) start(ctx context.Context, b booter, snapshot string) error {
	var theirs [3]*os.File
	defer func() {
		for _, f := range theirs {
			if f != nil {
				f.Close()
			}
		}
	}()
	var err error
	if theirs[0], s.stdin, err = os.Pipe(); err != nil {
		return err
	}
	if s.stdout, theirs[1], err = os.Pipe(); err != nil {
		return err
	}
	if s.stderr, theirs[2], err = os.Pipe(); err != nil {
		return err
	}
	// Fewer round trips for much data; the system's limit may refuse.
	enlarge(s.stdin, 1<<20)
	enlarge(s.stdout, 256<<10)
	enlarge(s.stderr, 256<<10)
	return b.start(ctx, s, theirs, snapshot)
}

// enlarge asks for more room in a pipe.
func enlarge(pipe *os.File, size int) {
	if raw, err := pipe.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
	}
}

// await waits in the background for the process that was started.
func (s *sandbox) await(wait func() (syscall.WaitStatus, error)) {
	exited := make(chan struct{})
	s.exited = exited
	go func() {
		s.status, s.waitErr = wait()
		close(exited)
	}()
}

// waitReady waits for the runner's ready line. When none comes, the sandbox's last
// words are the reason.
func (s *sandbox) waitReady(ctx context.Context) error {
	ready := make(chan error, 1)
	go func() { ready <- runner.WaitReady(s.stdout) }()
	select {
	case err := <-ready:
		if err == nil {
			return nil
		}
		_ = s.stderr.SetReadDeadline(time.Now().Add(time.Second))
		said, _ := io.ReadAll(io.LimitReader(s.stderr, 64<<10))
		return fmt.Errorf("%w; it said %q", err, bounded(said, 2000))
	case <-ctx.Done():
		s.kill()
		<-ready
		return fmt.Errorf("wait for the runner: %w", context.Cause(ctx))
	}
}

// Ended is closed when the sandbox has ended, by itself or not.
func (s *sandbox) Ended() <-chan struct{} { return s.exited }

// MemoryUse is what the sandbox holds of the host's memory, in bytes.
func (s *sandbox) MemoryUse() int64 {
	n, err := s.group.MemoryUse()
	if err != nil {
		return 0
	}
	return n
}

// kill ends every process of the sandbox.
func (s *sandbox) kill() error {
	if s.group == nil {
		return nil
	}
	err := s.group.Kill()
	if s.first != nil {
		// Somebody may have moved it out of its group, and removed that.
		_ = s.first.Kill()
	}
	return err
}

// Close implements isolation.Sandbox.
func (s *sandbox) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *sandbox) close() error {
	var errs []error
	errs = append(errs, s.kill())
	if s.exited != nil {
		select {
		case <-s.exited:
			if s.first != nil {
				_ = s.first.Release()
			}
		case <-time.After(10 * time.Second):
			errs = append(errs, errors.New("its first process does not end"))
		}
	}
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
	if s.group != nil {
		errs = append(errs, s.group.Remove())
	}
	errs = append(errs, s.litter.remove(s.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", s.id, err)
	}
	return nil
}
