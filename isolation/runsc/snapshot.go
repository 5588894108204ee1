package runsc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// snapshots keeps one checkpoint for each class: a sandbox whose interpreter
// has imported what the image preloads, and waits. It lives in
// STATE_DIR/snapshots/KEY, where KEY covers everything that has to be the same
// at checkpoint and restore.
type snapshots struct {
	runtime *Runtime
	dir     string
	maxAge  time.Duration

	mu    sync.Mutex
	known map[isolation.Class]*snapshot
}

// A snapshot is made at most once at a time, and checked against its manifest
// before it is used for the first time.
type snapshot struct {
	mu   sync.Mutex // held while it is made or checked
	dir  string     // "" until it is usable
	made time.Time
	seen map[string]fileState // of the files, when they were checked

	state atomic.Pointer[SnapshotState]
}

// A SnapshotState says whether there is a snapshot.
type SnapshotState struct {
	// Making says that it is being made, since Since. Otherwise it was made then;
	// the zero time means that there is none yet.
	Making bool
	Since  time.Time
}

// SnapshotState of a class.
func (r *Runtime) SnapshotState(c isolation.Class) SnapshotState {
	r.snapshots.mu.Lock()
	snap := r.snapshots.known[c]
	r.snapshots.mu.Unlock()
	if snap != nil {
		if state := snap.state.Load(); state != nil {
			return *state
		}
	}
	return SnapshotState{}
}

// manifest says what a snapshot's files have to be.
type manifest struct {
	Key   string            `json:"key"`
	Made  time.Time         `json:"made"`
	Files map[string]string `json:"files"` // name → "sha256:…"
}

const manifestName = "manifest.json"

// A fileState changes when a file is written to or replaced.
type fileState struct {
	size, inode int64
	modified    time.Time
}

func newSnapshots(r *Runtime, stateDir string, maxAge time.Duration) *snapshots {
	return &snapshots{runtime: r, dir: filepath.Join(stateDir, "snapshots"), maxAge: maxAge, known: map[isolation.Class]*snapshot{}}
}

