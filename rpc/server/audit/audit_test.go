package audit

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
)

type entry struct{ Writer, N int }

// Rotation under load loses no line and writes none twice; a line that a killed
// csbd left half-written does not spoil the next.
func TestRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit")
	assert.NilError(t, os.WriteFile(path, []byte(`{"half`), 0o644))
	f, err := Open(path, 4<<10, 100)
	assert.NilError(t, err)
	l := New(f, slog.New(slog.DiscardHandler))
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for n := range 400 {
				l.Add(entry{w, n})
			}
		})
	}
	all.Wait()
	assert.NilError(t, l.Close())
	written, lost := l.Counts()
	assert.Check(t, written == 8*400 && lost == 0, "%d %d", written, lost)
	files, err := filepath.Glob(path + "*")
	assert.NilError(t, err)
	assert.Check(t, len(files) > 3)
	seen, halves := map[entry]int{}, 0
	for _, file := range files {
		info, err := os.Stat(file)
		assert.NilError(t, err)
		assert.Check(t, info.Size() <= 4<<10 && info.Mode().Perm() == 0o600, "%v", info)
		data, err := os.ReadFile(file)
		assert.NilError(t, err)
		for line := range strings.Lines(string(data)) {
			var e entry
			if json.Unmarshal([]byte(line), &e) != nil {
				halves++
				continue
			}
			seen[e]++
			assert.Check(t, seen[e] == 1)
		}
	}
	assert.Check(t, halves == 1 && int64(len(seen)) == written, "%d, %d of %d", halves, len(seen), written)
}

func TestKeep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit")
	f, err := Open(path, 10, 2)
	assert.NilError(t, err)
	for range 20 {
		_, err := f.Write([]byte("12345678\n"))
		assert.NilError(t, err)
	}
	files, _ := filepath.Glob(path + "*")
	assert.DeepEqual(t, files, []string{path, path + ".1", path + ".2"})
	assert.NilError(t, f.Close())
}

// A full disk costs lines, which are counted, and leaves whole ones only.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	assert.NilError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"))
	defer func() { assert.Check(t, syscall.Unmount(dir, 0)) }()
	path := filepath.Join(dir, "audit")
	f, err := Open(path, 1<<20, 1)
	assert.NilError(t, err)
	var complaints bytes.Buffer
	l := New(f, slog.New(slog.NewTextHandler(&complaints, nil)))
	for n := range 2000 {
		l.Add(entry{0, n})
	}
	assert.NilError(t, l.Close())
	written, lost := l.Counts()
	assert.Check(t, written > 0 && lost > 0 && written+lost == 2000, "%d %d", written, lost)
	assert.Check(t, strings.Contains(complaints.String(), "audit lines lost"))
	data, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Check(t, bytes.HasSuffix(data, []byte("}\n")) && int64(bytes.Count(data, []byte("\n"))) == written)
}
