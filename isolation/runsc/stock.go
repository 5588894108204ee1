package runsc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stock starts sandboxes by runsc's command line.
type stock struct{ runtime *Runtime }

func (b stock) start(_ context.Context, s *sandbox, stdio [3]*os.File, snapshot string) error {
	if err := os.Mkdir(filepath.Join(s.dir, "rootfs"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "config.json"), s.config, 0o600); err != nil {
		return err
	}
	args := b.flags(s)
	if snapshot == "" {
		args = append(args, "run", "--bundle="+s.dir)
	} else {
		args = append(args, "restore", "--bundle="+s.dir, "--image-path="+snapshot, "--direct")
	}
	cmd := exec.Command(b.runtime.binary, append(args, s.id)...)
	cmd.Env = []string{} // nothing of csbd's own environment
	cmd.Dir = s.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
	if err := s.group.Start(cmd); err != nil {
		return fmt.Errorf("start runsc: %w", err)
	}
	s.first = cmd.Process
	s.await(func() (syscall.WaitStatus, error) {
		_ = cmd.Wait() // the status says it all
		return cmd.ProcessState.Sys().(syscall.WaitStatus), nil
	})
	return nil
}

func (b stock) flags(s *sandbox) []string { return b.runtime.flags(filepath.Join(s.dir, "root")) }

func (b stock) checkpoint(ctx context.Context, s *sandbox, dir string) error {
	cmd := exec.CommandContext(ctx, b.runtime.binary, append(b.flags(s), "checkpoint", "--image-path="+dir, s.id)...)
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("runsc: %w: %q", err, bounded(said.Bytes(), 2000))
	}
	return nil
}

func (b stock) open() error { return nil }

func (b stock) close() error { return nil }
