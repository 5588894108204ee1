package runsc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/pkg/urpc"

	"github.com/fcarli/codesandbox/isolation/runsc/spawner"
)

// bootAttempts bounds how often a sentry is started that dies before it is up.
const bootAttempts = 3

// direct starts sentries without runsc's command line: it does what `runsc
// run` and `runsc restore` do, with a spawner that has prepared the
// namespaces, and speaks to the sentry's control server itself. The flags and
// messages are gVisor's own and belong to one version of it: see
// TestAssumptions.
type direct struct {
	runtime *Runtime
	dir     string // of the spawner

	mu      sync.Mutex
	spawner *spawner.Spawner
}

// running returns the spawner, and starts one if there is none or if it died.
func (d *direct) running() (*spawner.Spawner, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spawner != nil {
		select {
		case <-d.spawner.Ended():
			d.runtime.log.Error("the spawner of sandboxes has ended and is started anew")
			_ = d.spawner.Close()
			d.spawner = nil
		default:
			return d.spawner, nil
		}
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	d.spawner, err = spawner.Start(spawner.Options{Binary: d.runtime.binary, Dir: d.dir, Home: d.runtime.cgroups.Homes(), Log: d.runtime.log})
	return d.spawner, err
}

func (d *direct) open() error {
	_, err := d.running()
	if err != nil {
		if os.Geteuid() == 0 {
			err = fmt.Errorf("%w (CSBD_LAUNCHER=stock does without)", err)
		}
		return fmt.Errorf("prepare namespaces for sandboxes: %w", err)
	}
	return nil
}

func (d *direct) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.spawner == nil {
		return nil
	}
	err := d.spawner.Close()
	d.spawner = nil
	return err
}

// start starts the sandbox's sentry and has it run the container, from a
// snapshot if there is one.
func (d *direct) start(ctx context.Context, s *sandbox, stdio [3]*os.File, snapshot string) error {
	var err error
	for range bootAttempts {
		var died bool
		died, err = d.try(ctx, s, stdio, snapshot)
		if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
			// The sentry was killed for it while it was being talked to.
			return fmt.Errorf("%w: %w", cause, err)
		}
		if !died || ctx.Err() != nil {
			return err
		}
		d.runtime.log.Warn("a sentry died while it started", "sandbox", s.id, "error", err)
	}
	return fmt.Errorf("%d attempts: %w", bootAttempts, err)
}

// try is one attempt. died says that the sentry never came up, so that another
// attempt makes sense.
func (d *direct) try(ctx context.Context, s *sandbox, stdio [3]*os.File, snapshot string) (died bool, err error) {
	sp, err := d.running()
	if err != nil {
		return false, err
	}
	var b bundle
	defer b.close()
	if err := b.open(s, stdio, snapshot, d.runtime.flags("/")); err != nil {
		return false, err
	}
	group, v2, err := s.group.Files()
	if err != nil {
		return false, err
	}
	child, err := sp.Spawn(spawner.Process{Args: b.args, Env: sentryEnvironment, Files: b.files, Stderr: b.log, Cgroup: group, CgroupV2: v2})
	for _, f := range group {
		f.Close()
	}
	if err != nil {
		return hasEnded(sp), err
	}
	b.closeTheirs()
	s.await(child.Wait)
	s.reached("spawned")
	if err := b.waitUp(ctx); err != nil {
		_ = s.kill()
		<-s.exited
		return ctx.Err() == nil, fmt.Errorf("%w; it said %q", err, b.said())
	}
	s.reached("up")
	conn, pid, err := connect(s.dir)
	if err != nil {
		return false, orCause(ctx, err)
	}
	defer conn.Close()
	// It answers from now on, so this is it and no later process of that number.
	if s.first, err = os.FindProcess(pid); err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.kill() })
	defer stop()
	if err := conn.Call(methodNetwork, network{LoopbackLinks: loopback, IsRestore: snapshot != ""}, nil); err != nil {
		return false, fmt.Errorf("set network: %w", orCause(ctx, err))
	}
	if snapshot == "" {
		err = conn.Call(methodStart, &s.id, nil)
	} else {
		err = conn.Call(methodRestore, &restoreOpts{FilePayload: urpc.FilePayload{Files: []*os.File{b.socket}}, UseCheckpointGofer: true}, nil)
	}
	if err != nil {
		return false, fmt.Errorf("start container: %w; it said %q", orCause(ctx, err), b.said())
	}
	s.reached("running")
	return false, nil
}

