package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A host runs Python without gVisor: the host's own interpreter, the same in
// bubblewrap, and the image's interpreter in the image's root filesystem.
type host struct {
	python  string // path of the host's interpreter
	version string
	bwrap   string // "" if it is not installed
	root    *rootfs
}

// openHost finds out what there is.
func (b *bench) openHost(ctx context.Context) (*host, error) {
	if b.host != nil {
		return b.host, nil
	}
	h := &host{python: b.python}
	if h.python == "" {
		// What PATH has may be a script around the interpreter.
		for _, h.python = range []string{"/usr/bin/python3", "python3"} {
			if _, err := exec.LookPath(h.python); err == nil {
				break
			}
		}
	}
	out, err := exec.CommandContext(ctx, h.python, "-c", "import sys; print(sys.executable, sys.version.split()[0])").Output()
	if err != nil {
		return nil, fmt.Errorf("run the host's python3: %w", err)
	}
	if _, err := fmt.Sscan(string(out), &h.python, &h.version); err != nil {
		return nil, fmt.Errorf("run the host's python3: %q: %w", out, err)
	}
	h.bwrap, _ = exec.LookPath("bwrap")
	if h.root, err = openRootfs(b.image.Path, filepath.Join(b.dir, "rootfs")); err != nil {
		return nil, err
	}
	b.host = h
	return h, nil
}

func (h *host) close() { h.root.close() }

// runPython runs a program with the host's interpreter. CPU is that of the
// process, as it says itself.
func (h *host) runPython(ctx context.Context, p program) (sample, error) {
	return timed(exec.CommandContext(ctx, h.python, "-c", p.code), p, (*exec.Cmd).Start)
}

// bwrapFlags give a sandbox of namespaces only, the host's files read-only.
var bwrapFlags = []string{"--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"}

// bwrapCommand runs a program with the host's interpreter in bubblewrap.
func (h *host) bwrapCommand(ctx context.Context, p program) *exec.Cmd {
	return exec.CommandContext(ctx, h.bwrap, append(bwrapFlags, h.python, "-c", p.code)...)
}

// runImage runs a program with the image's interpreter, no sandbox around it.
func (h *host) runImage(ctx context.Context, p program) (sample, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", "-c", p.code)
	cmd.Dir = "/"
	cmd.Env = guestEnvironment
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: h.root.dir}
	return timed(cmd, p, h.root.start)
}

// timed starts a process in the given way and waits for the right output. CPU
// is that of the process and of its children that it waited for.
func timed(cmd *exec.Cmd, p program, start func(*exec.Cmd) error) (sample, error) {
	stdout, s, err := output(cmd, start)
	if err == nil {
		err = p.check(string(stdout))
	}
	return s, err
}

// output is what a process printed that was started in the given way.
func output(cmd *exec.Cmd, start func(*exec.Cmd) error) ([]byte, sample, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	began := time.Now()
	err := start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	s := sample{wall: time.Since(began)}
	if err != nil {
		return nil, s, fmt.Errorf("%w: stderr %.300q", err, stderr.Bytes())
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return stdout.Bytes(), s, nil
}

// A rootfs is an image mounted read-only where only processes that start by it
// see it: in the mount namespace of one thread, with which it vanishes.
type rootfs struct {
	dir string
	// how it was made visible, for the label of the row.
	how  string
	work chan func()
}

func openRootfs(image, dir string) (*rootfs, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	r := &rootfs{dir: dir, work: make(chan func())}
	opened := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		err := r.mount(image)
		opened <- err
		if err != nil {
			return
		}
		for f := range r.work {
			f()
		}
	}()
	return r, <-opened
}

// mount runs on the rootfs's thread.
func (r *rootfs) mount(image string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	r.how = "EROFS mounted"
	// mount(8) makes a loop device where the kernel cannot mount a file.
	if said, err := exec.Command("mount", "-t", "erofs", "-o", "ro", image, r.dir).CombinedOutput(); err != nil {
		r.how = "EROFS extracted"
		said2, err2 := exec.Command("fsck.erofs", "--extract="+r.dir, image).CombinedOutput()
		if err2 != nil {
			return errors.Join(fmt.Errorf("mount the image: %w: %.300q", err, said), fmt.Errorf("extract the image: %w: %.300q", err2, said2))
		}
	}
	for _, dir := range []string{"/dev", "/proc"} {
		if err := unix.Mount(dir, filepath.Join(r.dir, dir), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s into the image: %w", dir, err)
		}
	}
	return nil
}

// start starts a process that sees the image.
func (r *rootfs) start(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	r.work <- func() { done <- cmd.Start() }
	return <-done
}

func (r *rootfs) close() { close(r.work) }

// label names the host's interpreter, with its version.
func (h *host) label() string { return "host python3 " + h.version }

// imageLabel names the image's interpreter on the host.
func (h *host) imageLabel() string {
	return "image's python3 on the host (" + h.root.how + ", chroot)"
}
