package images

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// put adds an image whose root filesystem has the given content, and names it.
func put(t testing.TB, s Store, name, content, input string) Image {
	t.Helper()
	assert.NilError(t, os.MkdirAll(s.Dir, 0o755))
	work, err := os.MkdirTemp(s.Dir, ".build-")
	assert.NilError(t, err)
	defer os.RemoveAll(work)
	assert.NilError(t, os.WriteFile(filepath.Join(work, rootfsName), []byte(content), 0o600))
	i, err := s.add(work, Image{Name: name, Input: input, Created: time.Unix(1e9, 0).UTC(), Base: "debian:bookworm",
		Python: "3.11.2", Packages: map[string]string{"numpy": "1.24.2"}, Preload: []string{"numpy"}})
	assert.NilError(t, err)
	assert.NilError(t, s.name(i, name))
	return i
}

func digest(content string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content))) }

func names(t *testing.T, s Store) []string {
	t.Helper()
	list, err := s.List()
	assert.NilError(t, err)
	got := []string{}
	for _, i := range list {
		got = append(got, i.Name)
	}
	return got
}

func TestStore(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	assert.DeepEqual(t, names(t, s), []string{})
	_, err := s.Resolve("b")
	assert.ErrorIs(t, err, ErrNotFound)

	b := put(t, s, "b", "content of b", "sha256:1")
	a := put(t, s, "a", "content of a", "sha256:2")
	assert.Equal(t, b.Digest, digest("content of b"))
	assert.DeepEqual(t, names(t, s), []string{"a", "b"})
	for _, ref := range []string{"b", b.Digest} {
		got, err := s.Resolve(ref)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, b)
		assert.NilError(t, got.Verify())
		data, err := os.ReadFile(got.Path)
		assert.NilError(t, err)
		assert.Equal(t, string(data), "content of b")
	}
	// Sandboxes read it without any privilege; nobody writes.
	for path, mode := range map[string]os.FileMode{b.Path: 0o444, filepath.Join(filepath.Dir(b.Path), metaName): 0o444, filepath.Dir(b.Path): 0o755} {
		info, err := os.Stat(path)
		assert.NilError(t, err)
		assert.Equal(t, info.Mode().Perm(), mode, path)
	}
	i, ok := s.byInput("sha256:2")
	assert.Check(t, ok && i.Digest == a.Digest)
	_, ok = s.byInput("sha256:3")
	assert.Check(t, !ok)

	// A store that is moved, or seen through another path, is the same.
	moved := Store{Dir: s.Dir + "2"}
	assert.NilError(t, os.Rename(s.Dir, moved.Dir))
	got, err := moved.Resolve("a")
	assert.NilError(t, err)
	assert.Equal(t, got.Path, strings.Replace(a.Path, s.Dir, moved.Dir, 1))
}

func TestResolveStaysInside(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	put(t, s, "a", "content", "sha256:1")
	assert.NilError(t, os.Symlink("a", filepath.Join(s.Dir, namesDir, ".b"))) // a name in the making
	for _, ref := range []string{"", ".", "..", "/", "../names/a", "names/a", "/etc/passwd", "a\x00", "a/", "sha256:", "sha256:..", "sha256:../a", "sha256-", "A", "b", ".a", ".b",
		strings.Repeat("x", 300), "sha256:" + strings.Repeat("0", 64)} {
		_, err := s.Resolve(ref)
		assert.Check(t, err != nil, "%q", ref)
		if len(ref) < 256 {
			assert.Check(t, errors.Is(err, ErrNotFound), "%q: %v", ref, err)
		}
	}
}

