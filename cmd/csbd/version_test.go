package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// TestVersion installs a csbd with its sentry beside it, as a release is built,
// and asks it as nobody.
func TestVersion(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	dir := servertest.Dir(t)
	binary, sentry := filepath.Join(dir, "csbd"), filepath.Join(dir, "csbd-sentry")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3 -X main.commit=abcdef0123", "-o", binary, ".")
	out, err := build.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	data, err := os.ReadFile(imagetest.Sentry(t))
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(sentry, data, 0o755))
	said, err := exec.Command(sentry, "--version").Output()
	assert.NilError(t, err)
	gvisor := strings.Fields(string(said))[2] // runsc version v0…

	version := func(env ...string) string {
		t.Helper()
		cmd := exec.Command(binary, "version")
		cmd.Env = env
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 42005, Gid: 42005}}
		out, err := cmd.Output()
		assert.NilError(t, err)
		return string(out)
	}
	own := "csbd 1.2.3\ncommit abcdef0123\nrunsc " + gvisor + "\nprotocol 1\n" + runtime.Version() + "\n"
	assert.Equal(t, version(), own+"csbd-sentry "+gvisor+" ("+sentry+")\n")
	// Not even an environment with which csbd does not start is in the way.
	assert.Equal(t, version("CSBD_SOKET=x"), own+"csbd-sentry "+gvisor+" ("+sentry+")\n")
	got := version("CSBD_SENTRY=/nonexistent/csbd-sentry")
	assert.Check(t, strings.HasPrefix(got, own+"csbd-sentry unknown (") && strings.Contains(got, "no such file"), "%s", got)

	code, stdout, stderr := csbd(t, nil, "version", "now")
	assert.Check(t, code == 2 && stdout == "" && strings.Contains(stderr, `"now"`), "%d %q %q", code, stdout, stderr)
}
