package runsc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"
	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/runsc/boot"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
	"github.com/fcarli/codesandbox/isolation/runsc/spawner"
)

// What the direct launcher has copied from gVisor instead of linking it.
func TestAssumptions(t *testing.T) {
	for ours, theirs := range map[string]string{
		methodNetwork: boot.ContMgrSetNetworkArgs, methodStart: boot.ContMgrRootContainerStart,
		methodRestore: boot.ContMgrRestore, methodCheckpoint: boot.ContMgrCheckpoint,
	} {
		assert.Equal(t, ours, theirs)
	}
	assert.DeepEqual(t, snapshotFiles, []string{checkpointfiles.StateFileName, checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName})
	assert.DeepEqual(t, uncompressed, statefile.CompressionLevelNone.ToMetadata())

	// Every field that we send means the same to them, and they have none that
	// we do not know of.
	assert.DeepEqual(t, fields(restoreOpts{}), fields(boot.RestoreOpts{}))
	for _, f := range fields(saveOpts{}) {
		assert.Check(t, cmp.Contains(fields(control.SaveOpts{}), f))
	}
	var got boot.CreateLinksAndRoutesArgs
	sent, err := json.Marshal(network{LoopbackLinks: loopback, IsRestore: true})
	assert.NilError(t, err)
	strict := json.NewDecoder(bytes.NewReader(sent))
	strict.DisallowUnknownFields()
	assert.NilError(t, strict.Decode(&got))
	want := boot.CreateLinksAndRoutesArgs{LoopbackLinks: []boot.LoopbackLink{boot.DefaultLoopbackLink}, IsRestore: true}
	gotJSON, err := json.Marshal(got)
	assert.NilError(t, err)
	wantJSON, err := json.Marshal(want)
	assert.NilError(t, err)
	assert.Equal(t, string(gotJSON), string(wantJSON))
}

// fields lists the names and types of a struct as JSON shows them, sorted.
func fields(v any) []string {
	var all []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			name = f.Name
		}
		if !f.Anonymous && name != "-" {
			all = append(all, name+" "+f.Type.String())
		}
	}
	slices.Sort(all)
	return all
}

// A privilege is what the kernel lets a process do, as /proc tells it.
type privilege struct {
	Capabilities map[string]string
	NoNewPrivs   string
	Seccomp      string
	Root         bool                // in the host's eyes
	Namespaces   map[string]struct{} // those that it shares with the host
	Mounts       []string            // type and options of what it can see
	Files        []string            // kinds of its descriptors
	Groups       string
}

func privilegeOf(t *testing.T, pid int) privilege {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	p := privilege{Capabilities: map[string]string{}, Namespaces: map[string]struct{}{}}
	lines, err := readLines(proc + "status")
	assert.NilError(t, err)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.HasPrefix(name, "Cap"):
			p.Capabilities[name] = value
		case name == "NoNewPrivs":
			p.NoNewPrivs = value
		case name == "Seccomp":
			p.Seccomp = value
		case name == "Groups":
			p.Groups = value
		case name == "Uid", name == "Gid":
			p.Root = p.Root || slices.Contains(strings.Fields(value), "0")
		}
	}
	for _, ns := range []string{"user", "pid", "mnt", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(proc + "ns/" + ns)
		assert.NilError(t, err)
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		assert.NilError(t, err)
		if theirs == ours {
			p.Namespaces[ns] = struct{}{}
		}
	}
	mounts, err := readLines(proc + "mountinfo")
	assert.NilError(t, err)
	for _, m := range mounts {
		before, after, _ := strings.Cut(m, " - ")
		p.Mounts = append(p.Mounts, fmt.Sprintf("%s %s %s", strings.Fields(before)[4], strings.Fields(after)[0], strings.Split(strings.Fields(before)[5], ",")[0]))
	}
	entries, err := os.ReadDir(proc + "fd")
	assert.NilError(t, err)
	for _, e := range entries {
		target, err := os.Readlink(proc + "fd/" + e.Name())
		if err != nil {
			continue // was of the moment
		}
		kind, _, _ := strings.Cut(target, ":[")
		if info, err := os.Stat(proc + "fd/" + e.Name()); err == nil && info.IsDir() {
			kind = "directory " + target
		}
		if !slices.Contains(p.Files, kind) {
			p.Files = append(p.Files, kind)
		}
	}
	slices.Sort(p.Files)
	return p
}

// sentryOf is the process of the sandbox that has a seccomp filter and no
// other such process above it.
func sentryOf(t *testing.T, s isolation.Sandbox) int {
	t.Helper()
	pids, err := s.(*sandbox).group.Pids()
	assert.NilError(t, err)
	for _, pid := range pids {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.HasPrefix(line, []byte("runsc-sandbox\x00")) {
			return pid
		}
	}
	t.Fatal("the sandbox has no sentry")
	return 0
}

