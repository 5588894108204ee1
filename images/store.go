package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/runner"
)

// A Store is a directory of images:
//
//	sha256-HEX/rootfs.erofs   the root filesystem, read-only
//	sha256-HEX/image.json     what it is (Image)
//	names/NAME                a link to the directory that NAME means
//
// An image appears and disappears by one rename, so that readers never see
// half of one.
type Store struct {
	Dir string
	// Shipped is a second directory, of images that packages have brought, or
	// empty. It is only read, and a name there counts if Dir does not have it.
	Shipped string
}

// An Image is one built root filesystem.
type Image struct {
	// Name it was built under.
	Name string `json:"name"`
	// Digest of the root filesystem's bytes, "sha256:HEX".
	Digest string `json:"digest"`
	// Input digest: the same input is not built again.
	Input string `json:"input"`
	// Size of the root filesystem in bytes.
	Size int64 `json:"size"`
	// Created when it was built.
	Created time.Time `json:"created"`
	// Runner digest: the program inside the sandbox is part of the image, and
	// has to be the one that this csbd speaks with.
	Runner string `json:"runner"`
	// Base that it was built from.
	Base string `json:"base"`
	// Python version, "3.11.2".
	Python string `json:"python"`
	// Packages that were asked for, by normalised name, with their versions.
	Packages map[string]string `json:"packages"`
	// Preload lists the modules that a waiting interpreter has imported.
	Preload []string `json:"preload"`
	// Warmup is what a restored interpreter executes before it gets a program.
	Warmup string `json:"warmup,omitempty"`

	// Path of the root filesystem.
	Path string `json:"-"`
}

// ErrNotFound says that no image has that name or digest.
var ErrNotFound = errors.New("no such image")

// ErrStale says that an image was built by a csbd with another runner.
var ErrStale = errors.New("built for another version of csbd: build it again")

// runnerDigest is that of the runner that this csbd bakes in and speaks with.
var runnerDigest = func() string {
	sum := sha256.Sum256(runner.Source)
	return "sha256:" + hex.EncodeToString(sum[:])
}()

const (
	rootfsName = "rootfs.erofs"
	metaName   = "image.json"
	namesDir   = "names"
	// digestDir begins the name of an image's directory.
	digestDir = "sha256-"

	// maxMeta bounds image.json in bytes.
	maxMeta = 1 << 20
)

// Resolve finds an image by name or digest.
func (s Store) Resolve(ref string) (Image, error) {
	i, err := s.own(ref)
	if s.Shipped != "" && errors.Is(err, ErrNotFound) {
		return Store{Dir: s.Shipped}.own(ref)
	}
	return i, err
}

// own is Resolve in Dir alone.
func (s Store) own(ref string) (Image, error) {
	for try := 0; ; try++ {
		i, err := s.resolve(ref)
		// An image that is removed or replaced while it is read has files missing
		// for a moment; one that is broken has them missing for good.
		if try == 3 || !errors.Is(err, fs.ErrNotExist) {
			return i, err
		}
	}
}

func (s Store) resolve(ref string) (Image, error) {
	// What begins with a dot is a name that is being made.
	if strings.ContainsAny(ref, "/\x00") || ref == "" || strings.HasPrefix(ref, ".") {
		return Image{}, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	dir := filepath.Join(s.Dir, namesDir, ref)
	if hexDigits, ok := strings.CutPrefix(ref, "sha256:"); ok {
		dir = filepath.Join(s.Dir, digestDir+hexDigits)
	}
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %q: %w", ref, err)
	}
	i, err := read(dir)
	if _, gone := os.Stat(dir); err != nil && errors.Is(gone, fs.ErrNotExist) {
		// Removed since we looked up its name.
		return Image{}, fmt.Errorf("image %q: %w", ref, ErrNotFound)
	}
	return i, err
}

// read reads the image in a directory. Whatever is in there, it is an image
// that says what the directory's name says, with a root filesystem of the size
// that it says, or an error.
func read(dir string) (Image, error) {
	data, err := readMeta(filepath.Join(dir, metaName))
	if err != nil {
		return Image{}, fmt.Errorf("read image: %w", err)
	}
	var i Image
	if err := json.Unmarshal(data, &i); err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", dir, err)
	}
	if want := strings.Replace(i.Digest, ":", "-", 1); want != filepath.Base(dir) {
		return Image{}, fmt.Errorf("read image %s: it says that its digest is %s", dir, i.Digest)
	}
	if i.Runner != runnerDigest {
		return Image{}, fmt.Errorf("image %s: %w", i.Name, ErrStale)
	}
	i.Path = filepath.Join(dir, rootfsName)
	info, err := os.Stat(i.Path)
	if err != nil {
		return Image{}, fmt.Errorf("read image: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Image{}, fmt.Errorf("read image %s: root filesystem is not a regular file", dir)
	}
	if info.Size() != i.Size {
		return Image{}, fmt.Errorf("read image %s: root filesystem has %d bytes, not %d", dir, info.Size(), i.Size)
	}
	return i, nil
}