// TestShipped: what packages bring is found, never shadows what the
// administrator has built, not even something that cannot be used, and is
// never written to.
func TestShipped(t *testing.T) {
	dir := t.TempDir()
	shipped := put(t, Store{Dir: filepath.Join(dir, "shipped")}, "python", "shipped", "sha256:1")
	s := Store{Dir: filepath.Join(dir, "own"), Shipped: filepath.Join(dir, "shipped")}
	for _, ref := range []string{"python", shipped.Digest} {
		got, err := s.Resolve(ref)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, shipped)
	}
	put(t, s, "zlib", "own", "sha256:2")
	put(t, s, "a", "own", "sha256:2")
	assert.DeepEqual(t, names(t, s), []string{"a", "python", "zlib"})
	assert.ErrorContains(t, s.Remove("python"), "belongs to a package")
	assert.ErrorIs(t, s.Remove("ruby"), ErrNotFound)
	_, found := s.byInput("sha256:1")
	assert.Check(t, !found, "a build would be named in the package's directory")

	own := put(t, s, "python", "built here", "sha256:3")
	got, err := s.Resolve("python")
	assert.NilError(t, err)
	assert.Equal(t, got.Digest, own.Digest)
	assert.DeepEqual(t, names(t, s), []string{"a", "python", "zlib"})
	assert.NilError(t, os.Chmod(filepath.Dir(own.Path), 0o700))
	data, err := os.ReadFile(filepath.Join(filepath.Dir(own.Path), metaName))
	assert.NilError(t, err)
	meta := filepath.Join(filepath.Dir(own.Path), metaName)
	assert.NilError(t, os.Remove(meta))
	assert.NilError(t, os.WriteFile(meta, []byte(strings.Replace(string(data), runnerDigest, "sha256:0", 1)), 0o444))
	_, err = s.Resolve("python")
	assert.ErrorIs(t, err, ErrStale)
	assert.NilError(t, s.Remove("python"))
	got, err = s.Resolve("python")
	assert.NilError(t, err)
	assert.Equal(t, got.Digest, shipped.Digest)
	assert.NilError(t, got.Verify())

	// Without a package there is nothing to look into.
	s.Shipped = filepath.Join(dir, "none")
	assert.DeepEqual(t, names(t, s), []string{"a", "zlib"})
	_, err = s.Resolve("python")
	assert.ErrorIs(t, err, ErrNotFound)
}

func TestNameMovesOn(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	one := put(t, s, "a", "one", "sha256:1")
	two := put(t, s, "a", "two", "sha256:2")
	got, err := s.Resolve("a")
	assert.NilError(t, err)
	assert.Equal(t, got.Digest, two.Digest)
	// The old one is still there by its digest: sandboxes may be using it.
	got, err = s.Resolve(one.Digest)
	assert.NilError(t, err)
	assert.NilError(t, got.Verify())
	// The same content again is the same image.
	again := put(t, s, "a", "one", "sha256:1")
	assert.Equal(t, again.Path, one.Path)
}