// orCause is err, or why ctx has ended: then it is us who broke the
// conversation off.
func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// hasEnded says whether it is the spawner's end that made a conversation with
// it fail.
func hasEnded(sp *spawner.Spawner) bool {
	select {
	case <-sp.Ended():
		return true
	case <-time.After(time.Second):
		return false
	}
}

// sentryEnvironment of every sentry.
var sentryEnvironment = []string{}

const controlSocket = "control"

// snapshotFiles are the files of a snapshot in the order in which the sentry's
// program takes them.
var snapshotFiles = []string{"checkpoint.img", "pages_meta.img", "pages.img"}

// A bundle is what a sentry is given, as descriptors and arguments.
type bundle struct {
	args   []string
	files  []*os.File
	log    *os.File // the sentry's standard error
	up     *os.File // readable when the sentry is up
	socket *os.File // of the page server

	theirs, ours []*os.File
}

// give passes f on and returns the number it will have.
func (b *bundle) give(f *os.File) string {
	b.files = append(b.files, f)
	return strconv.Itoa(2 + len(b.files))
}

// their files are closed when the sentry has them, or never had.
func (b *bundle) their(f *os.File) *os.File {
	b.theirs = append(b.theirs, f)
	return f
}

func (b *bundle) our(f *os.File) *os.File {
	b.ours = append(b.ours, f)
	return f
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (b *bundle) closeTheirs() { closeFiles(b.theirs); b.theirs = nil }

func (b *bundle) close() { b.closeTheirs(); closeFiles(b.ours) }

func (b *bundle) open(s *sandbox, stdio [3]*os.File, snapshot string, flags []string) error {
	up, theirUp, err := os.Pipe()
	if err != nil {
		return err
	}
	b.up = b.our(up)
	b.their(theirUp)
	if b.log, err = memfile("log", nil); err != nil {
		return err
	}
	b.our(b.log)
	image, err := os.Open(s.class.Image)
	if err != nil {
		return err
	}
	b.their(image)
	config, err := memfile("config.json", s.config)
	if err != nil {
		return err
	}
	b.their(config)
	control, err := listener(filepath.Join(s.dir, controlSocket))
	if err != nil {
		return err
	}
	b.their(control)

	b.args = []string{"runsc-sandbox"}
	if snapshot != "" {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		b.socket = b.our(os.NewFile(uintptr(fds[0]), "pages"))
		b.args = append(b.args, "restore", b.give(b.their(os.NewFile(uintptr(fds[1]), "pages"))))
		for _, name := range snapshotFiles {
			f, err := os.Open(filepath.Join(snapshot, name))
			if err != nil {
				return err
			}
			b.args = append(b.args, b.give(b.their(f)))
		}
	}
	b.args = append(append(b.args, flags...), "boot",
		"--bundle=/",
		"--attached",
		"--gofer-mount-confs=erofs:none",
		"--io-fds="+b.give(image),
		"--start-sync-fd="+b.give(theirUp),
		"--controller-fd="+b.give(control),
		"--spec-fd="+b.give(config),
		"--stdio-fds="+b.give(stdio[0]),
		"--stdio-fds="+b.give(stdio[1]),
		"--stdio-fds="+b.give(stdio[2]),
		"--cpu-num="+strconv.Itoa(guestCPUs(s.class.Ceiling.CPUs)),
		"--total-memory="+strconv.FormatInt(s.class.Ceiling.Memory, 10),
		"--total-host-memory="+strconv.FormatInt(s.class.Ceiling.Memory, 10),
		"--product-name=csbd",
		"--host-thp-shmem-enabled=never",
		"--host-thp-defrag=never",
		s.id)
	return nil
}

// guestCPUs is the number of processors that the guest sees. One and a half
// are two: a program would rather have a thread too many than a processor idle.
func guestCPUs(cpus float64) int {
	n := int(cpus)
	if float64(n) < cpus {
		n++
	}
	return max(n, 1)
}

// waitUp waits until the sentry's control server is there.
func (b *bundle) waitUp(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = b.up.SetReadDeadline(time.Now()) })
	defer stop()
	if n, err := b.up.Read(make([]byte, 1)); n != 1 {
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the sentry: %w", context.Cause(ctx))
		}
		return fmt.Errorf("the sentry died while it started: %w", err)
	}
	return nil
}

