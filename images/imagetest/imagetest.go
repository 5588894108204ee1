// Package imagetest gives tests the default image, built once and shared.
package imagetest

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images"
)

// Root is the top of the source tree.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Store is the store that `make image` fills: CSBD_IMAGE_DIR, or run/images.
func Store() images.Store {
	if dir := os.Getenv("CSBD_IMAGE_DIR"); dir != "" {
		return images.Store{Dir: dir}
	}
	return images.Store{Dir: filepath.Join(Root(), "run", "images")}
}

// Runsc is the stock runtime that `make build` leaves: CSBD_RUNSC, or bin/runsc.
func Runsc(t testing.TB) string { return built(t, "CSBD_RUNSC", "runsc") }

// Sentry is the program of direct starts that `make build` leaves: CSBD_SENTRY,
// or bin/csbd-sentry.
func Sentry(t testing.TB) string { return built(t, "CSBD_SENTRY", "csbd-sentry") }

func built(t testing.TB, variable, name string) string {
	path := os.Getenv(variable)
	if path == "" {
		path = filepath.Join(Root(), "bin", name)
	}
	_, err := os.Stat(path)
	assert.NilError(t, err, "run `make build` first")
	return path
}

// Python is the default image. Test binaries that run at the same time build
// it one after the other, so that the first does and the rest find it.
func Python(t testing.TB) images.Image {
	t.Helper()
	store := Store()
	assert.NilError(t, os.MkdirAll(store.Dir, 0o755))
	lock, err := os.OpenFile(filepath.Join(store.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	assert.NilError(t, err)
	defer lock.Close()
	assert.NilError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	project, err := images.ReadProject(filepath.Join(Root(), "images", "python"))
	assert.NilError(t, err)
	image, err := store.Build(context.Background(), project, testWriter{t})
	assert.NilError(t, err)
	return image
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}