func TestRemove(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	assert.ErrorIs(t, s.Remove("a"), ErrNotFound)
	a := put(t, s, "a", "shared", "sha256:1")
	put(t, s, "b", "shared", "sha256:1")
	put(t, s, "c", "another", "sha256:2")
	open, err := os.Open(a.Path)
	assert.NilError(t, err)
	defer open.Close()

	assert.NilError(t, s.Remove("a"))
	assert.DeepEqual(t, names(t, s), []string{"b", "c"})
	_, err = s.Resolve("a")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = s.Resolve(a.Digest) // b needs it
	assert.NilError(t, err)

	assert.NilError(t, s.Remove("b"))
	_, err = s.Resolve(a.Digest)
	assert.ErrorIs(t, err, ErrNotFound)
	// What runs keeps what it has open.
	data, err := io.ReadAll(open)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "shared")
	assert.DeepEqual(t, names(t, s), []string{"c"})
	assert.NilError(t, s.Remove("c"))
	left, err := filepath.Glob(filepath.Join(s.Dir, "*sha256*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
	for _, name := range []string{"", ".", "..", "../x", "c"} {
		assert.ErrorIs(t, s.Remove(name), ErrNotFound)
	}
}

func writeMeta(t *testing.T, i Image, text string) {
	t.Helper()
	file := filepath.Join(filepath.Dir(i.Path), metaName)
	assert.NilError(t, os.Remove(file))
	assert.NilError(t, os.WriteFile(file, []byte(text), 0o444))
}

func TestBrokenImages(t *testing.T) {
	for _, test := range []struct {
		name, want string
		damage     func(t *testing.T, i Image)
	}{
		{"truncated", "root filesystem has 3 bytes, not 7", func(t *testing.T, i Image) { assert.NilError(t, os.Truncate(i.Path, 3)) }},
		{"longer", "root filesystem has 9 bytes, not 7", func(t *testing.T, i Image) { assert.NilError(t, os.Truncate(i.Path, 9)) }},
		{"no root filesystem", "rootfs.erofs: no such file or directory", func(t *testing.T, i Image) { assert.NilError(t, os.Remove(i.Path)) }},
		{"no description", "image.json: no such file or directory", func(t *testing.T, i Image) {
			assert.NilError(t, os.Remove(filepath.Join(filepath.Dir(i.Path), metaName)))
		}},
		{"empty description", "unexpected end of JSON input", func(t *testing.T, i Image) { writeMeta(t, i, "") }},
		{"description without an end", "larger than 1048576 bytes", func(t *testing.T, i Image) { writeMeta(t, i, strings.Repeat(" ", maxMeta+1)) }},
		{"description that is a pipe", "image.json: not a regular file", func(t *testing.T, i Image) {
			file := filepath.Join(filepath.Dir(i.Path), metaName)
			assert.NilError(t, os.Remove(file))
			assert.NilError(t, unix.Mkfifo(file, 0o644))
		}},
		{"description that is a device", "image.json: not a regular file", func(t *testing.T, i Image) {
			file := filepath.Join(filepath.Dir(i.Path), metaName)
			assert.NilError(t, os.Remove(file))
			assert.NilError(t, os.Symlink("/dev/zero", file))
		}},
		{"root filesystem that is a directory", "root filesystem is not a regular file", func(t *testing.T, i Image) {
			assert.NilError(t, os.Remove(i.Path))
			assert.NilError(t, os.Mkdir(i.Path, 0o755))
		}},
		{"root filesystem that is a device", "root filesystem is not a regular file", func(t *testing.T, i Image) {
			assert.NilError(t, os.Remove(i.Path))
			assert.NilError(t, os.Symlink("/dev/zero", i.Path))
		}},
		{"description of another", "it says that its digest is sha256:5", func(t *testing.T, i Image) { writeMeta(t, i, `{"digest":"sha256:5","size":7}`) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Store{Dir: t.TempDir()}
			broken := put(t, s, "b", "content", "sha256:1")
			good := put(t, s, "a", "another", "sha256:2")
			test.damage(t, broken)
			_, err := s.Resolve("b")
			assert.ErrorContains(t, err, test.want)
			_, err = s.Resolve(broken.Digest)
			assert.ErrorContains(t, err, test.want)
			_, ok := s.byInput("sha256:1")
			assert.Check(t, !ok)
			// The others are as well as before.
			list, err := s.List()
			assert.ErrorContains(t, err, test.want)
			assert.DeepEqual(t, list, []Image{good})
			// Building it again repairs it.
			put(t, s, "b", "content", "sha256:1")
			got, err := s.Resolve("b")
			assert.NilError(t, err)
			assert.NilError(t, got.Verify())
		})
	}
}

// A change that keeps the size shows only when everything is read.
func TestVerify(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	i := put(t, s, "a", "content", "sha256:1")
	assert.NilError(t, os.Chmod(i.Path, 0o644))
	assert.NilError(t, os.WriteFile(i.Path, []byte("c0ntent"), 0o644))
	got, err := s.Resolve("a")
	assert.NilError(t, err)
	assert.Error(t, got.Verify(), "image a: content has digest "+digest("c0ntent")+", not "+i.Digest)
}

// An image that is broken can be removed: it is what one wants to do with it.
func TestRemoveBrokenImage(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	i := put(t, s, "a", "content", "sha256:1")
	assert.NilError(t, os.Truncate(i.Path, 3))
	assert.NilError(t, s.Remove("a"))
	_, err := s.Resolve("a")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = os.Stat(filepath.Dir(i.Path))
	assert.ErrorIs(t, err, os.ErrNotExist)

	// So can one of another version of csbd.
	i = put(t, s, "a", "content", "sha256:1")
	writeMeta(t, i, `{"digest":"`+i.Digest+`","size":7,"runner":"sha256:0"}`)
	assert.NilError(t, s.Remove("a"))

	// And a name that leads nowhere.
	i = put(t, s, "a", "content", "sha256:1")
	assert.NilError(t, os.RemoveAll(filepath.Dir(i.Path)))
	assert.NilError(t, s.Remove("a"))
	assert.DeepEqual(t, names(t, s), []string{})
}

// A name that leads to something else than an image takes nothing with it.
func TestRemoveOfABadName(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	i := put(t, s, "a", "content", "sha256:1")
	for _, target := range []string{"../names", "..", ".", "../..", "/etc", "a", "../names/a", "x/.."} {
		assert.NilError(t, os.Symlink(target, filepath.Join(s.Dir, namesDir, "b")))
		assert.NilError(t, s.Remove("b"), target)
		got, err := s.Resolve("a")
		assert.NilError(t, err, target)
		assert.Equal(t, got.Path, i.Path)
	}
}

// Another image that is broken is no reason to remove one half.
func TestRemoveBesideABrokenImage(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	broken := put(t, s, "b", "content", "sha256:1")
	i := put(t, s, "a", "another", "sha256:2")
	assert.NilError(t, os.Truncate(broken.Path, 3))
	assert.NilError(t, s.Remove("a"))
	_, err := os.Stat(filepath.Dir(i.Path))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// What a crash leaves behind at each step is no obstacle to what comes next.
func TestCrashLeftovers(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	i := put(t, s, "a", "content", "sha256:1")
	dir := filepath.Base(filepath.Dir(i.Path))
	for _, path := range []string{
		".build-123/tree/usr/bin", ".build-124",
		".removed-" + dir + "/deep", // a removal that was cut short, of the same content
		"sha256-" + strings.Repeat("0", 64),
		"sha256-" + strings.Repeat("1", 64) + "/x",
	} {
		assert.NilError(t, os.MkdirAll(filepath.Join(s.Dir, path), 0o755))
	}
	half := filepath.Join(s.Dir, "sha256-"+strings.Repeat("2", 64))
	assert.NilError(t, os.Mkdir(half, 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(half, rootfsName), []byte("hal"), 0o444))
	assert.NilError(t, os.Symlink("../nowhere", filepath.Join(s.Dir, namesDir, ".a")))
	assert.NilError(t, os.Symlink("../nowhere", filepath.Join(s.Dir, namesDir, ".b")))

	assert.DeepEqual(t, names(t, s), []string{"a"})
	_, err := s.Resolve("a")
	assert.NilError(t, err)
	_, ok := s.byInput("sha256:1")
	assert.Check(t, ok)
	put(t, s, "b", "another", "sha256:2")
	put(t, s, "a", "content", "sha256:1")
	assert.DeepEqual(t, names(t, s), []string{"a", "b"})
	_, err = s.Resolve("sha256:" + strings.Repeat("2", 64))
	assert.Check(t, err != nil)

	assert.NilError(t, s.Remove("a"))
	_, err = os.Stat(filepath.Join(s.Dir, dir))
	assert.ErrorIs(t, err, os.ErrNotExist)

	// A half directory of the very content that comes next.
	i = put(t, s, "c", "third", "sha256:3")
	assert.NilError(t, os.Remove(filepath.Join(filepath.Dir(i.Path), metaName)))
	put(t, s, "c", "third", "sha256:3")
	got, err := s.Resolve("c")
	assert.NilError(t, err)
	assert.NilError(t, got.Verify())
}

// Readers see the image of before or the one of after, and nothing between.
func TestResolveWhileBuilding(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	put(t, s, "a", "0", "sha256:0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				i, err := s.Resolve("a")
				if err == nil {
					err = i.Verify()
				}
				if err == nil {
					_, err = s.List()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for n := range 150 {
		put(t, s, "a", fmt.Sprint(n%7), "sha256:0")
	}
	close(stop)
	wg.Wait()
}

// An image that is removed meanwhile is not there, rather than broken.
func TestResolveWhileRemoving(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	put(t, s, "a", "content", "sha256:0")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Resolve("a"); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 300 {
		assert.NilError(t, s.Remove("a"))
		put(t, s, "a", "content", "sha256:0")
	}
	close(stop)
	wg.Wait()
}
