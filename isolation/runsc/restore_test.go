package runsc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
)

// preloaded is the class that csbd's pool keeps: modules imported, warmed up.
func preloaded(t testing.TB) isolation.Class {
	c := class(t)
	image := imagetest.Python(t)
	c.Preload, c.Warmup = strings.Join(image.Preload, " "), image.Warmup
	assert.Assert(t, c.Preload != "" && c.Warmup != "")
	return c
}

// execute runs code in a new sandbox of the launcher.
func execute(t testing.TB, l isolation.Launcher, c isolation.Class, code string) (isolation.Result, string, string) {
	t.Helper()
	s, err := l.Launch(t.Context())
	assert.NilError(t, err)
	defer func() { assert.Check(t, s.Close()) }()
	out, errs := isolation.NewCapture(1<<20), isolation.NewCapture(1<<20)
	limits := isolationtest.Ceiling
	limits.Disk = c.Ceiling.Disk
	result, err := s.Run(t.Context(), isolation.Spec{ID: "test", Code: []byte(code), Limits: limits}, isolation.Output{Stdout: out, Stderr: errs})
	assert.NilError(t, err)
	return result, string(out.Bytes()), string(errs.Bytes())
}

// Two sandboxes of one snapshot have nothing in common that a program could
// take for random, and know the time.
func TestClonesDiffer(t *testing.T) {
	r := open(t, t.TempDir())
	c := preloaded(t)
	c.Preload += " random uuid tempfile multiprocessing secrets ssl" // so that their state is in the snapshot
	l := r.RestoreLauncher(c)
	const program = `
import os, random, secrets, ssl, tempfile, time, uuid, multiprocessing
import numpy as np
print("random", random.random())
print("random.Random", random.Random().random())
print("numpy legacy", np.random.rand())
print("numpy generator", np.random.default_rng().random())
print("numpy RandomState", np.random.RandomState().rand())
print("urandom", os.urandom(8).hex())
print("secrets", secrets.token_hex(8))
print("ssl", ssl.RAND_bytes(8).hex())
print("uuid1", uuid.uuid1())
print("uuid4", uuid.uuid4())
print("tempfile", tempfile.mktemp())
print("authkey", bytes(multiprocessing.current_process().authkey).hex())
print("time", time.time())
`
	_, first, stderr := execute(t, l, c, program)
	before := time.Now()
	_, second, _ := execute(t, l, c, program)
	one, two := lines(first), lines(second)
	assert.Equal(t, len(one), 13, "%s%s", first, stderr)
	for name, value := range one {
		assert.Check(t, two[name] != "" && two[name] != value, "%s is %s in both", name, value)
	}
	var now float64
	_, err := fmt.Sscan(two["time"], &now)
	assert.NilError(t, err)
	assert.Check(t, now > float64(before.Unix()) && now < float64(before.Unix()+60), "the clock says %v, it is %v", now, before.Unix())
}

func lines(s string) map[string]string {
	m := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
		if i := strings.LastIndex(line, " "); i > 0 {
			m[line[:i]] = line[i+1:]
		}
	}
	return m
}

// The runner finds every generator that a preloaded module may hold, and gives
// each a new state.
func TestGeneratorsAreRenewed(t *testing.T) {
	r := open(t, t.TempDir())
	c := preloaded(t)
	const program = `
import importlib.util, random
import numpy as np
spec = importlib.util.spec_from_file_location("runner", "/csb/runner.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)

class Mine(random.Random): pass
held = {
    "Random": (random.Random(1), lambda g: g.random()),
    "subclass": (Mine(1), lambda g: g.random()),
    "RandomState": (np.random.RandomState(1), lambda g: g.rand()),
    "RandomState gauss": (np.random.RandomState(1), lambda g: g.standard_normal()),
    "RandomState of PCG64": (np.random.RandomState(np.random.PCG64(1)), lambda g: g.rand()),
    "PCG64": (np.random.Generator(np.random.PCG64(1)), lambda g: g.random()),
    "MT19937": (np.random.Generator(np.random.MT19937(1)), lambda g: g.random()),
    "Philox": (np.random.Generator(np.random.Philox(1)), lambda g: g.random()),
    "SFC64": (np.random.Generator(np.random.SFC64(1)), lambda g: g.random()),
}
for generator, draw in held.values():
    draw(generator)
import pickle
before = {name: pickle.dumps(generator) for name, (generator, draw) in held.items()}
for generator in runner.generators():
    runner.renew(generator)
for name, (generator, draw) in held.items():
    print(name, draw(generator) != draw(pickle.loads(before[name])))
`
	_, stdout, stderr := execute(t, r.RestoreLauncher(c), c, program)
	assert.Equal(t, strings.Count(stdout, "True\n"), 9, "%s%s", stdout, stderr)
}

