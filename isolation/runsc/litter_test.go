package runsc

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// What cannot be removed because it is read-only is removed once it is not.
func TestLitter(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("mounting needs root")
	}
	root := t.TempDir()
	assert.NilError(t, unix.Mount("csbd-test", root, "tmpfs", 0, "size=1m"))
	defer func() { assert.Check(t, unix.Unmount(root, unix.MNT_DETACH)) }()
	made := func(name string) string {
		dir := filepath.Join(root, name)
		assert.NilError(t, os.MkdirAll(filepath.Join(dir, "inside"), 0o700))
		return dir
	}
	a, b, c, d := made("a"), made("b"), made("c"), made("d")
	var l litter
	assert.NilError(t, l.remove(a))
	assert.NilError(t, unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	assert.ErrorIs(t, l.remove(b), unix.EROFS)
	_ = l.remove(filepath.Join(root, "never made"))
	assert.Equal(t, len(l.dirs), 1)
	assert.NilError(t, unix.Mount("", root, "", unix.MS_REMOUNT, ""))
	assert.NilError(t, l.remove(c))
	assert.Equal(t, len(l.dirs), 0)
	l.dirs = map[string]bool{d: true}
	assert.NilError(t, l.removeAll())
	left, err := os.ReadDir(root)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
}
