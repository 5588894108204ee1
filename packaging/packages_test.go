// Package packaging_test looks at what `make packages` has built, and at what
// goes into it. How it behaves on a machine is for packaging/boot.
package packaging_test

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/policy"
)

// built is the one file of dist/ that matches.
func built(t *testing.T, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(imagetest.Root(), "dist", pattern))
	assert.NilError(t, err)
	// Of this commit, or the tests would look at what somebody else has built.
	assert.Assert(t, len(files) == 1 && strings.Contains(files[0], version(t)), "run `make packages` first: %s of %s: %q", pattern, version(t), files)
	return files[0]
}

const (
	deb      = "csbd_*_amd64.deb"
	rpm      = "csbd-[0-9]*.x86_64.rpm"
	imageDeb = "csbd-image-python_*_amd64.deb"
	imageRPM = "csbd-image-python-[0-9]*.x86_64.rpm"
)

// run returns what a command prints. It has to succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errs strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	cmd.Stderr = &errs
	out, err := cmd.Output()
	assert.NilError(t, err, "%s %q: %s%s", name, args, out, &errs)
	return strings.TrimSpace(string(out))
}

// unpack unpacks a .deb.
func unpack(t *testing.T, pattern string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "dpkg-deb", "--extract", built(t, pattern), dir)
	return dir
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	assert.NilError(t, err)
	return string(data)
}

// files of both packages of csbd, and how they have to be.
var files = map[string]string{
	"/etc/csbd/policy.yaml":                               "-rw-r--r--",
	"/etc/default/csbd":                                   "-rw-r--r--",
	"/usr/bin/csbctl":                                     "-rwxr-xr-x",
	"/usr/lib/csbd/csbd-sentry":                           "-rwxr-xr-x",
	"/usr/lib/csbd/runsc":                                 "-rwxr-xr-x",
	"/usr/lib/systemd/system-generators/csbd-generator":   "-rwxr-xr-x",
	"/usr/lib/systemd/system-preset/90-csbd.preset":       "-rw-r--r--",
	"/usr/lib/systemd/system/csbd.service":                "-rw-r--r--",
	"/usr/lib/systemd/system/csbd.socket":                 "-rw-r--r--",
	"/usr/lib/systemd/user/csbd.service":                  "-rw-r--r--",
	"/usr/lib/systemd/user/csbd.socket":                   "-rw-r--r--",
	"/usr/lib/sysusers.d/csbd.conf":                       "-rw-r--r--",
	"/usr/lib/tmpfiles.d/csbd.conf":                       "-rw-r--r--",
	"/usr/sbin/csbd":                                      "-rwxr-xr-x",
	"/usr/share/bash-completion/completions/csbctl":       "-rw-r--r--",
	"/usr/share/bash-completion/completions/csbd":         "-rw-r--r--",
	"/usr/share/csbd/images/python/pyproject.toml":        "-rw-r--r--",
	"/usr/share/csbd/seccomp/default.json":                "-rw-r--r--",
	"/usr/share/doc/csbd/examples/grafana/csbd.json":      "-rw-r--r--",
	"/usr/share/doc/csbd/examples/loopback-metrics.conf":  "-rw-r--r--",
	"/usr/share/doc/csbd/examples/prometheus/alerts.yaml": "-rw-r--r--",
	"/usr/share/doc/csbd/examples/prometheus/scrape.yaml": "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/csbctl.fish":    "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/csbd.fish":      "-rw-r--r--",
	"/usr/share/man/man1/csbctl.1.gz":                     "-rw-r--r--",
	"/usr/share/man/man5/csbd-policy.5.gz":                "-rw-r--r--",
	"/usr/share/man/man8/csbd.8.gz":                       "-rw-r--r--",
	"/usr/share/zsh/vendor-completions/_csbctl":           "-rw-r--r--",
	"/usr/share/zsh/vendor-completions/_csbd":             "-rw-r--r--",
}

// want is files and what only one format has.
func want(more map[string]string) map[string]string {
	all := maps.Clone(files)
	maps.Copy(all, more)
	return all
}