// The warm-up leaves nothing that a program could see.
func TestWarmupLeavesNothing(t *testing.T) {
	r := open(t, t.TempDir())
	c := preloaded(t)
	const program = `
import os, sys
print(sorted(os.listdir(".")), sorted(os.listdir("/tmp")))
print(sorted(n for n in globals() if not n.startswith("__")))
print(hasattr(sys, "last_value"), sys.stdout.name, len(sys.modules["__main__"].__dict__))
import pandas, numpy
print(pandas.DataFrame({"a": numpy.arange(3)}).a.sum())
`
	result, stdout, stderr := execute(t, r.RestoreLauncher(c), c, program)
	assert.Equal(t, result.Status, isolation.StatusOK, stderr)
	head, _, _ := strings.Cut(stdout, "False <stdout>")
	assert.Equal(t, head, "['main.py'] ['work']\n['os', 'sys']\n")
	assert.Assert(t, cmp.Contains(stdout, "\n3\n"))
	assert.Equal(t, stderr, "")
}

// A snapshot whose files are not what the manifest says is made anew, never
// run: whatever was done to whichever file, before or after it was first used.
func TestDamagedSnapshotIsMadeAnew(t *testing.T) {
	stateDir := t.TempDir()
	c := class(t)
	damages := map[string]func(t *testing.T, file string){
		"first byte":  func(t *testing.T, f string) { flip(t, f, 0) },
		"middle byte": func(t *testing.T, f string) { flip(t, f, size(t, f)/2) },
		"last byte":   func(t *testing.T, f string) { flip(t, f, size(t, f)-1) },
		"truncated":   func(t *testing.T, f string) { assert.NilError(t, os.Truncate(f, size(t, f)/2)) },
		"empty":       func(t *testing.T, f string) { assert.NilError(t, os.Truncate(f, 0)) },
		"longer": func(t *testing.T, f string) {
			h, err := os.OpenFile(f, os.O_APPEND|os.O_WRONLY, 0)
			assert.NilError(t, err)
			_, err = h.WriteString("x")
			assert.NilError(t, err)
			assert.NilError(t, h.Close())
		},
		"gone": func(t *testing.T, f string) { assert.NilError(t, os.Remove(f)) },
	}
	for _, file := range []string{"checkpoint.img", "pages.img", "pages_meta.img", manifestName} {
		for name, damage := range damages {
			if file != "pages.img" && name != "middle byte" && name != "gone" {
				continue // one second each; the check does not look at the name
			}
			t.Run(file+"/"+name, func(t *testing.T) {
				// Two lives of csbd: found damaged at the start, and while in use.
				r := open2(t, stateDir)
				dir := usable(t, r, c)
				damage(t, filepath.Join(dir, file))
				usable(t, r, c)
				assert.NilError(t, r.Close())

				damage(t, filepath.Join(dir, file))
				r = open2(t, stateDir)
				usable(t, r, c)
				assert.NilError(t, r.Close())
			})
		}
	}
}

// open2 opens a Runtime that the test closes itself.
func open2(t *testing.T, stateDir string) *Runtime {
	r, err := Open(t.Context(), options(t, stateDir))
	assert.NilError(t, err)
	return r
}

// usable runs a program from the snapshot and checks that it is intact then.
func usable(t *testing.T, r *Runtime, c isolation.Class) string {
	t.Helper()
	_, stdout, stderr := execute(t, r.RestoreLauncher(c), c, "print('works')")
	assert.Equal(t, stdout, "works\n", stderr)
	key, err := r.snapshots.key(c)
	assert.NilError(t, err)
	dir := filepath.Join(r.snapshots.dir, key)
	_, err = verify(dir, key)
	assert.NilError(t, err)
	return dir
}

