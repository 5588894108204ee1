// Package spawner starts processes in namespaces that were prepared once.
//
// Most of what it costs to start a sandbox with runsc is preparing the place:
// a user, mount, network, IPC and UTS namespace, a root with nothing in it, no
// capabilities. All sandboxes need the same place, and processes without any
// privilege in it cannot change it. So one process, the spawner, prepares it
// and forks each sentry in there, in a PID namespace and under a user of its
// own.
//
// The spawner runs in a user namespace of its own: it has no privilege on the
// host, and when it ends, which it does with csbd, the kernel ends everything
// that it started.
//
// Only root can map users to others. A spawner of an ordinary user's csbd has
// that user alone, as whom every sentry runs; see docs/decisions/0012-user-mode.md.
package spawner

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/pkg/urpc"
)

const (
	// BaseUID is the first of MaxUsers host user and group IDs under which
	// sentries run. It lies in a range that systemd reserves for nobody
	// (https://systemd.io/UIDS-GIDS/: 1879048192 to 2147483647 are unused).
	BaseUID = 1_900_000_000
	// MaxUsers bounds the number of processes at a time.
	MaxUsers = 65535
	// OOMScoreAdjust of the spawner, and so of all that it starts, whatever
	// csbd's own is (proc(5)).
	OOMScoreAdjust = 500
)

// Options say where and how a Spawner runs.
type Options struct {
	// Binary is the program that is both the spawner (its main has to call Serve
	// when its first argument is "spawn") and what it spawns.
	Binary string
	// Dir is an existing directory, on which the spawner mounts its root where
	// nobody else sees it.
	Dir string
	// Home are the files of the cgroups of this process to which a thread ID is
	// written to move a thread there, on cgroup version 1.
	Home []string
	// Log gets what the spawner writes to its standard error.
	Log *slog.Logger
}

// A Spawner starts processes.
type Spawner struct {
	cmd    *exec.Cmd
	client *urpc.Client
	ended  chan struct{}
	single bool // all that it starts runs as the user of this process

	mu   sync.Mutex
	used [MaxUsers + 1]bool
	last int
}

// Start starts a spawner. Its life is tied to the calling process's.
func Start(o Options) (*Spawner, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	config, err := json.Marshal(config{Binary: o.Binary, Dir: o.Dir, Homes: len(o.Home)})
	if err != nil {
		ours.Close()
		return nil, err
	}
	cmd := exec.Command(o.Binary, "spawn", string(config))
	cmd.Args[0] = "csbd-spawner"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{theirs}
	for _, name := range o.Home {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			ours.Close()
			return nil, err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	words := &words{log: o.Log}
	cmd.Stderr = words
	s := &Spawner{cmd: cmd, ended: make(chan struct{}), single: os.Geteuid() != 0}
	users, groups, setgroups := ids()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:    true,
		Pdeathsig: syscall.SIGKILL,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings: users, GidMappings: groups, GidMappingsEnableSetgroups: setgroups,
	}
	started := make(chan error, 1)
	go s.live(started)
	err = <-started
	theirs.Close() // or the spawner's end would not end the conversation
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start spawner: %w", explain(err))
	}
	// As runsc does: gVisor's memory file locks pages for a moment to fault many
	// in at a time. It can do without, and we may not be allowed to.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_MEMLOCK, &unlimited, nil)
	// When the host runs out of memory, programs go before csbd and other
	// services. Where this cannot be written the kernel chooses.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(strconv.Itoa(OOMScoreAdjust)), 0)
	if s.client, err = client(ours); err != nil {
		_ = s.stop()
		return nil, fmt.Errorf("start spawner: %w", err)
	}
	if err := s.client.Call("Service.Ping", &struct{}{}, nil); err != nil {
		_ = s.Close()
		return nil, explain(fmt.Errorf("start spawner: %w; it said %q", err, words.last))
	}
	return s, nil
}

// words is the spawner's standard error: why it could not start, or a panic.
type words struct {
	log  *slog.Logger
	last []byte // valid when the spawner has ended
}

// Write implements io.Writer.
func (w *words) Write(p []byte) (int, error) {
	w.log.Error("the spawner of sandboxes says", "text", string(p))
	w.last = append(w.last, p...)
	w.last = w.last[max(0, len(w.last)-2000):]
	return len(p), nil
}

// live starts the spawner and waits for its end, on one thread: the signal at
// the parent's death comes when the thread that forked ends.
func (s *Spawner) live(started chan<- error) {
	runtime.LockOSThread()
	err := s.cmd.Start()
	started <- err
	if err == nil {
		_ = s.cmd.Wait()
	}
	close(s.ended)
	runtime.UnlockOSThread()
}