func TestDeb(t *testing.T) {
	got := map[string]string{}
	for line := range strings.Lines(run(t, "dpkg-deb", "--contents", built(t, deb))) {
		fields := strings.Fields(line)
		path := strings.TrimPrefix(fields[5], ".")
		assert.Check(t, is.Equal(fields[1], "root/root"), path)
		if strings.HasPrefix(fields[0], "d") {
			assert.Check(t, is.Equal(fields[0], "drwxr-xr-x"), path)
			continue
		}
		got[path] = fields[0]
	}
	assert.DeepEqual(t, got, want(map[string]string{
		"/usr/share/doc/csbd/changelog.gz":  "-rw-r--r--",
		"/usr/share/doc/csbd/copyright":     "-rw-r--r--",
		"/usr/share/lintian/overrides/csbd": "-rw-r--r--",
	}))
	control := t.TempDir()
	run(t, "dpkg-deb", "--control", built(t, deb), control)
	conffiles := strings.Fields(read(t, control, "conffiles"))
	slices.Sort(conffiles)
	assert.DeepEqual(t, conffiles, []string{"/etc/csbd/policy.yaml", "/etc/default/csbd"})
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		run(t, "dash", "-n", filepath.Join(control, script))
	}
	for field, value := range map[string]string{"Package": "csbd", "Architecture": "amd64", "Version": version(t), "Depends": "systemd"} {
		assert.Check(t, is.Equal(run(t, "dpkg-deb", "--field", built(t, deb), field), value))
	}
}

func TestRPM(t *testing.T) {
	got, config := map[string]string{}, []string{}
	for line := range strings.Lines(run(t, "rpm", "-qp", "--qf", `[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILEFLAGS:fflags}. %{FILENAMES}\n]`, built(t, rpm))) {
		fields := strings.Fields(line)
		path := fields[3]
		assert.Check(t, is.Equal(fields[1], "root/root"), path)
		if strings.HasPrefix(fields[0], "d") {
			assert.Check(t, is.Equal(fields[0], "drwxr-xr-x"), path)
			continue
		}
		got[path] = fields[0]
		if fields[2] == "cn." { // configuration, kept on upgrade
			config = append(config, path)
		}
	}
	assert.DeepEqual(t, got, want(map[string]string{"/usr/share/licenses/csbd/copyright": "-rw-r--r--"}))
	slices.Sort(config)
	assert.DeepEqual(t, config, []string{"/etc/csbd/policy.yaml", "/etc/default/csbd"})
	assert.Equal(t, run(t, "rpm", "-qp", "--qf", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}", built(t, rpm)), "csbd "+version(t)+" x86_64 Apache-2.0")
	for _, tag := range []string{"POSTIN", "PREUN", "POSTUN"} {
		script := run(t, "rpm", "-qp", "--qf", "%{"+tag+"}", built(t, rpm))
		assert.Check(t, len(script) > 50, "%s: %s", tag, script)
		path := filepath.Join(t.TempDir(), tag)
		assert.NilError(t, os.WriteFile(path, []byte(script), 0o600))
		run(t, "dash", "-n", path)
	}
}

// version is that of the commit.
func version(t *testing.T) string {
	t.Helper()
	return run(t, filepath.Join(imagetest.Root(), "packaging", "version.sh"))
}

// programs of the package, which are those that `make build` leaves.
var programs = []string{"/usr/sbin/csbd", "/usr/bin/csbctl", "/usr/lib/csbd/csbd-sentry", "/usr/lib/csbd/runsc"}

func TestPrograms(t *testing.T) {
	root := unpack(t, deb)
	for _, program := range programs {
		f, err := elf.Open(filepath.Join(root, program))
		assert.NilError(t, err)
		defer f.Close()
		for _, p := range f.Progs {
			assert.Check(t, p.Type != elf.PT_INTERP && p.Type != elf.PT_DYNAMIC, "%s is linked dynamically", program)
		}
		// Nothing says where it was built.
		assert.Check(t, !strings.Contains(read(t, root, program), imagetest.Root()+"/"), program)
	}
	commit := run(t, "git", "-C", imagetest.Root(), "rev-parse", "HEAD")
	said := run(t, filepath.Join(root, "usr/sbin/csbd"), "version")
	assert.Check(t, strings.HasPrefix(said, "csbd "+version(t)+"\ncommit "+commit+"\n"), "%s", said)
	gvisor := run(t, "go", "-C", imagetest.Root(), "list", "-m", "-f", "{{.Version}}", "gvisor.dev/gvisor")
	assert.Check(t, is.Contains(said, "\nrunsc "+gvisor+"\n"))
	assert.Check(t, is.Contains(run(t, filepath.Join(root, "usr/lib/csbd/runsc"), "--version"), gvisor))
}

// TestCopyright: the licence of everything that is linked is there, and each
// time with its text.
func TestCopyright(t *testing.T) {
	root := unpack(t, deb)
	text := read(t, root, "usr/share/doc/csbd/copyright")
	assert.Check(t, strings.HasPrefix(text, "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"))
	modules := 0
	for _, program := range programs {
		info, err := buildinfo.ReadFile(filepath.Join(root, program))
		assert.NilError(t, err)
		for _, m := range info.Deps {
			modules++
			assert.Check(t, is.Contains(text, "\nFiles: "+m.Path+"/*\nCopyright: "))
			assert.Check(t, is.Contains(text, "\n "+m.Path+" "+m.Version+" is linked into "))
		}
	}
	assert.Check(t, modules > 20, "%d", modules)
	assert.Check(t, is.Contains(text, "\nFiles: Go's-standard-library/*\nCopyright: "))
	for _, words := range []string{"Permission is hereby granted, free of charge", "Redistribution and use in source and binary forms", "/usr/share/common-licenses/Apache-2.0"} {
		assert.Check(t, is.Contains(text, words))
	}
	assert.Check(t, is.Contains(run(t, "sh", "-c", "rpm2cpio "+built(t, rpm)+" | cpio --quiet -i --to-stdout '*usr/share/licenses/csbd/copyright'"), "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION"))
}

// TestSamples: the policy is right, and the seccomp profile is the one that it
// names "default".
func TestSamples(t *testing.T) {
	root := unpack(t, deb)
	run(t, filepath.Join(root, "usr/sbin/csbd"), "check", filepath.Join(root, "etc/csbd/policy.yaml"))
	load := func(seccomp string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "policy.yaml")
		text := strings.Replace(read(t, root, "etc/csbd/policy.yaml"), "seccomp: default ", "seccomp: "+seccomp+" ", 1)
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o600))
		p, err := policy.Load(path)
		assert.NilError(t, err)
		assert.Assert(t, is.Len(p.Profiles(), 1))
		return p.Profiles()[0].Seccomp
	}
	file := load(filepath.Join(root, "usr/share/csbd/seccomp/default.json"))
	assert.Equal(t, file, load("default"))
	assert.Check(t, is.Contains(file, "SCMP_ACT_ERRNO"))
}

