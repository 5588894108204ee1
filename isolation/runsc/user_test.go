package runsc

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/cgroup/cgrouptest"
)

// TestUser runs, as an ordinary user with a control group of his own, the suite
// that every way to get a sandbox passes, and compares what sandboxes may do
// with what TestPrivileges wants of root's.
func TestUser(t *testing.T) {
	if os.Geteuid() == 0 {
		again(t, 54321, "TestUser/cold", "TestUser/restored", "TestUser/stock",
			"TestConformance/direct_restored", "TestConformance/direct_cold/Contract", "TestSpawnerIsReplaced")
		return
	}
	_, err := Open(t.Context(), stockOptions(t, t.TempDir()))
	t.Run("stock", func(t *testing.T) { assert.ErrorContains(t, err, "cannot restore sandboxes without root") })
	c := class(t)
	r := open(t, t.TempDir())
	for name, l := range map[string]isolation.Launcher{"cold": r.Launcher(c, nil), "restored": r.RestoreLauncher(c)} {
		t.Run(name, func(t *testing.T) {
			var sentries []int
			for range 2 {
				s, err := l.Launch(t.Context())
				assert.NilError(t, err)
				t.Cleanup(func() { assert.Check(t, s.Close()) })
				sentries = append(sentries, sentryOf(t, s))
				time.Sleep(time.Second) // what was only for the start is gone
				pids, err := s.(*sandbox).group.Pids()
				assert.NilError(t, err)
				assert.Check(t, len(pids) > 1)
				for _, pid := range pids {
					unprivileged(t, pid)
				}
			}
			// What has one user is kept apart by namespaces.
			for _, ns := range []string{"pid", "ipc"} {
				one, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", sentries[0], ns))
				assert.NilError(t, err)
				other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", sentries[1], ns))
				assert.NilError(t, err)
				assert.Check(t, one != other, "%s: two sandboxes have one namespace", ns)
			}
		})
	}
}

// unprivileged checks what the kernel lets a process of a sandbox do.
func unprivileged(t *testing.T, pid int) {
	t.Helper()
	p := privilegeOf(t, pid)
	assert.Check(t, cmp.Len(p.Capabilities, 5))
	for name, value := range p.Capabilities {
		assert.Check(t, cmp.Equal(strings.Trim(value, "0"), ""), name)
	}
	assert.Check(t, cmp.Equal(p.NoNewPrivs, "1"))
	assert.Check(t, cmp.Equal(p.Seccomp, "2"))
	assert.Check(t, !p.Root)
	assert.Check(t, cmp.Equal(p.Groups, ""))
	assert.Check(t, cmp.Len(p.Namespaces, 0), "shared with the host")
	for i, m := range p.Mounts {
		if f := strings.Fields(m); f[0] == "/sentry" {
			p.Mounts[i] = "/sentry PROGRAM " + f[2]
		}
	}
	slices.Sort(p.Mounts)
	assert.Check(t, cmp.DeepEqual(p.Mounts, []string{"/ tmpfs ro", "/sentry PROGRAM ro"}))
	for _, kind := range p.Files {
		assert.Check(t, !strings.HasPrefix(kind, "directory"), "a sandbox has an open %s", kind)
	}
	net, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	assert.NilError(t, err)
	for line := range strings.Lines(string(net)) {
		name, _, isInterface := strings.Cut(line, ":")
		assert.Check(t, !isInterface || strings.TrimSpace(name) == "lo", "network interface %s", name)
	}
}

// again executes this test program as the user, in a control group of the
// user's, and has it run the given tests, all of which have to pass.
func again(t *testing.T, uid int, tests ...string) {
	t.Helper()
	image := imagetest.Python(t)
	dir, err := os.MkdirTemp("", "csb-user") // t.TempDir's is closed to others
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, os.RemoveAll(dir)) })
	// The tests give the image its name, which they may do here.
	store := filepath.Join(dir, "images")
	assert.NilError(t, os.MkdirAll(store, 0o755))
	name := filepath.Base(filepath.Dir(image.Path))
	assert.NilError(t, os.Symlink(filepath.Dir(image.Path), filepath.Join(store, name)))
	for _, d := range []string{dir, store} {
		assert.NilError(t, os.Chown(d, uid, uid))
	}

	var patterns []string
	for _, test := range tests {
		var parts []string
		for _, part := range strings.Split(test, "/") {
			parts = append(parts, "^"+part+"$")
		}
		patterns = append(patterns, strings.Join(parts, "/"))
	}
	// The program may be in a directory that the user cannot enter.
	program, err := os.Open("/proc/self/exe")
	assert.NilError(t, err)
	defer program.Close()
	command := append(cgrouptest.Delegate(t, uid).Command(true), "/proc/self/fd/3",
		"-test.v", "-test.count=1", "-test.timeout=8m", "-test.run="+strings.Join(patterns, "|"))
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.ExtraFiles = []*os.File{program}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, "CSBD_IMAGE_DIR=" + store,
		"CSBD_SENTRY=" + imagetest.Sentry(t), "CSBD_RUNSC=" + imagetest.Runsc(t)}
	out, err := cmd.CombinedOutput()
	assert.Check(t, err)
	for _, test := range tests {
		assert.Check(t, bytes.Contains(out, []byte("--- PASS: "+test+" (")), "%s as uid %d", test, uid)
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
