package boot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Container is a Debian that systemd-nspawn has booted. It has a network of
// its own without a way out, and nothing that is written in it stays.
type Container struct {
	nspawn  *exec.Cmd
	exited  chan struct{}
	console lines
	leader  int // the container's process 1, as seen from outside
	cgroups []string
}

// begin runs in mount namespace of its own, so that whatever it mounts goes
// when the container does. Arguments: an empty directory, the root, then control
// groups, "--", and the command.
const begin = `
set -e
mount -t tmpfs -o mode=755 tmpfs /run     # nspawn's own files
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
shift 2
while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
shift
exec "$@"
`

// controllers are those that csbd needs, as version 1 names their hierarchies.
var controllers = []string{"memory", "pids", "cpu", "cpuacct", "name=systemd"}

// StartContainer boots a root that nobody else changes, and returns when
// systemd says that it is up. cache is where Root was made; shared are files
// and directories to show inside, read-only, by where they are to be.
func StartContainer(ctx context.Context, cache, root string, shared map[string]string) (_ *Container, err error) {
	c := &Container{exited: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("boot a container: %w", err), c.Stop())
		}
	}()
	empty := filepath.Join(cache, "mount")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return nil, err
	}
	if err := c.makeCgroups(); err != nil {
		return nil, err
	}
	// Abstract: there is no file to be removed.
	notices, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: fmt.Sprintf("@csb-boot-%d-%d", os.Getpid(), time.Now().UnixNano()), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer notices.Close()

	args := []string{"--mount", "--propagation", "private", "--", "/bin/sh", "-c", begin, "sh", empty, root}
	args = append(args, c.cgroups...)
	args = append(args, "--", "systemd-nspawn", "--register=no", "--keep-unit", "--boot", "--notify-ready=yes", "--settings=no",
		"--machine=csb-boot", "--directory="+filepath.Join(empty, "root"), "--private-network", "--console=pipe",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no")
	for to, from := range shared {
		args = append(args, "--bind-ro="+from+":"+to)
	}
	c.nspawn = exec.Command("unshare", args...)
	c.nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET="+notices.LocalAddr().String())
	c.nspawn.Stdout, c.nspawn.Stderr = &c.console, &c.console
	c.nspawn.SysProcAttr = diesWithUs
	if err := c.nspawn.Start(); err != nil {
		c.nspawn = nil
		return nil, err
	}
	go func() {
		_ = c.nspawn.Wait() // how a container ends says nothing
		close(c.exited)
	}()
	if err := c.waitUntilUp(ctx, notices); err != nil {
		return nil, fmt.Errorf("%w; console:\n%s", err, c.console.String())
	}
	if err := c.openCgroups(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// waitUntilUp reads what nspawn tells a service manager.
func (c *Container) waitUntilUp(ctx context.Context, notices *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { _ = notices.SetReadDeadline(time.Now()) })
	defer stop()
	go func() {
		<-c.exited
		_ = notices.SetReadDeadline(time.Now())
	}()
	buffer := make([]byte, 4096)
	for ready := false; !ready || c.leader == 0; {
		n, err := notices.Read(buffer)
		if err != nil {
			return errors.Join(errors.New("systemd did not come up"), context.Cause(ctx))
		}
		for line := range strings.Lines(string(buffer[:n])) {
			line = strings.TrimSpace(line)
			ready = ready || line == "READY=1"
			if pid, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				if c.leader, err = strconv.Atoi(pid); err != nil {
					return fmt.Errorf("nspawn's notice %q: %w", line, err)
				}
			}
		}
	}
	return nil
}

// makeCgroups makes a control group for the container in each hierarchy, which
// will be the root of those that it sees.
func (c *Container) makeCgroups() error {
	mounts, err := cgroupMounts("self")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		dir := filepath.Join(m.path, fmt.Sprintf("csb-boot-%d", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		c.cgroups = append(c.cgroups, dir)
	}
	return nil
}

// openCgroups gives systemd inside the controllers of version 1, which nspawn
// mounts read-only. With version 2 they are writable.
func (c *Container) openCgroups(ctx context.Context) error {
	mounts, err := cgroupMounts(strconv.Itoa(c.leader))
	if err != nil {
		return err
	}
	changed := false
	for _, m := range mounts {
		if !m.readOnly {
			continue
		}
		changed = true
		if out, err := c.Enter(ctx, "mount", "-o", "remount,bind,rw", m.path).CombinedOutput(); err != nil {
			return fmt.Errorf("make %s writable: %w: %s", m.path, err, out)
		}
	}
	if !changed {
		return nil
	}
	// It looks for controllers once.
	if out, err := c.Enter(ctx, "systemctl", "daemon-reexec").CombinedOutput(); err != nil {
		return fmt.Errorf("execute systemd again: %w: %s", err, out)
	}
	return nil
}

type cgroupMount struct {
	path     string
	readOnly bool
}

// cgroupMounts lists the hierarchies that csbd or systemd need, as a process
// sees them.
func cgroupMounts(pid string) ([]cgroupMount, error) {
	f, err := os.Open("/proc/" + pid + "/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []cgroupMount
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 {
			continue
		}
		options := strings.Split(fields[3], ",")
		needed := fields[2] == "cgroup2" ||
			fields[2] == "cgroup" && slices.ContainsFunc(controllers, func(name string) bool { return slices.Contains(options, name) })
		if needed {
			found = append(found, cgroupMount{path: fields[1], readOnly: slices.Contains(options, "ro")})
		}
	}
	return found, s.Err()
}

// Enter is a command inside, by root, outside of systemd's sight.
func (c *Container) Enter(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(c.leader), "--all", "--wd=/", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, args...)...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// As is a command that systemd starts inside, in a control group of its own, as
// a user with the groups that the user database gives it.
func (c *Container) As(ctx context.Context, user string, args ...string) *exec.Cmd {
	return c.Enter(ctx, append([]string{"systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--uid=" + user, "--"}, args...)...)
}

// Path is where a file of the container is found from outside.
func (c *Container) Path(path string) string {
	return filepath.Join("/proc", strconv.Itoa(c.leader), "root", path)
}

// Console is what was written to the container's console.
func (c *Container) Console() string { return c.console.String() }

// poweroff is the signal that has systemd do what `systemctl poweroff` does.
const poweroff = syscall.Signal(34 + 4) // SIGRTMIN+4

// Stop shuts the container down, or kills it when that takes more than half a
// minute, and removes its control groups. Nothing else is left of it.
func (c *Container) Stop() error {
	var errs []error
	if c.nspawn != nil {
		if c.leader != 0 {
			_ = unix.Kill(c.leader, poweroff)
			select {
			case <-c.exited:
			case <-time.After(30 * time.Second):
				errs = append(errs, errors.New("the container did not power off"))
			}
		}
		_ = c.nspawn.Process.Kill() // and the kernel its process 1, and with it all the others
		<-c.exited
	}
	for _, dir := range c.cgroups {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// removeTree removes a control group with all below it. Processes that are
// killed take a moment to leave.
func removeTree(dir string) error {
	var err error
	for range 100 {
		var dirs []string
		err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			err = errors.Join(err, unix.Rmdir(d))
		}
		if err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}

// lines is a console: written by one, read by another.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
