package boot_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/packaging/boot"
	"github.com/fcarli/codesandbox/rpc"
)

// A machine is a booted container. Of its users, ann may use csbd and bob may not.
type machine struct {
	*boot.Container
	t *testing.T
}

// start boots a machine for one test. shared are files of this host, by where
// they are to be found inside.
func start(t *testing.T, shared map[string]string) *machine {
	t.Helper()
	cache := filepath.Join(imagetest.Root(), "run", "boot")
	root, err := boot.Root{}.Make(t.Context(), cache)
	assert.NilError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := boot.StartContainer(ctx, cache, root, shared)
	assert.NilError(t, err)
	m := &machine{c, t}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := c.Enter(context.Background(), "journalctl", "--no-pager", "--lines=200", "--output=short-precise").CombinedOutput()
			t.Logf("journal:\n%s", out)
		}
		assert.Check(t, c.Stop())
	})
	assert.Equal(t, m.sh("systemctl is-system-running --wait"), "running")
	m.sh("groupadd --system csb; useradd --groups csb ann; useradd bob")
	return m
}

// withImage shows the default image where its own package would put it.
func withImage(t *testing.T, shared map[string]string) map[string]string {
	t.Helper()
	imagetest.Python(t)
	shared["/usr/lib/csbd/images"] = imagetest.Store().Dir
	return shared
}

// An answer is what came of a command.
type answer struct {
	stdout, stderr string
	code           int
}

// run waits for a command. One that fails is an answer, too.
func run(cmd *exec.Cmd) (answer, error) {
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, fmt.Errorf("%q: %w", cmd.Args, err)
	}
	return answer{strings.TrimSpace(out.String()), strings.TrimSpace(errOut.String()), cmd.ProcessState.ExitCode()}, nil
}

// do runs a command inside. It may fail, but not take more than three minutes.
func (m *machine) do(command func(context.Context) *exec.Cmd) answer {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := command(ctx)
	a, err := run(cmd)
	assert.NilError(m.t, err)
	assert.NilError(m.t, ctx.Err(), "%q took too long: %+v", cmd.Args, a)
	return a
}

// sh runs a shell command as root, outside of systemd's sight. It has to work.
func (m *machine) sh(script string) string {
	m.t.Helper()
	a := m.try(script)
	assert.Equal(m.t, a.code, 0, "%s: %s%s", script, a.stdout, a.stderr)
	return a.stdout
}

func (m *machine) try(script string) answer {
	m.t.Helper()
	return m.do(func(ctx context.Context) *exec.Cmd { return m.Enter(ctx, "sh", "-c", script) })
}

// as runs a command the way a login of the user would.
func (m *machine) as(user string, args ...string) answer {
	m.t.Helper()
	return m.do(func(ctx context.Context) *exec.Cmd { return m.As(ctx, user, args...) })
}

// install has apt install the package in a file.
func (m *machine) install(file string, options ...string) string {
	m.t.Helper()
	return m.sh("apt-get install --yes --no-install-recommends " + strings.Join(options, " ") + " " + file)
}

// show is a property of a unit.
func (m *machine) show(unit, property string) string {
	m.t.Helper()
	return m.sh("systemctl show --value --property=" + property + " " + unit)
}

// eventually waits for a condition, for a minute at most.
func (m *machine) eventually(what string, f func() bool) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// journal are the entries that match, each with all its fields.
func (m *machine) journal(matches ...string) []map[string]any {
	m.t.Helper()
	var entries []map[string]any
	for line := range strings.Lines(m.sh("journalctl --quiet --output=json --all " + strings.Join(matches, " "))) {
		var e map[string]any
		assert.NilError(m.t, json.Unmarshal([]byte(line), &e))
		entries = append(entries, e)
	}
	return entries
}

// messages are the texts of those entries, each of which is a line.
func (m *machine) messages(matches ...string) string {
	m.t.Helper()
	return m.sh("journalctl --quiet --output=cat --all " + strings.Join(matches, " "))
}

// executed decodes csbctl's answer.
func executed(t *testing.T, a answer) rpc.Result {
	t.Helper()
	var r rpc.Result
	assert.NilError(t, json.Unmarshal([]byte(a.stdout), &r), "%+v", a)
	return r
}

// socket is csbd's, from outside.
func (m *machine) socket() string { return m.Path("/run/csbd/csbd.sock") }

// execute has csbd run a program, by root and without csbctl.
func (m *machine) execute(ctx context.Context, code string) (rpc.Result, error) {
	c, err := rpc.Dial(ctx, m.socket())
	if err != nil {
		return rpc.Result{}, err
	}
	defer c.Close()
	return c.Execute(ctx, rpc.ExecuteParams{Code: &code})
}

// status is what csbd says of itself.
func (m *machine) status() rpc.Status {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	c, err := rpc.Dial(ctx, m.socket())
	assert.NilError(m.t, err)
	defer c.Close()
	var s rpc.Status
	assert.NilError(m.t, c.Call(ctx, "status", nil, &s))
	return s
}

// noneLeft checks that nothing of csbd runs or has control groups.
func (m *machine) noneLeft() {
	m.t.Helper()
	groups := m.sh("find /sys/fs/cgroup -name 'csbd*' -o -name 'sb-*' | grep -v csbd.socket || true")
	assert.Check(m.t, groups == "", "control groups are left: %s", groups)
	processes := m.try("pidof csbd csbd-spawner runsc-sandbox")
	assert.Check(m.t, processes.code != 0, "processes are left: %s", processes.stdout)
}

// built is csbd's package, as `make packages` leaves it.
func built(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(imagetest.Root(), "dist", "csbd_*_amd64.deb"))
	assert.NilError(t, err)
	assert.Assert(t, len(files) == 1, "run `make packages` first: %q", files)
	return files[0]
}

// older makes a package as of an earlier version: of this source, but for
// csbd's own version and the text of /etc/default/csbd.
func older(t *testing.T, newer string) string {
	t.Helper()
	dir := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = imagetest.Root()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	tree, file := filepath.Join(dir, "tree"), filepath.Join(dir, "csbd_0.0.1_amd64.deb")
	run("dpkg-deb", "--raw-extract", newer, tree)
	run("go", "build", "-ldflags", "-s -w -X main.version=0.0.1", "-o", filepath.Join(tree, "usr/sbin/csbd"), "./cmd/csbd")
	control := filepath.Join(tree, "DEBIAN/control")
	text, err := os.ReadFile(control)
	assert.NilError(t, err)
	text = regexp.MustCompile(`(?m)^Version: .*`).ReplaceAll(text, []byte("Version: 0.0.1"))
	assert.NilError(t, os.WriteFile(control, text, 0o644))
	assert.NilError(t, os.WriteFile(filepath.Join(tree, "etc/default/csbd"), []byte("# of version 0.0.1\n"), 0o644))
	run("dpkg-deb", "--build", "-Znone", tree, file)
	return file
}
