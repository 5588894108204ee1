package isolationtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// workDir is where a sandbox keeps its program.
const workDir = "/tmp/work"

// compare demands what `python3 main.py` does on the host.
func compare(t *testing.T, python string, r row, got outcome) {
	t.Helper()
	// Not t.TempDir, which other users cannot enter.
	dir, err := os.MkdirTemp("", "work")
	assert.NilError(t, err)
	defer os.RemoveAll(dir)
	put := func(path string, mode os.FileMode, content string) {
		path = filepath.Join(dir, path)
		assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		assert.NilError(t, os.WriteFile(path, []byte(content), 0o600))
		assert.NilError(t, os.Chmod(path, mode))
	}
	put("main.py", 0o644, r.code)
	for _, f := range r.files {
		mode := os.FileMode(f.Mode)
		if mode == 0 {
			mode = 0o644
		}
		put(f.Path, mode, string(f.Content))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{"main.py"}, r.args...)...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "USER=sandbox", "LOGNAME=sandbox", "LANG=C.UTF-8"}
	for k, v := range r.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Getuid() == 0 {
		asUser(t, cmd, dir)
	}
	if r.stdin != "" {
		file := filepath.Join(t.TempDir(), "stdin")
		assert.NilError(t, os.WriteFile(file, []byte(r.stdin), 0o644))
		stdin, err := os.Open(file)
		assert.NilError(t, err)
		defer stdin.Close()
		cmd.Stdin = stdin
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		assert.NilError(t, err)
	}
	exit := cmd.ProcessState.ExitCode()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		exit = 128 + int(status.Signal())
	}
	assert.Check(t, cmp.Equal(got.res.ExitCode, exit), "%s leaves with %d", python, exit)
	assert.Check(t, match(is(neutral(stdout.String(), dir))).matches(neutral(got.stdout, dir)), "stdout, compared with %s", python)
	assert.Check(t, match(is(neutral(stderr.String(), dir))).matches(neutral(got.stderr, dir)), "stderr, compared with %s", python)
}

// asUser has cmd run as the guest's user, who must get at its directory.
func asUser(t *testing.T, cmd *exec.Cmd, dir string) {
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 1000, Gid: 1000}
	assert.NilError(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, 1000, 1000)
	}))
}

var address = regexp.MustCompile(`0x[0-9a-f]{6,}`)

// neutral is output without what must differ from run to run.
func neutral(s, dir string) string {
	return address.ReplaceAllString(strings.ReplaceAll(s, dir, workDir), "0x…")
}
