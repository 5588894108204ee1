// Package servertest starts real csbd processes, with real sandboxes, for the
// tests of the socket and of the two commands. Its client shares no code with
// the project: tests that use it see what any other program would see.
package servertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
)

// Policy is what a Daemon gets unless the test says otherwise.
const Policy = `version: 1
profiles:
  default:
    environment: [LANG, TZ, GREETING]
rules:
  - {user: "0", profile: default}
`

// Options say how a Daemon differs from the usual one.
type Options struct {
	// Policy is the text of the policy file; empty means the constant.
	Policy string
	// Env is added to the environment, as "CSBD_LOG_LEVEL=debug".
	Env []string
	// NoImages gives csbd an empty image directory, so that it starts in no
	// time and can execute nothing.
	NoImages bool
	// Dir is the directory of an earlier Daemon, to succeed it.
	Dir string
	// Wrapper is a command that executes csbd, and that csbd's own path is
	// appended to.
	Wrapper []string
	// Foreign says that the socket is not csbd's own and stays when it ends.
	Foreign bool
	// Plain has csbd without the race detector, whose memory is not csbd's.
	Plain bool
	// Unready says that csbd need not come so far as to serve.
	Unready bool
}

// A Daemon is one csbd process.
type Daemon struct {
	// Dir holds everything that csbd has: the socket, the policy file, the
	// state directory and the log. Any user may enter it.
	Dir, Socket, PolicyFile, StateDir string
	// Pid of the process.
	Pid int

	options Options
	logFile string
	cmd     *exec.Cmd
	ended   chan struct{}
	stopped bool
}

// NeedRoot skips a test that cannot do its work; in CI nothing is skipped.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("sandboxes and control groups need root")
	}
}

// Dir makes a directory that any user may enter, with a path short enough for
// a socket below it (unix(7): 108 bytes), which t.TempDir's is not.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "csbd-t")
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, os.RemoveAll(dir)) })
	assert.NilError(t, os.Chmod(dir, 0o755))
	return dir
}

// Start starts csbd and waits until it serves. When the test is over it is
// told to stop, has to exit with status 0 and must leave nothing behind.
func Start(t testing.TB, o Options) *Daemon {
	t.Helper()
	NeedRoot(t)
	if o.Policy == "" {
		o.Policy = Policy
	}
	dir := o.Dir
	if dir == "" {
		dir = Dir(t)
	}
	d := &Daemon{
		Dir: dir, Socket: filepath.Join(dir, "csbd.sock"), PolicyFile: filepath.Join(dir, "policy.yaml"),
		StateDir: filepath.Join(dir, "state"), options: o, ended: make(chan struct{}),
	}
	assert.NilError(t, os.WriteFile(d.PolicyFile, []byte(o.Policy), 0o644))
	d.start(t)
	if !o.Unready {
		d.waitServing(t)
	}
	return d
}

func (d *Daemon) start(t testing.TB) {
	t.Helper()
	log, err := os.CreateTemp(d.Dir, "log")
	assert.NilError(t, err)
	defer log.Close()
	d.logFile = log.Name()
	command := append(slices.Clone(d.options.Wrapper), build(t, "csbd", raceEnabled() && !d.options.Plain))
	d.cmd = exec.Command(command[0], command[1:]...)
	d.cmd.Env = d.Environment(t)
	d.cmd.Dir = d.Dir
	d.cmd.Stderr = log
	// A test binary that dies takes csbd with it.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	assert.NilError(t, d.cmd.Start())
	d.Pid = d.cmd.Process.Pid
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		d.Stop(t)
		if t.Failed() {
			t.Logf("csbd's log:\n%s", tail(d.Log(), 6000))
		}
	})
}

