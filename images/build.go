package images

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/isolation/runner"
)

// recipe is part of every input digest: raise it when the way of building
// changes what comes out.
const recipe = "debian-apt-erofs 2"

// epoch is the time stamp of every file, so that the same input gives the same
// bytes.
const epoch = "1704067200"

// Build makes the image of the project and gives it the project's name. When
// the store has one of the same input, that is all it does. Progress goes to
// progress, a line at a time. It needs root, mmdebstrap and mkfs.erofs.
func (s Store) Build(ctx context.Context, p *Project, progress io.Writer) (Image, error) {
	input := p.inputDigest()
	if i, ok := s.byInput(input); ok {
		fmt.Fprintf(progress, "image %s: %s is up to date\n", p.Name, i.Digest)
		return i, s.name(i, p.Name)
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return Image{}, err
	}
	work, err := os.MkdirTemp(s.Dir, ".build-")
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(work)
	tree := filepath.Join(work, "tree")

	fmt.Fprintf(progress, "image %s: installing %s with %s (a minute or two)\n", p.Name, p.Base, strings.Join(p.packages(), ", "))
	if err := debootstrap(ctx, p, tree, progress); err != nil {
		return Image{}, fmt.Errorf("image %s: %w", p.Name, err)
	}
	installed, err := readStatus(filepath.Join(tree, "var/lib/dpkg/status"))
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", p.Name, err)
	}
	packages, err := p.check(installed)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", p.Name, err)
	}
	if err := furnish(tree); err != nil {
		return Image{}, fmt.Errorf("image %s: %w", p.Name, err)
	}
	fmt.Fprintf(progress, "image %s: packing the root filesystem\n", p.Name)
	// -E noinline_data: gVisor reads EROFS without inlined tails.
	out, err := command(ctx, "mkfs.erofs", "-d0", "-E", "noinline_data", "-T", epoch,
		"-U", "00000000-0000-0000-0000-000000000000", filepath.Join(work, rootfsName), tree).CombinedOutput()
	if err != nil {
		return Image{}, fmt.Errorf("image %s: mkfs.erofs: %w: %s", p.Name, err, lastLines(out))
	}
	if err := os.RemoveAll(tree); err != nil {
		return Image{}, err
	}
	i, err := s.add(work, Image{
		Name: p.Name, Input: input, Created: time.Now().UTC().Truncate(time.Second),
		Base: p.Base, Python: upstream(installed["python3"]), Packages: packages, Preload: p.Preload, Warmup: p.Warmup,
	})
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", p.Name, err)
	}
	fmt.Fprintf(progress, "image %s: built %s, %d MiB\n", p.Name, i.Digest, i.Size>>20)
	return i, s.name(i, p.Name)
}

