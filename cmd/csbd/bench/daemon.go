package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/cmd/csbd/trial"
	"github.com/fcarli/codesandbox/rpc"
)

// A kind is one way to set csbd up.
type kind struct {
	name  string
	image string
	ready int // sandboxes kept ready; with 0 there is only the snapshot
}

// keptReady is how many sandboxes the pools of the measured daemons hold.
const keptReady = 4

var (
	kindPandas = kind{"pandas", imagePython, keptReady}
	kindBare   = kind{"bare", imageBare, keptReady}
	kindEmpty  = kind{"empty", imagePython, 0}
	kindRSS    = kind{"rss", imageBare, keptReady}
)

// policyText gives the user who runs the benchmark every size that is measured,
// and as many executions as the machine can do.
const policyText = `version: 1
profiles:
  default:
    images: [%[1]s]
    timeout: 60s
    cpu_time: 60s
    output: 16MiB
    request: {code: 8MiB, stdin: 16MiB, files: 32MiB}
    concurrency: 8
    queue: 1000
    rate: 1000000/min
rules:
  - {user: "*", profile: default}
pools:
  - {image: %[1]s, profile: default, ready: %[2]d, max: %[2]d}
`

// writePolicy writes the policy for csbd of a kind.
func writePolicy(file string, k kind) error {
	return os.WriteFile(file, fmt.Appendf(nil, policyText, k.image, k.ready), 0o600)
}

// A daemon is one running csbd, with a socket, state and policy of its own.
type daemon struct {
	kind
	launcher string // CSBD_LAUNCHER, or "" for csbd's default
	dir      string
	socket   string
	client   *rpc.Client // kept open, for what is measured on one connection
	process  *trial.Csbd
}

// daemon returns csbd of that kind and launcher, ready to be measured.
func (b *bench) daemon(ctx context.Context, k kind, launcher string) (*daemon, error) {
	for _, d := range b.daemons {
		if d.kind == k && d.launcher == launcher {
			return d, nil
		}
	}
	d := &daemon{kind: k, launcher: launcher}
	d.dir = filepath.Join(b.dir, k.name+launcher)
	d.socket = filepath.Join(d.dir, "csbd.sock")
	b.say("starting csbd: %s", d.title())
	if err := d.start(b.bin, b.store.Dir); err != nil {
		return nil, err
	}
	b.daemons = append(b.daemons, d)
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	if err := b.report.System.describeVersion(ctx, d); err != nil {
		return nil, err
	}
	return d, d.settle(ctx)
}

// title is the daemon in a few words.
func (d *daemon) title() string {
	if d.launcher == "" {
		return d.name
	}
	return d.name + ", launcher " + d.launcher
}

// label is csbd in the names of rows.
func label(launcher string) string {
	if launcher == "" {
		return "csbd"
	}
	return "csbd (launcher " + launcher + ")"
}

// variants are csbd's launchers that are measured: its default, and those of
// the command line.
func (b *bench) variants() []string { return append([]string{""}, b.launchers...) }

func (d *daemon) start(bin, imageDir string) error {
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return err
	}
	policyFile := filepath.Join(d.dir, "policy.yaml")
	if err := writePolicy(policyFile, d.kind); err != nil {
		return err
	}
	env := []string{
		"CSBD_SOCKET=" + d.socket,
		"CSBD_STATE_DIR=" + filepath.Join(d.dir, "state"),
		"CSBD_POLICY=" + policyFile,
		"CSBD_IMAGE_DIR=" + imageDir,
		"CSBD_CGROUP=" + cgroupBase,
		"CSBD_MEMORY=8GiB", // every output may be the largest, and many run
	}
	if d.launcher != "" {
		env = append(env, "CSBD_LAUNCHER="+d.launcher)
	}
	var err error
	d.process, err = trial.Start(filepath.Join(bin, "csbd"), d.dir, filepath.Join(d.dir, "csbd.log"), env...)
	return err
}

// failure is an error with the last words of csbd.
func (d *daemon) failure(what string) error {
	return d.process.Failure(fmt.Sprintf("(%s) %s", d.title(), what))
}

// connect waits for the socket, which csbd makes when it can serve.
func (d *daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		var err error
		if d.client, err = rpc.Dial(ctx, d.socket); err == nil {
			return nil
		}
		select {
		case <-d.process.Exited:
			return d.failure("left")
		case <-ctx.Done():
			return d.failure("does not listen")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// status asks csbd what it is doing.
func (d *daemon) status(ctx context.Context) (rpc.Status, error) {
	var s rpc.Status
	err := d.client.Call(ctx, rpc.MethodStatus, nil, &s)
	return s, err
}

// settle waits until the pool is full and csbd has nothing to do.
func (d *daemon) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		s, err := d.status(ctx)
		if err != nil {
			return d.failure("does not answer: " + err.Error())
		}
		if idle(s) {
			return nil
		}
		select {
		case <-d.process.Exited:
			return d.failure("left")
		case <-ctx.Done():
			return d.failure("does not get its pool full")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// idle says that nothing runs, waits or is being started.
func idle(s rpc.Status) bool {
	for _, p := range s.Pools {
		if p.Ready < p.Want || p.Starting > 0 {
			return false
		}
	}
	return s.Running+s.Queued == 0
}

// calm is how long csbd is given to remove the last sandbox, which happens
// after the answer and is not in its status.
const calm = 50 * time.Millisecond

// settle waits until no csbd has anything to do.
func (b *bench) settle(ctx context.Context) error {
	for _, d := range b.daemons {
		if err := d.settle(ctx); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(calm):
		return nil
	}
}

// pid is csbd's process.
func (d *daemon) pid() int { return d.process.Process.Pid }

// groups are the directories of the control group that holds the sandboxes:
// one on version 2, one for each hierarchy on version 1.
func (d *daemon) groups() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(d.dir, "state", "cgroups"))
	return strings.Fields(string(data)), err
}

// stop ends csbd, which has to leave nothing behind.
func (d *daemon) stop() error {
	if d.client != nil {
		d.client.Close()
	}
	_ = d.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.process.Exited:
	case <-time.After(time.Minute):
		_ = d.process.Process.Kill()
		<-d.process.Exited
		return d.failure("did not stop")
	}
	left, err := os.ReadDir(filepath.Join(d.dir, "state", "sandboxes"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it did not get that far
	}
	if len(left) > 0 {
		return d.failure(fmt.Sprintf("left %d sandboxes behind", len(left)))
	}
	return err
}
