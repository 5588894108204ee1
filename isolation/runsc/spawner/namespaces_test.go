package spawner

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestObstacle(t *testing.T) {
	dir := t.TempDir()
	set := func(name, value string) {
		file := filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		assert.NilError(t, os.WriteFile(file, []byte(value+"\n"), 0o644))
	}
	assert.Equal(t, obstacle(dir, true), "")
	assert.Equal(t, obstacle(dir, false), "")
	for _, setting := range []struct {
		name, free, blocked string
		root                bool // root is kept from it, too
	}{
		{"kernel/apparmor_restrict_unprivileged_userns", "0", "1", false},
		{"kernel/unprivileged_userns_clone", "1", "0", false},
		{"user/max_user_namespaces", "96365", "0", true},
	} {
		set(setting.name, setting.free)
		assert.Equal(t, obstacle(dir, false), "")
		set(setting.name, setting.blocked)
		got := obstacle(dir, false)
		name := strings.ReplaceAll(setting.name, "/", ".")
		assert.Assert(t, strings.HasPrefix(got, name+" is "+setting.blocked) && strings.Contains(got, "`sysctl "+name+"="), "%s: %s", name, got)
		assert.Equal(t, obstacle(dir, true) != "", setting.root, name)
		set(setting.name, setting.free)
	}
}

// What a spawner needs can be had here, and that it could not is noticed.
func TestTryNamespaces(t *testing.T) {
	assert.NilError(t, TryNamespaces("/bin/true"))
	assert.ErrorContains(t, TryNamespaces("/nonexistent"), "no such file")
	assert.Assert(t, explain(nil) == nil)
	gone := errors.New("gone")
	assert.ErrorIs(t, explain(gone), gone)
}