// inputDigest covers all that decides what is built: the project, the runner
// and the recipe. The versions that a Debian mirror serves are not part of it:
// remove the image to have it built anew.
func (p *Project) inputDigest() string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(recipe), p.source, runner.Source} {
		fmt.Fprintf(h, "%d\n", len(part))
		h.Write(part)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// debianNames are the distributions whose Debian package is not simply
// python3-NAME.
var debianNames = map[string]string{
	"beautifulsoup4":    "python3-bs4",
	"msgpack-python":    "python3-msgpack",
	"opencv-python":     "python3-opencv",
	"pillow":            "python3-pil",
	"protobuf":          "python3-protobuf",
	"psycopg2-binary":   "python3-psycopg2",
	"pycryptodome":      "python3-pycryptodome",
	"python-dateutil":   "python3-dateutil",
	"pyyaml":            "python3-yaml",
	"scikit-image":      "python3-skimage",
	"scikit-learn":      "python3-sklearn",
	"typing-extensions": "python3-typing-extensions",
}

func (d Dependency) debian() string {
	if name, ok := debianNames[d.Name]; ok {
		return name
	}
	return "python3-" + strings.TrimPrefix(d.Name, "python-")
}

func (p *Project) packages() []string {
	list := []string{"python3"}
	for _, d := range p.Dependencies {
		list = append(list, d.debian())
	}
	return list
}

var unlocatable = regexp.MustCompile(`Unable to locate package (\S+)`)

func debootstrap(ctx context.Context, p *Project, tree string, progress io.Writer) error {
	args := []string{
		"--variant=essential", "--format=directory", // not --quiet, which drops what apt says on failure
		"--include=" + strings.Join(p.packages(), ","),
		`--aptopt=APT::Install-Recommends "false"`,
	}
	for _, path := range []string{"doc", "man", "info", "locale", "bug", "lintian"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+path+"/*")
	}
	// Who passes the image on owes their readers the licences.
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/*/copyright")
	cmd := command(ctx, "mmdebstrap", append(args, p.suite(), tree)...)
	cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH="+epoch)
	stop := heartbeat(progress, "image "+p.Name+": still installing")
	out, err := cmd.CombinedOutput()
	stop()
	if m := unlocatable.FindSubmatch(out); m != nil {
		for _, d := range p.Dependencies {
			if d.debian() == string(m[1]) {
				return fmt.Errorf("dependency %s: %s has no package %s", d.Name, p.Base, m[1])
			}
		}
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: apt-get install mmdebstrap", err)
	}
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w: %s", err, lastLines(out))
	}
	return nil
}

// check compares what was installed with what was asked for.
func (p *Project) check(installed map[string]string) (map[string]string, error) {
	versions := map[string]string{}
	var errs []error
	for _, d := range p.Dependencies {
		version := upstream(installed[d.debian()])
		ok, err := d.Allows(version)
		if err != nil {
			errs = append(errs, fmt.Errorf("dependency %s: %w", d.Name, err))
		} else if !ok {
			errs = append(errs, fmt.Errorf("dependency %s: %s wanted, %s has %s", d.Name, d.Specifiers, p.Base, version))
		}
		versions[d.Name] = version
	}
	return versions, errors.Join(errs...)
}

// furnish puts into the tree what every sandbox needs and takes out what no
// program should see.
func furnish(tree string) error {
	in := func(path string) string { return filepath.Join(tree, path) }
	appendLine := func(path, line string) error {
		f, err := os.OpenFile(in(path), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, line)
		return errors.Join(err, f.Close())
	}
	steps := []func() error{
		func() error { return os.MkdirAll(in("csb"), 0o755) },
		func() error { return os.WriteFile(in(runner.Path), runner.Source, 0o644) },
		func() error { return appendLine("etc/passwd", "sandbox:x:1000:1000:sandbox:/tmp/work:/bin/sh\n") },
		func() error { return appendLine("etc/group", "sandbox:x:1000:\n") },
		func() error { return os.WriteFile(in("etc/hostname"), []byte("sandbox\n"), 0o644) },
		func() error {
			return os.WriteFile(in("etc/hosts"), []byte("127.0.0.1 localhost sandbox\n::1 localhost\n"), 0o644)
		},
		// The one writable place is /tmp.
		func() error { return os.RemoveAll(in("var/tmp")) },
		func() error { return os.Symlink("/tmp", in("var/tmp")) },
	}
	// The build machine's own settings and logs.
	for _, path := range []string{"etc/resolv.conf", "etc/apt/sources.list", "etc/machine-id", "var/lib/dbus/machine-id",
		"var/log/apt", "var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log", "var/cache/ldconfig/aux-cache",
		"etc/apt/sources.list.d", "etc/apt/apt.conf.d", "var/lib/apt/lists", "var/cache/apt"} {
		steps = append(steps, func() error { return os.RemoveAll(in(path)) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// readStatus reads the versions of the installed packages from a dpkg status
// file.
func readStatus(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	versions := map[string]string{}
	name := ""
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "Package: "); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(lines.Text(), "Version: "); ok {
			versions[name] = v
		}
	}
	return versions, lines.Err()
}

var (
	repacked   = regexp.MustCompile(`[+~](dfsg|ds|repack).*$`)
	prerelease = regexp.MustCompile(`~(a|b|rc|alpha|beta|pre|dev)`)
)

// upstream is the PEP 440 part of a Debian version: without epoch, revision
// and repacking suffix.
func upstream(version string) string {
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	if i := strings.LastIndex(version, "-"); i >= 0 {
		version = version[:i]
	}
	if _, real, ok := strings.Cut(version, "+really"); ok {
		version = real // a package that went back
	}
	return prerelease.ReplaceAllString(repacked.ReplaceAllString(version, ""), "$1")
}

func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// heartbeat says every few seconds that a long step is still at work.
func heartbeat(w io.Writer, what string) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		start := time.Now()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(w, "%s (%ds)\n", what, int(time.Since(start).Seconds()))
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-stopped }
}

func lastLines(out []byte) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	return string(bytes.Join(lines, []byte("; ")))
}
