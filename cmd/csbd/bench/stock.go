package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation/cgroup"
	"github.com/fcarli/codesandbox/policy"
)

// A stock runs programs by the command line of gVisor, without csbd: the same
// runsc, image, OCI configuration and flags, one sandbox for each program.
type stock struct {
	binary   string
	dir      string
	image    images.Image
	seccomp  *specs.LinuxSeccomp
	cgroups  *cgroup.Root
	sequence atomic.Int64
}

// guestEnvironment of every program: csbd's, as far as Python cares.
var guestEnvironment = []string{
	"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1",
}

// template is what is checkpointed: pandas imported, and whatever comes on
// stdin will be the program. It leaves at once, as csbd's runner does, because
// the finalisation of an interpreter with pandas costs as much as a restore.
const template = `import os, sys, numpy, pandas
os.write(1, b"ready\n")
exec(compile(sys.stdin.read(), "main.py", "exec"))
sys.stdout.flush()
os._exit(0)
`

// openStock prepares bundles and the checkpoint.
func (b *bench) openStock(ctx context.Context) (*stock, error) {
	if b.stock != nil {
		return b.stock, nil
	}
	s := &stock{binary: filepath.Join(b.bin, "runsc"), dir: filepath.Join(b.dir, "stock"), image: b.image, cgroups: b.cgroups}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if s.seccomp, err = defaultSeccomp(filepath.Join(s.dir, "policy.yaml")); err != nil {
		return nil, err
	}
	for name, code := range map[string]string{"print": printOne.code, "frame": frame.code, "template": template} {
		if err := s.writeBundle(name, code); err != nil {
			return nil, err
		}
	}
	b.say("runsc checkpoint")
	if err := s.checkpoint(ctx); err != nil {
		return nil, err
	}
	b.stock = s
	return s, nil
}

// defaultSeccomp is the profile that csbd's policy has by default. The file is
// written on the way.
func defaultSeccomp(file string) (*specs.LinuxSeccomp, error) {
	if err := writePolicy(file, kindPandas); err != nil {
		return nil, err
	}
	p, err := policy.Load(file)
	if err != nil {
		return nil, err
	}
	var seccomp specs.LinuxSeccomp
	err = json.Unmarshal([]byte(p.Profile("default").Seccomp), &seccomp)
	return &seccomp, err
}

func (s *stock) bundle(name string) string { return filepath.Join(s.dir, name) }

// spec is the OCI configuration that csbd writes, with another process in it.
func (s *stock) spec(code string) *specs.Spec {
	limit := func(name string, n uint64) specs.POSIXRlimit { return specs.POSIXRlimit{Type: name, Soft: n, Hard: n} }
	tmpfs := func(destination string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "nodev", "mode=1777", "size=67108864"}}
	}
	return &specs.Spec{
		Version: "1.1.0",
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			User:            specs.User{UID: 1000, GID: 1000},
			Args:            []string{"/usr/bin/python3", "-c", code},
			Env:             guestEnvironment,
			Cwd:             "/",
			Capabilities:    &specs.LinuxCapabilities{},
			NoNewPrivileges: true,
			Rlimits: []specs.POSIXRlimit{limit("RLIMIT_NOFILE", 1100), limit("RLIMIT_NPROC", 257),
				limit("RLIMIT_CORE", 0), limit("RLIMIT_STACK", 8<<20)},
		},
		Hostname: "sandbox",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			tmpfs("/tmp"), tmpfs("/dev/shm"),
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}},
			Seccomp: s.seccomp,
		},
		Annotations: map[string]string{
			"dev.gvisor.spec.rootfs.source": s.image.Path,
			"dev.gvisor.spec.rootfs.type":   "erofs",
		},
	}
}

func (s *stock) writeBundle(name, code string) error {
	data, err := json.Marshal(s.spec(code))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(s.bundle(name), "rootfs"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.bundle(name), "config.json"), data, 0o600)
}

// command is runsc with the flags that csbd's documentation gives for it
// (docs/decisions/0003-runsc-flags.md).
func (s *stock) command(ctx context.Context, args ...string) *exec.Cmd {
	flags := []string{
		"--root=" + filepath.Join(s.dir, "root"), "--platform=systrap", "--network=none", "--ignore-cgroups", "--oci-seccomp",
		"--directfs=false", "--host-uds=none", "--host-fifo=none", "--host-settings=ignore", "--net-raw=false", "--allow-suid=false",
		"--character-device-policy=emulated-only", "--watchdog-action=panic",
		"--sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK",
	}
	cmd := exec.CommandContext(ctx, s.binary, append(flags, args...)...)
	cmd.Env = []string{}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func (s *stock) newID() string { return fmt.Sprintf("stock-%d", s.sequence.Add(1)) }

// checkpoint saves an interpreter that has imported pandas.
func (s *stock) checkpoint(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	id := s.newID()
	cmd := s.command(ctx, "run", "--bundle="+s.bundle("template"), id)
	var said bytes.Buffer
	cmd.Stderr = &said
	// A pipe that is left open: it waits for its program.
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ready := make([]byte, len("ready\n"))
	if _, err = io.ReadFull(stdout, ready); err != nil {
		cancel()
		err = fmt.Errorf("wait for the template: %w", err)
	} else if out, failed := s.command(ctx, "checkpoint", "--image-path="+filepath.Join(s.dir, "checkpoint"), id).CombinedOutput(); failed != nil {
		cancel()
		err = fmt.Errorf("runsc checkpoint: %w: %.500q", failed, out)
	}
	// Saved, it is ended by runsc, which may call that a failure.
	waited := cmd.Wait()
	if err != nil {
		return errors.Join(err, waited, fmt.Errorf("runsc run said %.500q", said.Bytes()))
	}
	return nil
}

// run is `runsc run` of a program from its start.
func (s *stock) run(ctx context.Context, bundle string, p program) (sample, error) {
	cmd := s.command(ctx, "run", "--bundle="+s.bundle(bundle), s.newID())
	return inGroup(s.cgroups, cmd, p)
}

// restore is `runsc restore` of the checkpoint, which gets the program on stdin.
func (s *stock) restore(ctx context.Context, p program) (sample, error) {
	cmd := s.command(ctx, "restore", "--bundle="+s.bundle("template"), "--image-path="+filepath.Join(s.dir, "checkpoint"), "--direct", s.newID())
	cmd.Stdin = strings.NewReader(p.code)
	return inGroup(s.cgroups, cmd, p)
}

// inGroup runs a command in a control group of its own, which knows the CPU
// time of all its processes. Entering it takes about a millisecond of the
// sample.
func inGroup(root *cgroup.Root, cmd *exec.Cmd, p program) (sample, error) {
	g, err := root.New(fmt.Sprintf("run-%d", groupNumber.Add(1)))
	if err != nil {
		return sample{}, err
	}
	s, err := timed(cmd, p, g.Start)
	used, usedErr := g.CPU()
	s.cpu = used
	return s, errors.Join(err, usedErr, g.Kill(), g.Remove())
}

// groupNumber makes the names of groups unique.
var groupNumber atomic.Int64
