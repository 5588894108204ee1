package images_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/images/imagetest"
)

// The default image is built; to build it is then to find it.
func TestDefaultImageIsUpToDate(t *testing.T) {
	image := imagetest.Python(t)
	store := imagetest.Store()
	before, err := filepath.Glob(filepath.Join(store.Dir, "sha256-*"))
	assert.NilError(t, err)

	project, err := images.ReadProject("python")
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // starting anything fails
	var progress bytes.Buffer
	start := time.Now()
	again, err := store.Build(ctx, project, &progress)
	assert.NilError(t, err)
	assert.Check(t, time.Since(start) < 5*time.Second)
	assert.DeepEqual(t, again, image)
	assert.Equal(t, progress.String(), "image python: "+image.Digest+" is up to date\n")
	after, err := filepath.Glob(filepath.Join(store.Dir, "sha256-*"))
	assert.NilError(t, err)
	assert.DeepEqual(t, after, before)
}

func TestDefaultImage(t *testing.T) {
	image := imagetest.Python(t)
	assert.Equal(t, image.Name, "python")
	assert.DeepEqual(t, image.Preload, []string{"numpy", "pandas"})
	assert.Check(t, image.Packages["numpy"] != "" && image.Packages["pandas"] != "" && image.Python != "", "%+v", image)
	if testing.Short() {
		t.Skip("reads all of the image")
	}
	assert.NilError(t, image.Verify())
}

// Debian does not have everything, and the error says what, not how apt failed.
func TestDependencyThatDebianLacks(t *testing.T) {
	if testing.Short() {
		t.Skip("runs mmdebstrap")
	}
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "pyproject.toml"),
		[]byte("[project]\nname = \"x\"\ndependencies = [\"No_Such.Thing>=1\"]\n"), 0o600))
	project, err := images.ReadProject(dir)
	assert.NilError(t, err)
	store := images.Store{Dir: filepath.Join(dir, "images")}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_, err = store.Build(ctx, project, os.Stderr)
	assert.Error(t, err, "image x: dependency no-such-thing: debian:bookworm has no package python3-no-such-thing")
	entries, err := os.ReadDir(store.Dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0, "%v", entries)
}