// Ended is closed when the spawner has ended, and with it all it has started.
func (s *Spawner) Ended() <-chan struct{} { return s.ended }

// Close kills the spawner and everything that it has started.
func (s *Spawner) Close() error {
	s.client.Close()
	return s.stop()
}

func (s *Spawner) stop() error {
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return nil
}

// A Process is what to start: the spawner's own binary with other arguments.
type Process struct {
	Args []string
	Env  []string
	// Files become descriptors 3 and up. Descriptors 0 and 1 are /dev/null.
	Files []*os.File
	// Stderr becomes descriptor 2; /dev/null when nil.
	Stderr *os.File
	// Cgroup are files of the process's cgroup that Home would name, on version
	// 1, or its directory, on version 2.
	Cgroup []*os.File
	// CgroupV2 says which.
	CgroupV2 bool
}

// A Child is a process that was started.
type Child struct {
	pid    int
	status *os.File
	done   func()
}

// Spawn starts a process. It is killed when the spawner ends.
func (s *Spawner) Spawn(p Process) (*Child, error) {
	uid, err := s.take()
	if err != nil {
		return nil, err
	}
	status, theirs, err := os.Pipe()
	if err != nil {
		s.give(uid)
		return nil, err
	}
	defer theirs.Close()
	args := &SpawnArgs{Args: p.Args, Env: p.Env, User: uid, Stderr: p.Stderr != nil, Cgroups: len(p.Cgroup), CgroupV2: p.CgroupV2}
	args.Files = append(args.Files, theirs)
	args.Files = append(args.Files, p.Cgroup...)
	if p.Stderr != nil {
		args.Files = append(args.Files, p.Stderr)
	}
	args.Files = append(args.Files, p.Files...)
	var reply SpawnReply
	if err := s.client.Call("Service.Spawn", args, &reply); err != nil {
		status.Close()
		s.give(uid)
		return nil, fmt.Errorf("spawn: %w", err)
	}
	return &Child{pid: reply.Pid, status: status, done: func() { s.give(uid) }}, nil
}

// take reserves a user ID that no living process has. It goes round, so that
// an ID rests before it is used again. 0 is the spawner's own, where there is
// no other.
func (s *Spawner) take() (int, error) {
	if s.single {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range MaxUsers {
		s.last = s.last%MaxUsers + 1
		if !s.used[s.last] {
			s.used[s.last] = true
			return s.last, nil
		}
	}
	return 0, errors.New("spawn: no free user ID")
}

func (s *Spawner) give(uid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[uid] = false
}

// Wait waits for the end of the process. It must be called, once.
func (c *Child) Wait() (syscall.WaitStatus, error) {
	defer c.done()
	defer c.status.Close()
	var b [4]byte
	if _, err := io.ReadFull(c.status, b[:]); err != nil {
		return 0, errors.New("the spawner has ended")
	}
	return syscall.WaitStatus(binary.LittleEndian.Uint32(b[:])), nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "spawner"), os.NewFile(uintptr(fds[1]), "spawner"), nil
}

func client(f *os.File) (*urpc.Client, error) {
	conn, err := socket(f)
	if err != nil {
		return nil, err
	}
	return urpc.NewClient(conn), nil
}

// socket takes f over.
func socket(f *os.File) (*unet.Socket, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	conn, err := unet.NewSocket(fd)
	if err != nil {
		unix.Close(fd)
	}
	return conn, err
}

// config is what the spawner is told at its start. Descriptor 3 is its socket,
// 4 and up are the homes.
type config struct {
	Binary string `json:"binary"`
	Dir    string `json:"dir"`
	Homes  int    `json:"homes"`
}