// Environment is csbd's: nothing of the test's own but PATH.
func (d *Daemon) Environment(t testing.TB) []string {
	t.Helper()
	store := imagetest.Store().Dir
	if d.options.NoImages {
		store = filepath.Join(d.Dir, "images")
	} else {
		imagetest.Python(t)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"CSBD_SOCKET=" + d.Socket,
		"CSBD_POLICY=" + d.PolicyFile,
		"CSBD_STATE_DIR=" + d.StateDir,
		"CSBD_IMAGE_DIR=" + store,
		"CSBD_SHIPPED_IMAGES=", // of csbd's packages, if they are installed here
		"CSBD_RUNSC=" + imagetest.Runsc(t),
		"CSBD_SENTRY=" + imagetest.Sentry(t),
		"CSBD_LOG_FORMAT=json",
	}
	// On cgroup version 2 a test's own cgroup cannot have limited children.
	if base := os.Getenv("CSBD_CGROUP"); base != "" {
		env = append(env, "CSBD_CGROUP="+base)
	}
	return append(env, d.options.Env...)
}

func (d *Daemon) waitServing(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if log := d.Log(); strings.Contains(log, `"msg":"serving"`) || strings.Contains(log, "msg=serving") {
			return
		}
		select {
		case <-d.ended:
			t.Fatalf("csbd ended with %v before it served:\n%s", d.cmd.ProcessState, d.Log())
		default:
		}
		assert.Assert(t, time.Now().Before(deadline), "csbd does not serve:\n%s", d.Log())
	}
}

// Signal sends a signal to csbd.
func (d *Daemon) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	assert.NilError(t, d.cmd.Process.Signal(s))
}

// Wait waits for the end of csbd and returns its exit status, -1 for a signal.
func (d *Daemon) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		_ = d.cmd.Process.Kill()
		t.Fatalf("csbd does not end:\n%s", d.Log())
	}
	return d.cmd.ProcessState.ExitCode()
}

// Ended says whether csbd has ended by itself.
func (d *Daemon) Ended() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// Stop stops csbd as systemd would and looks for what it has left.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	if d.stopped {
		return
	}
	d.stopped = true
	if !d.Ended() {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
	}
	code := d.Wait(t)
	if !d.options.Unready {
		assert.Check(t, code == 0, "csbd ended with %v", d.cmd.ProcessState)
	}
	d.NothingLeft(t)
}

// Kill kills csbd as a crash would: what it leaves stays.
func (d *Daemon) Kill(t testing.TB) {
	t.Helper()
	d.stopped = true
	assert.NilError(t, d.cmd.Process.Kill())
	d.Wait(t)
}

// Log is what csbd has written to its log so far.
func (d *Daemon) Log() string {
	data, _ := os.ReadFile(d.logFile)
	return string(data)
}

// WaitLog waits until the log holds the text.
func (d *Daemon) WaitLog(t testing.TB, text string) {
	t.Helper()
	d.Eventually(t, fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(d.Log(), text) })
}

// Lines are the lines of the log that have the message.
func (d *Daemon) Lines(t testing.TB, message string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(d.Log()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == message {
			lines = append(lines, fields)
		}
	}
	return lines
}

// Eventually waits until ok returns true.
func (d *Daemon) Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		assert.Assert(t, time.Now().Before(deadline), "waited too long for %s; csbd's log:\n%s", what, tail(d.Log(), 6000))
	}
}

// Sandboxes counts the sandboxes that have a directory at the moment.
func (d *Daemon) Sandboxes() int {
	entries, _ := os.ReadDir(filepath.Join(d.StateDir, "sandboxes"))
	return len(entries)
}

// WaitNoSandbox waits until every sandbox has been removed.
func (d *Daemon) WaitNoSandbox(t testing.TB) {
	t.Helper()
	d.Eventually(t, "the removal of the sandboxes", func() bool { return d.Sandboxes() == 0 })
}

// Occupy is Python that a test puts before a long sleep, to know when the
// program has come that far: see WaitOccupied.
const Occupy = "_ = b'x' * (120 << 20)\n"