// TestImagePackage: csbd finds the image that the package brings, and the
// packages fit together.
func TestImagePackage(t *testing.T) {
	root := unpack(t, imageDeb)
	cmd := exec.Command(filepath.Join(unpack(t, deb), "usr/sbin/csbd"), "image", "list")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CSBD_IMAGE_DIR=" + t.TempDir(), "CSBD_SHIPPED_IMAGES=" + filepath.Join(root, "usr/lib/csbd/images")}
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Check(t, strings.Contains(string(out), "\npython ") && strings.Count(string(out), "\n") == 2, "%s", out)

	runner := run(t, "dpkg-deb", "--field", built(t, deb), "Provides")
	assert.Check(t, strings.HasPrefix(runner, "csbd-runner-"), runner)
	assert.Equal(t, run(t, "dpkg-deb", "--field", built(t, imageDeb), "Depends"), runner)
	assert.Check(t, is.Contains(run(t, "rpm", "-qp", "--provides", built(t, rpm)), runner))
	assert.Check(t, is.Contains(run(t, "rpm", "-qp", "--requires", built(t, imageRPM)), runner))

	// Its licences: each package of Debian in it by name and version, and the texts.
	text := read(t, root, "usr/share/doc/csbd-image-python/copyright")
	for _, name := range []string{" (libc6)\n", " (python3-numpy)\n", " (python3-pandas)\n"} {
		assert.Check(t, is.Contains(text, name))
	}
	assert.Check(t, is.Contains(run(t, "gzip", "-dc", filepath.Join(root, "usr/share/doc/csbd-image-python/packages.gz")), "==== python3-pandas\n"))
}

// TestLintian: nothing that Debian's checks call an error or a warning, but
// what packaging/debian/lintian-overrides says why.
func TestLintian(t *testing.T) {
	for _, pattern := range []string{deb, imageDeb} {
		cmd := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", built(t, pattern))
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		assert.Check(t, cmd.Run(), "lintian %s:\n%s", pattern, &out)
		t.Logf("lintian %s: %s", filepath.Base(built(t, pattern)), strings.TrimSpace(out.String()))
	}
}