// Serve is the main function of the spawner process. It returns when its
// client is gone, or an error.
func Serve(arg string) error {
	var c config
	if err := json.Unmarshal([]byte(arg), &c); err != nil {
		return err
	}
	// Everything that is about one thread is about the one that forks: this one,
	// the process's first, which ends with it.
	runtime.LockOSThread()
	service := &Service{service{orders: make(chan func())}}
	var err error
	if service.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	for i := range c.Homes {
		service.homes = append(service.homes, os.NewFile(uintptr(4+i), "tasks"))
	}
	if err := enterJail(c.Dir, c.Binary); err != nil {
		return fmt.Errorf("prepare root: %w", err)
	}
	if err := giveUp(); err != nil {
		return fmt.Errorf("give privileges up: %w", err)
	}
	conn, err := socket(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	server := urpc.NewServer()
	server.Register(service)
	go func() {
		_ = server.Handle(conn)
		close(service.orders)
	}()
	for order := range service.orders {
		order()
	}
	return nil
}

// binaryPath is where a spawned process finds its binary.
const binaryPath = "/sentry"

// enterJail makes a read-only root with the binary and the few files that a
// sentry reads, and nothing else, the root of this process.
func enterJail(dir, binary string) error {
	// Sentries are other users than this process: what they read must not depend
	// on csbd's mask, which is strict where systemd has set it.
	defer unix.Umask(unix.Umask(0))
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("csbd", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,mode=755"); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	files := map[string][]byte{
		binaryPath: nil,
		// systrap looks for a free address for its stub, and takes a kernel page
		// for the sign that it has read to the end.
		"/proc/self/maps": []byte("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"),
	}
	for _, name := range []string{"/proc/cpuinfo", "/proc/sys/vm/mmap_min_addr", "/proc/sys/kernel/cap_last_cap"} {
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files[name] = content
	}
	for name, content := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o444); err != nil {
			return err
		}
	}
	target := filepath.Join(dir, binaryPath)
	if err := unix.Mount(binary, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", binary, err)
	}
	const sealed = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	for name, flags := range map[string]uintptr{target: sealed, dir: sealed | unix.MS_NOEXEC} {
		if err := unix.Mount("", name, "", flags, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	return unix.Chdir("/")
}

// giveUp takes away from this thread, and from what it forks, the means to
// gain anything by executing a file.
func giveUp() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > 0 {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// Service is what the spawner serves to its parent, by urpc.
type Service struct{ service }

// service has what urpc must not take for methods of the Service.
type service struct {
	orders chan func() // for the thread that forks
	null   *os.File
	homes  []*os.File
}

// Ping says that the spawner is ready.
func (s *Service) Ping(*struct{}, *struct{}) error { return nil }

// SpawnArgs are the arguments of Spawn. The files are, in this order: where to
// write the wait status; the cgroup's; standard error, if any; the process's.
type SpawnArgs struct {
	urpc.FilePayload
	Args, Env []string
	User      int // 0: as the spawner
	Stderr    bool
	Cgroups   int
	CgroupV2  bool
}

// A SpawnReply says which process it is, in the PID namespace of the spawner.
type SpawnReply struct{ Pid int }

// Spawn starts a process.
func (s *Service) Spawn(args *SpawnArgs, reply *SpawnReply) error {
	if len(args.Files) < 1+args.Cgroups {
		return errors.New("too few descriptors")
	}
	// urpc closes the files when this function returns.
	fd, err := unix.FcntlInt(args.Files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	status, files := os.NewFile(uintptr(fd), "status"), args.Files[1:]
	groups, files := files[:args.Cgroups], files[args.Cgroups:]
	cmd := &exec.Cmd{Path: binaryPath, Args: args.Args, Env: args.Env, Dir: "/", Stdin: s.null, Stdout: s.null, Stderr: s.null}
	if args.Stderr {
		cmd.Stderr, files = files[0], files[1:]
	}
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWPID}
	if id := uint32(args.User); id != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: id, Gid: id}
	} else {
		// What is shared by name belongs to a user, and here all have the same.
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWIPC
	}
	done := make(chan error, 1)
	s.orders <- func() { done <- s.start(cmd, groups, args.CgroupV2) }
	if err := <-done; err != nil {
		status.Close()
		return err
	}
	reply.Pid = cmd.Process.Pid
	go func() {
		defer status.Close()
		_ = cmd.Wait()
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(cmd.ProcessState.Sys().(syscall.WaitStatus)))
		_, _ = status.Write(b[:])
	}()
	return nil
}

// start forks on the thread that it runs on, inside the given cgroups.
func (s *service) start(cmd *exec.Cmd, groups []*os.File, v2 bool) error {
	// A child inherits what it is meant to and nothing else. urpc's descriptors
	// are not marked when they arrive; none arrives while this runs, because the
	// next message is read after the reply to this one.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors: %w", err)
	}
	if v2 {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(groups[0].Fd())
		return cmd.Start()
	}
	defer func() {
		for _, home := range s.homes {
			if _, err := home.WriteAt([]byte("0"), 0); err != nil {
				// Staying would put the next child into this group.
				panic(fmt.Sprintf("return to own cgroup: %v", err))
			}
		}
	}()
	for _, group := range groups {
		if _, err := group.WriteAt([]byte("0"), 0); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return cmd.Start()
}
