package images

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

func TestUpstream(t *testing.T) {
	for debian, want := range map[string]string{
		"1.24.2-1":               "1.24.2",
		"1:1.24.2-1+deb12u1":     "1.24.2",
		"3.11.2-1+b1":            "3.11.2",
		"2.28.1+dfsg-1":          "2.28.1",
		"1.5.3+dfsg-2":           "1.5.3",
		"0.17.0+ds1-2+b2":        "0.17.0",
		"1.0~repack-1":           "1.0",
		"9.4.0-1.1+deb12u1":      "9.4.0",
		"2022.7.1":               "2022.7.1",
		"2.0-3-1":                "2.0-3",
		"1.0+git20230101.abc-1":  "1.0+git20230101.abc",
		"":                       "",
		"1:2:3-4":                "2:3",
		"4.6.0+dfsg-12+deb12u1":  "4.6.0",
		"1.0.post1+dfsg.1-1~bpo": "1.0.post1",
	} {
		assert.Equal(t, upstream(debian), want, debian)
	}
}

// A package that went back says so behind "really"; a pre-release stands
// behind a tilde.
func TestUpstreamOfOddVersions(t *testing.T) {
	for debian, want := range map[string]string{
		"2.0.0+really1.9.5-1":      "1.9.5",
		"2.0.0+really1.9.5+dfsg-1": "1.9.5",
		"5.0~rc1-1":                "5.0rc1",
		"1:2.6.0~a1+ds-1":          "2.6.0a1",
		"3.0~beta2-1":              "3.0beta2",
	} {
		assert.Equal(t, upstream(debian), want, debian)
	}
}

func TestReadStatus(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status")
	assert.NilError(t, os.WriteFile(file, []byte(`Package: python3-numpy
Status: install ok installed
Depends: python3 (>= 3.11), libc6
Version: 1:1.24.2-1
Description: Fast array facility
 Package: not-one
 Version: 9
Config-Version: 8

Package: python3
Status: install ok installed
Version: 3.11.2-1+b1
Description: interpreter
`), 0o600))
	got, err := readStatus(file)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, map[string]string{"python3-numpy": "1:1.24.2-1", "python3": "3.11.2-1+b1"})

	_, err = readStatus(file + "2")
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, os.WriteFile(file, bytes.Repeat([]byte("x"), 2<<20), 0o600))
	_, err = readStatus(file)
	assert.ErrorContains(t, err, "too long")
}

func project(t *testing.T, dependencies string) *Project {
	t.Helper()
	p, err := parseProject([]byte("[project]\nname = \"x\"\ndependencies = [" + dependencies + "]\n"))
	assert.NilError(t, err)
	return p
}

// Debian has one version of each package. What it cannot satisfy is told with
// what it has, all of it at once.
func TestCheck(t *testing.T) {
	installed := map[string]string{"python3": "3.11.2-1+b1", "python3-numpy": "1:1.24.2-1", "python3-pandas": "1.5.3+dfsg-2", "python3-yaml": "6.0-3+b2", "python3-odd": "x-1"}
	got, err := project(t, `"numpy>=1.20,<2", "pandas", "PyYAML==6.*"`).check(installed)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, map[string]string{"numpy": "1.24.2", "pandas": "1.5.3", "pyyaml": "6.0"})

	_, err = project(t, `"numpy>=2", "pandas>=1", "PyYAML==5.*"`).check(installed)
	assert.Error(t, err, "dependency numpy: >=2 wanted, debian:bookworm has 1.24.2\ndependency pyyaml: ==5.* wanted, debian:bookworm has 6.0")

	_, err = project(t, `"odd>1"`).check(installed)
	assert.ErrorContains(t, err, `dependency odd: version "x": `)
	got, err = project(t, `"odd"`).check(installed)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, map[string]string{"odd": "x"})
}

func TestDebianNames(t *testing.T) {
	for name, want := range map[string]string{
		"numpy": "python3-numpy", "PyYAML": "python3-yaml", "Pillow": "python3-pil", "scikit_learn": "python3-sklearn",
		"python-dateutil": "python3-dateutil", "python-docx": "python3-docx", "Beautiful.Soup": "python3-beautiful-soup",
	} {
		assert.Equal(t, project(t, fmt.Sprintf("%q", name)).Dependencies[0].debian(), want)
	}
}

func TestInputDigest(t *testing.T) {
	a, b := project(t, `"numpy"`), project(t, `"pandas"`)
	assert.Equal(t, a.inputDigest(), project(t, `"numpy"`).inputDigest())
	assert.Check(t, a.inputDigest() != b.inputDigest())
}

// A build that fails leaves nothing, whenever it does.
func TestBuildThatIsCancelled(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var progress bytes.Buffer
	_, err := s.Build(ctx, project(t, `"numpy"`), &progress)
	assert.ErrorIs(t, err, context.Canceled)
	assert.ErrorContains(t, err, "image x: ")
	entries, err := os.ReadDir(s.Dir)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0, "%v", entries)
}

// What was built from the same input is not built again, whatever it is called.
func TestBuildFindsTheSameInput(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	p := project(t, `"numpy"`)
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // starting anything fails
	i := put(t, s, "other", "root filesystem", p.inputDigest())
	var progress bytes.Buffer
	got, err := s.Build(ctx, p, &progress)
	assert.NilError(t, err)
	assert.Equal(t, got.Digest, i.Digest)
	assert.Equal(t, progress.String(), "image x: "+i.Digest+" is up to date\n")
	again, err := s.Resolve("x")
	assert.NilError(t, err)
	assert.Equal(t, again.Digest, i.Digest)

	// A broken image does not count.
	assert.NilError(t, os.Truncate(i.Path, 3))
	_, err = s.Build(ctx, p, &progress)
	assert.ErrorIs(t, err, context.Canceled)
}