func size(t *testing.T, file string) int64 {
	info, err := os.Stat(file)
	assert.NilError(t, err)
	return info.Size()
}

func flip(t *testing.T, file string, at int64) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	assert.NilError(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	assert.NilError(t, err)
	b[0] ^= 0xff
	_, err = f.WriteAt(b, at)
	assert.NilError(t, err)
}

// What has to be the same at checkpoint and restore is in the key.
func TestSnapshotKey(t *testing.T) {
	r := open(t, t.TempDir())
	base := preloaded(t)
	key := func(c isolation.Class) string {
		k, err := r.snapshots.key(c)
		assert.NilError(t, err)
		return k
	}
	assert.Equal(t, key(base), key(base))
	for name, change := range map[string]func(*isolation.Class){
		"image":   func(c *isolation.Class) { c.Digest = "sha256:other" },
		"preload": func(c *isolation.Class) { c.Preload = "numpy" },
		"seccomp": func(c *isolation.Class) { c.Seccomp = `{"defaultAction":"SCMP_ACT_ALLOW"}` },
		"disk":    func(c *isolation.Class) { c.Ceiling.Disk++ },
	} {
		other := base
		change(&other)
		assert.Check(t, key(other) != key(base), name)
	}
	digest := r.digest
	r.digest = "sha256:other"
	other := key(base)
	r.digest = digest
	assert.Check(t, other != key(base), "runtime")
}

// Many at once share one making, an old snapshot is replaced, and sweeping
// keeps what is named.
func TestSnapshotLife(t *testing.T) {
	r := open(t, t.TempDir())
	c := class(t)
	dirs := make([]string, 4)
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			var err error
			dirs[i], err = r.snapshots.get(t.Context(), c)
			assert.Check(t, err)
		})
	}
	wg.Wait()
	first := made(t, dirs[0])
	for _, d := range dirs {
		assert.Equal(t, d, dirs[0])
	}
	assert.NilError(t, r.SweepSnapshots([]isolation.Class{c}))
	assert.Equal(t, made(t, dirs[0]), first)

	r.snapshots.maxAge = time.Nanosecond
	_, err := r.snapshots.get(t.Context(), c)
	assert.NilError(t, err)
	assert.Check(t, made(t, dirs[0]).After(first))

	assert.NilError(t, r.SweepSnapshots(nil))
	_, err = os.Stat(dirs[0])
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func made(t *testing.T, dir string) time.Time {
	info, err := os.Stat(filepath.Join(dir, manifestName))
	assert.NilError(t, err)
	return info.ModTime()
}

// One refill of a pool after the other, with the CPU time that the sandbox's
// control group says it took, and the memory that it then holds.
func BenchmarkRefill(b *testing.B) {
	for name, options := range map[string]func(testing.TB, string) Options{"direct": options, "stock": stockOptions} {
		for image, c := range map[string]isolation.Class{"bare": class(b), "preloaded": preloaded(b)} {
			if c.Warmup == "" {
				c.Warmup = "print(1)"
			}
			b.Run(name+"/"+image, func(b *testing.B) {
				l := openWith(b, options(b, b.TempDir())).RestoreLauncher(c)
				var cpu time.Duration
				var memory int64
				for i := -1; i < b.N; i++ {
					if i == 0 { // the snapshot is there
						b.ResetTimer()
					}
					s, err := l.Launch(b.Context())
					assert.NilError(b, err)
					if i >= 0 {
						used, err := s.(*sandbox).group.CPU()
						assert.NilError(b, err)
						cpu += used
						memory += s.(*sandbox).MemoryUse()
					}
					assert.NilError(b, s.Close())
				}
				b.ReportMetric(float64(cpu.Microseconds())/1e3/float64(b.N), "cpu-ms/op")
				b.ReportMetric(float64(memory)/1e6/float64(b.N), "MB/sandbox")
			})
		}
	}
}