// WaitOccupied waits until n sandboxes use as much memory as Occupy makes them.
func (d *Daemon) WaitOccupied(t testing.TB, n int) {
	t.Helper()
	d.Eventually(t, fmt.Sprintf("%d running programs", n), func() bool {
		using := 0
		for _, dir := range d.Cgroups() {
			for _, name := range []string{"memory.usage_in_bytes", "memory.current"} {
				files, _ := filepath.Glob(filepath.Join(dir, "*", name))
				for _, file := range files {
					data, _ := os.ReadFile(file)
					if bytes, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && bytes > 120<<20 {
						using++
					}
				}
			}
		}
		return using >= n
	})
}

// Cgroups lists csbd's control groups, in whichever hierarchy they are.
func (d *Daemon) Cgroups() []string {
	data, _ := os.ReadFile(filepath.Join(d.StateDir, "cgroups"))
	names := map[string]bool{}
	for _, dir := range strings.Fields(string(data)) {
		names[filepath.Base(dir)] = true
	}
	var found []string
	if len(names) == 0 {
		return nil
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && names[e.Name()] {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// Processes lists, as "PID: COMMAND LINE", the processes that csbd has started:
// those in its control groups, and those that name its directory.
func (d *Daemon) Processes() []string {
	ours := map[string]bool{}
	for _, dir := range d.Cgroups() {
		groups, _ := filepath.Glob(dir + "/*/cgroup.procs")
		for _, group := range groups {
			lines, _ := os.ReadFile(group)
			for _, pid := range strings.Fields(string(lines)) {
				ours[pid] = true
			}
		}
	}
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid := filepath.Base(filepath.Dir(file))
		line, err := os.ReadFile(file)
		if err == nil && (ours[pid] || bytes.Contains(line, []byte(d.StateDir))) {
			found = append(found, pid+": "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// Mounts lists the mounts below csbd's directory.
func (d *Daemon) Mounts() []string {
	var found []string
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], d.Dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found
}

// NothingLeft checks that nothing on this machine shows that csbd has run.
func (d *Daemon) NothingLeft(t testing.TB) {
	t.Helper()
	assert.Check(t, d.Sandboxes() == 0, "%d directories of sandboxes are left", d.Sandboxes())
	assert.Check(t, len(d.Cgroups()) == 0, "control groups are left: %q", d.Cgroups())
	assert.Check(t, len(d.Processes()) == 0, "processes are left: %q", d.Processes())
	assert.Check(t, len(d.Mounts()) == 0, "mounts are left: %q", d.Mounts())
	if _, err := os.Lstat(d.Socket); !d.options.Foreign && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

var building sync.Mutex

// Binary builds csbd or csbctl from the source as it is, with the race
// detector if the test has it, and returns its path.
func Binary(t testing.TB, name string) string {
	t.Helper()
	return build(t, name, raceEnabled())
}

// Plain is Binary as it is installed: static, and without the race detector.
func Plain(t testing.TB, name string) string {
	t.Helper()
	return build(t, name, false)
}

func build(t testing.TB, name string, race bool) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	flavour, flags := "plain", []string{"build"}
	if race {
		flavour, flags = "race", append(flags, "-race")
	}
	dir := filepath.Join(imagetest.Root(), "run", "test", flavour)
	path := filepath.Join(dir, name)
	if built[path] {
		return path
	}
	assert.NilError(t, os.MkdirAll(dir, 0o755))
	// Test binaries that run at the same time share the result, and none may
	// write what another executes.
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	assert.NilError(t, err)
	defer lock.Close()
	assert.NilError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	next := filepath.Join(dir, ".next-"+name)
	cmd := exec.Command("go", append(flags, "-o", next, "./cmd/"+name)...)
	cmd.Dir = imagetest.Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if race {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "build %s: %s", name, out)
	assert.NilError(t, os.Rename(next, path))
	built[path] = true
	return path
}

var built = map[string]bool{}

// raceEnabled says whether this test binary has the race detector.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