// said is what the sentry wrote to its standard error.
func (b *bundle) said() []byte {
	text := make([]byte, 2000)
	n, _ := b.log.ReadAt(text, 0)
	return bytes.TrimRight(text[:n], "\x00")
}

// memfile makes a file without a name. Its size is bounded by what is written
// into it here, or by a page or so of last words.
func memfile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	seals := unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if content == nil {
		err = f.Truncate(16 << 10)
	} else {
		seals |= unix.F_SEAL_WRITE
		_, err = f.Write(content)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("prepare %s: %w", name, err)
	}
	return f, nil
}

// listener returns a socket that is bound to the path, for the sentry to
// listen on.
func listener(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		f.Close()
		return nil, err
	}
	err = shortened(path, func(path string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: path}) })
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("bind control socket: %w", err)
	}
	return f, nil
}

// shortened calls f with a path that is short enough for a socket.
func shortened(path string, f func(string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// connect returns a connection to the control server of the sandbox in dir, and
// the server's process.
func connect(dir string) (_ *urpc.Client, pid int, err error) {
	var conn *unet.Socket
	err = shortened(filepath.Join(dir, controlSocket), func(path string) (err error) {
		conn, err = unet.Connect(path, false)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("connect to the sentry: %w", err)
	}
	peer, err := unix.GetsockoptUcred(conn.FD(), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		conn.Close()
		return nil, 0, fmt.Errorf("identify the sentry: %w", err)
	}
	return urpc.NewClient(conn), int(peer.Pid), nil
}

// Methods of the control server.
const (
	methodNetwork    = "containerManager.SetNetworkArgs"
	methodStart      = "containerManager.StartRoot"
	methodRestore    = "containerManager.Restore"
	methodCheckpoint = "containerManager.Checkpoint"
)

// uncompressed is the metadata that asks for a snapshot without compression.
var uncompressed = map[string]string{"compression": "none"}

// The arguments of the control server's methods, as far as they are used:
// runsc/boot has the originals, which would link all of gVisor into csbd.

type network struct {
	LoopbackLinks []link
	IsRestore     bool
}

type link struct {
	Name      string
	Addresses []address
	Routes    []route
}

type address struct {
	Address   net.IP
	PrefixLen int
}

type route struct{ Destination net.IPNet }

// loopback is the only network of a guest.
var loopback = []link{{
	Name: "lo",
	Addresses: []address{
		{net.IPv4(127, 0, 0, 1).To4(), 8},
		{net.IPv6loopback, 128},
	},
	Routes: []route{
		{net.IPNet{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}},
		{net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}},
	},
}}

type restoreOpts struct {
	urpc.FilePayload
	HavePagesFile      bool
	HaveDeviceFile     bool
	Background         bool
	UseCheckpointGofer bool `json:"use_checkpoint_gofer"`
}

type saveOpts struct {
	urpc.FilePayload
	Metadata      map[string]string `json:"metadata"`
	HavePagesFile bool              `json:"have_pages_file"`
}

// checkpoint saves the sandbox's state into dir and so ends it.
func (d *direct) checkpoint(ctx context.Context, s *sandbox, dir string) error {
	conn, _, err := connect(s.dir)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = s.kill() })
	defer stop()
	opts := &saveOpts{Metadata: uncompressed, HavePagesFile: true}
	defer func() { closeFiles(opts.Files) }()
	for _, name := range snapshotFiles {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		opts.Files = append(opts.Files, f)
	}
	if err := conn.Call(methodCheckpoint, opts, nil); err != nil {
		// Behind its first line stands a stack of the sentry's.
		reason, _, _ := strings.Cut(err.Error(), "\n")
		return errors.New(strings.TrimSuffix(reason, ":"))
	}
	return nil
}