// A sentry has no privilege that one of stock runsc does not have, whether it
// was started cold or from a snapshot, and neither have the processes that run
// the guest.
func TestPrivileges(t *testing.T) {
	c := class(t)
	ready := func(l isolation.Launcher) isolation.Sandbox {
		s, err := l.Launch(t.Context())
		assert.NilError(t, err)
		t.Cleanup(func() { assert.Check(t, s.Close()) })
		time.Sleep(time.Second) // what was only for the start is gone
		return s
	}
	stockRuntime, r := openWith(t, stockOptions(t, t.TempDir())), open(t, t.TempDir())
	want := privilegeOf(t, sentryOf(t, ready(stockRuntime.RestoreLauncher(c))))
	assert.Check(t, cmp.Equal(want.Seccomp, "2"))
	assert.Check(t, cmp.Equal(want.NoNewPrivs, "1"))
	assert.Check(t, cmp.Len(want.Namespaces, 0))
	for name, value := range want.Capabilities {
		assert.Check(t, cmp.Equal(strings.Trim(value, "0"), ""), name)
	}

	// The root is bare but for the program itself, and no more writable.
	mounts := []string{"/ tmpfs ro", "/sentry PROGRAM ro"}
	assert.DeepEqual(t, want.Mounts, mounts[:1])
	users := map[string]bool{}
	for name, l := range map[string]isolation.Launcher{"cold": r.Launcher(c, nil), "restored": r.RestoreLauncher(c)} {
		t.Run(name, func(t *testing.T) {
			s := ready(l)
			pid := sentryOf(t, s)
			got := privilegeOf(t, pid)
			for i := range got.Mounts {
				if f := strings.Fields(got.Mounts[i]); f[0] == "/sentry" {
					got.Mounts[i] = "/sentry PROGRAM " + f[2]
				}
			}
			slices.Sort(got.Mounts)
			assert.Check(t, cmp.DeepEqual(got.Mounts, mounts))
			for _, kind := range got.Files {
				// Its standard error is a sealed file instead of /dev/null.
				assert.Check(t, kind == "/memfd:log (deleted)" || slices.Contains(want.Files, kind), "stock runsc's sentry has no descriptor of %s", kind)
			}
			// Compared above.
			got.Mounts, got.Files = want.Mounts, want.Files
			assert.Check(t, cmp.DeepEqual(got, want))

			pids, err := s.(*sandbox).group.Pids()
			assert.NilError(t, err)
			assert.Check(t, len(pids) > 1)
			for _, pid := range pids {
				p := privilegeOf(t, pid)
				p.Mounts, p.Files = want.Mounts, want.Files
				assert.Check(t, cmp.DeepEqual(p, want), "process %d", pid)
			}
			var stat unix.Stat_t
			assert.NilError(t, unix.Stat("/proc/"+strconv.Itoa(pid), &stat))
			assert.Check(t, !users[fmt.Sprint(stat.Uid)], "two sandboxes have one user")
			users[fmt.Sprint(stat.Uid)] = true
			limit, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
			assert.NilError(t, err)
			assert.Check(t, bytes.Contains(limit, []byte("Max core file size        0                    0")), "%s", limit)
			adjust, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/oom_score_adj")
			assert.NilError(t, err)
			assert.Check(t, cmp.Equal(string(adjust), fmt.Sprintln(spawner.OOMScoreAdjust)), "it would not go before csbd")
		})
	}
}

// A sentry that dies on its way up is started again, a few times.
func TestEarlyDeathIsRetried(t *testing.T) {
	for _, deaths := range []int{1, bootAttempts} {
		t.Run(fmt.Sprint(deaths), func(t *testing.T) {
			o := options(t, t.TempDir())
			var log bytes.Buffer
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			r := openWith(t, o)
			killed := make(chan int)
			stop := make(chan struct{})
			go func() {
				n := 0
				defer func() { killed <- n }()
				for seen := map[int]bool{}; n < deaths; {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
					groups, _ := filepath.Glob(r.cgroups.Dirs()[0] + "/*/cgroup.procs")
					for _, g := range groups {
						lines, _ := readLines(g)
						for _, line := range lines {
							// The thread that forks is in the group for a moment, too.
							pid, _ := strconv.Atoi(line)
							name, _ := os.ReadFile("/proc/" + line + "/cmdline")
							if !seen[pid] && bytes.HasPrefix(name, []byte("runsc-sandbox")) {
								seen[pid] = true
								if n < deaths && unix.Kill(pid, unix.SIGKILL) == nil {
									n++
								}
							}
						}
					}
				}
			}()
			s, err := r.Launcher(class(t), nil).Launch(t.Context())
			close(stop)
			n := <-killed
			assert.Assert(t, n >= 1)
			assert.Check(t, cmp.Equal(strings.Count(log.String(), "a sentry died while it started"), n), "%s", log.String())
			if deaths < bootAttempts {
				assert.NilError(t, err)
				assert.NilError(t, s.Close())
			} else {
				assert.ErrorContains(t, err, fmt.Sprintf("%d attempts", bootAttempts))
			}
			clean(t, r, o.StateDir)
		})
	}
}

// The spawner may be killed: what it has started is gone, the next sandbox
// gets a new one.
func TestSpawnerIsReplaced(t *testing.T) {
	o := options(t, t.TempDir())
	r := openWith(t, o)
	spec := isolation.Spec{ID: "orphan", Code: []byte("import time; time.sleep(60)"), Limits: isolationtest.Ceiling}
	s, err := r.Launcher(class(t), nil).Launch(t.Context())
	assert.NilError(t, err)
	time.AfterFunc(300*time.Millisecond, func() { _ = r.booter.(*direct).spawner.Close() })
	_, err = s.Run(t.Context(), spec, isolation.Output{Stdout: discard{}, Stderr: discard{}})
	assert.Check(t, err != nil, "a program that was killed is called a success")
	select {
	case <-s.(*sandbox).Ended():
	case <-time.After(10 * time.Second):
		t.Error("the sandbox does not know that it is dead")
	}
	assert.NilError(t, s.Close())
	clean(t, r, o.StateDir)
	works(t, r)
}