// key names the snapshot of a class: it covers the runtime's binary and flags,
// the image (with the runner in it), the OCI configuration, and the processor,
// whose features the guest's programs have seen.
func (s *snapshots) key(c isolation.Class) (string, error) {
	config, err := configuration(c, strings.Fields(c.Preload))
	if err != nil {
		return "", err
	}
	cpu, err := processor()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, part := range []string{"2", s.runtime.digest, strings.Join(s.runtime.flags(""), " "), c.Digest, string(config), cpu} {
		fmt.Fprintf(h, "%d\n%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// processor is what /proc/cpuinfo says of the first processor's model and
// features.
func processor() (string, error) {
	lines, err := readLines("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	var keep []string
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if name == "processor" && len(keep) > 0 {
			break
		}
		switch name {
		case "processor", "vendor_id", "cpu family", "model", "model name", "stepping", "flags":
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n"), nil
}

// get returns the directory of the class's snapshot, which it makes if there
// is none that is right and young enough.
func (s *snapshots) get(ctx context.Context, c isolation.Class) (string, error) {
	s.mu.Lock()
	snap := s.known[c]
	if snap == nil {
		snap = &snapshot{}
		s.known[c] = snap
	}
	s.mu.Unlock()

	snap.mu.Lock()
	defer snap.mu.Unlock()
	if snap.dir != "" && snap.unchanged() && !s.old(snap.made) {
		return snap.dir, nil
	}
	key, err := s.key(c)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(s.dir, key)
	if snap.dir == "" {
		// What an earlier csbd made is good if it is complete.
		if made, err := verify(dir, key); err == nil && !s.old(made) {
			return dir, snap.adopt(dir, made)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.runtime.log.Warn("snapshot is not usable and is made anew", "snapshot", key, "error", err)
		}
	} else {
		s.runtime.log.Warn("snapshot was changed or is old, and is made anew", "snapshot", key)
	}
	snap.dir = ""
	start := time.Now()
	snap.state.Store(&SnapshotState{Making: true, Since: start})
	s.runtime.log.Info("making snapshot", "snapshot", key, "image", c.Digest, "preload", c.Preload)
	if err := s.make(ctx, c, key, dir); err != nil {
		snap.state.Store(nil)
		return "", fmt.Errorf("make snapshot %s: %w", key, err)
	}
	s.runtime.log.Info("snapshot made", "snapshot", key, "image", c.Digest, "preload", c.Preload, "duration", time.Since(start).Round(time.Millisecond))
	return dir, snap.adopt(dir, time.Now())
}

func (s *snapshots) old(made time.Time) bool {
	return s.maxAge > 0 && time.Since(made) > s.maxAge
}

// forget has the snapshot checked, or made anew, before it is used again.
func (s *snapshots) forget(c isolation.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, c)
}

func (s *snapshot) adopt(dir string, made time.Time) error {
	seen, err := states(dir)
	if err != nil {
		return err
	}
	s.dir, s.made, s.seen = dir, made, seen
	s.state.Store(&SnapshotState{Since: made})
	return nil
}

func (s *snapshot) unchanged() bool {
	now, err := states(s.dir)
	if err != nil || len(now) != len(s.seen) {
		return false
	}
	for name, state := range now {
		if s.seen[name] != state {
			return false
		}
	}
	return true
}

// make cold-starts a sandbox, lets it preload, and checkpoints it.
func (s *snapshots) make(ctx context.Context, c isolation.Class, key, dir string) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(s.dir, makePrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	template, err := s.runtime.Launcher(c, strings.Fields(c.Preload)).Launch(ctx)
	if err != nil {
		return err
	}
	defer template.Close()
	if err := s.runtime.checkpoint(ctx, template.(*sandbox), temp); err != nil {
		return err
	}
	if err := template.Close(); err != nil {
		return err
	}
	m := manifest{Key: key, Made: time.Now().UTC(), Files: map[string]string{}}
	names, err := files(temp)
	if err != nil {
		return err
	}
	for _, name := range names {
		if m.Files[name], err = isolation.DigestFile(filepath.Join(temp, name)); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(temp, manifestName), data, 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(temp, dir)
}

func (r *Runtime) checkpoint(ctx context.Context, s *sandbox, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.booter.checkpoint(ctx, s, dir); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// verify compares a snapshot's files with its manifest.
func verify(dir, key string) (made time.Time, err error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return made, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return made, fmt.Errorf("manifest: %w", err)
	}
	if m.Key != key || len(m.Files) == 0 {
		return made, errors.New("manifest is of another snapshot")
	}
	names, err := files(dir)
	if err != nil {
		return made, err
	}
	if len(names) != len(m.Files) {
		return made, fmt.Errorf("%d files, not %d", len(names), len(m.Files))
	}
	for name, want := range m.Files {
		got, err := isolation.DigestFile(filepath.Join(dir, name))
		if err != nil {
			return made, err
		}
		if got != want {
			return made, fmt.Errorf("%s is damaged", name)
		}
	}
	return m.Made, nil
}

// files lists a snapshot's files, its manifest excepted.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != manifestName {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

const makePrefix = ".make-"

// clean removes what an interrupted make left.
func (s *snapshots) clean() error {
	left, err := filepath.Glob(filepath.Join(s.dir, makePrefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// SweepSnapshots removes the snapshots of all but the given classes.
func (r *Runtime) SweepSnapshots(classes []isolation.Class) error { return r.snapshots.sweep(classes) }

func (s *snapshots) sweep(classes []isolation.Class) error {
	s.mu.Lock()
	for c := range s.known {
		if !slices.Contains(classes, c) {
			delete(s.known, c)
		}
	}
	s.mu.Unlock()
	keep := map[string]bool{}
	for _, c := range classes {
		key, err := s.key(c)
		if err != nil {
			return err
		}
		keep[key] = true
	}
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] && !strings.HasPrefix(e.Name(), makePrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