// readMeta reads a description: a regular file of bounded size. A pipe would be
// waited for, a device read without an end.
func readMeta(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: not a regular file", path)
	case info.Size() > maxMeta:
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxMeta)
	}
	return io.ReadAll(io.LimitReader(f, maxMeta))
}

// List returns the named images, by name. Images that cannot be read are
// reported in the error; the others are returned all the same.
func (s Store) List() ([]Image, error) {
	list, err := s.listOwn()
	if s.Shipped == "" {
		return list, err
	}
	shipped, shippedErr := Store{Dir: s.Shipped}.listOwn()
	for _, i := range shipped {
		if _, err := os.Lstat(filepath.Join(s.Dir, namesDir, i.Name)); errors.Is(err, fs.ErrNotExist) {
			list = append(list, i)
		}
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return list, errors.Join(err, shippedErr)
}

// listOwn is List of Dir alone.
func (s Store) listOwn() ([]Image, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, namesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Image
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		i, err := s.own(e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		i.Name = e.Name()
		list = append(list, i)
	}
	return list, errors.Join(errs...)
}

// Remove takes a name of Dir away, and the image with it unless another name means
// it. Sandboxes that run from it keep it until they end.
func (s Store) Remove(name string) error {
	// Links are compared, not images: one that is broken can be removed, too.
	names := filepath.Join(s.Dir, namesDir)
	target, err := os.Readlink(filepath.Join(names, name))
	if err != nil || filepath.Base(name) != name {
		if _, err := (Store{Dir: s.Shipped}).own(name); s.Shipped != "" && err == nil {
			return fmt.Errorf("image %q belongs to a package: remove that", name)
		}
		return fmt.Errorf("image %q: %w", name, ErrNotFound)
	}
	if err := os.Remove(filepath.Join(names, name)); err != nil {
		return err
	}
	dir := filepath.Base(target)
	if !strings.HasPrefix(dir, digestDir) {
		return nil // the link led to no image
	}
	entries, err := os.ReadDir(names)
	if err != nil {
		return err
	}
	for _, e := range entries {
		other, err := os.Readlink(filepath.Join(names, e.Name()))
		if err == nil && filepath.Base(other) == dir && !strings.HasPrefix(e.Name(), ".") {
			return nil
		}
	}
	gone := filepath.Join(s.Dir, ".removed-"+dir)
	if err := os.RemoveAll(gone); err != nil { // what a crash left
		return err
	}
	if err := os.Rename(filepath.Join(s.Dir, dir), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(gone)
}

// Verify reads the whole root filesystem and compares its digest.
func (i Image) Verify() error {
	got, err := isolation.DigestFile(i.Path)
	if err != nil {
		return err
	}
	if got != i.Digest {
		return fmt.Errorf("image %s: content has digest %s, not %s", i.Name, got, i.Digest)
	}
	return nil
}

// byInput finds an image that was built from the same input.
func (s Store) byInput(input string) (Image, bool) {
	dirs, _ := filepath.Glob(filepath.Join(s.Dir, digestDir+"*"))
	for _, dir := range dirs {
		if i, err := read(dir); err == nil && i.Input == input {
			return i, true
		}
	}
	return Image{}, false
}

// add moves a finished root filesystem into the store. work is a directory of
// the store's filesystem that holds rootfs.erofs and is used up.
func (s Store) add(work string, i Image) (Image, error) {
	path := filepath.Join(work, rootfsName)
	var err error
	if i.Digest, err = isolation.DigestFile(path); err != nil {
		return Image{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return Image{}, err
	}
	i.Size, i.Runner = info.Size(), runnerDigest
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return Image{}, err
	}
	// World-readable: a sandbox's own processes have no privilege.
	if err := os.WriteFile(filepath.Join(work, metaName), append(data, '\n'), 0o444); err != nil {
		return Image{}, err
	}
	if err := errors.Join(os.Chmod(path, 0o444), os.Chmod(work, 0o755), syncAll(path, work)); err != nil {
		return Image{}, err
	}
	dir := filepath.Join(s.Dir, strings.Replace(i.Digest, ":", "-", 1))
	if _, err := read(dir); err != nil {
		// Absent, or what a crash left of it.
		if err := os.RemoveAll(dir); err != nil {
			return Image{}, err
		}
		if err := os.Rename(work, dir); err != nil {
			return Image{}, err
		}
	}
	i.Path = filepath.Join(dir, rootfsName)
	return i, nil
}

// name makes name mean the image.
func (s Store) name(i Image, name string) error {
	dir := filepath.Join(s.Dir, namesDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp := filepath.Join(dir, "."+name)
	_ = os.Remove(temp)
	if err := os.Symlink(filepath.Join("..", filepath.Base(filepath.Dir(i.Path))), temp); err != nil {
		return err
	}
	return errors.Join(os.Rename(temp, filepath.Join(dir, name)), syncAll(dir, s.Dir))
}

func syncAll(paths ...string) error {
	var errs []error
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, f.Sync(), f.Close())
	}
	return errors.Join(errs...)
}
