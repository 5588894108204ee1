package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestParseProject(t *testing.T) {
	p, err := parseProject([]byte(`
[build-system]
requires = ["hatchling"]

[project]
name = "data-science.2"
version = "1"
requires-python = ">=3.11"
dependencies = ["NumPy >=1.20, <2", "python_dateutil"]

[tool.ruff]
line-length = 120

[tool.csb]
base = "debian:trixie"
preload = ["numpy", "os.path"]
`))
	assert.NilError(t, err)
	assert.Equal(t, p.Name, "data-science.2")
	assert.Equal(t, p.Base, "debian:trixie")
	assert.Equal(t, p.suite(), "trixie")
	assert.Equal(t, p.Installer, "apt")
	assert.DeepEqual(t, p.Preload, []string{"numpy", "os.path"})
	assert.Equal(t, len(p.Dependencies), 2)
	assert.Equal(t, p.Dependencies[0].Name, "numpy")
	assert.Equal(t, p.Dependencies[0].Specifiers, ">=1.20, <2")
	assert.DeepEqual(t, p.packages(), []string{"python3", "python3-numpy", "python3-dateutil"})

	// Everything but the name has a default.
	p, err = parseProject([]byte("[project]\nname = \"bare\"\n"))
	assert.NilError(t, err)
	assert.Equal(t, p.Base, "debian:bookworm")
	assert.DeepEqual(t, p.packages(), []string{"python3"})
}

// Errors name the place: line and column, or table and key.
func TestParseProjectErrors(t *testing.T) {
	const head = "[project]\nname = \"a\"\n"
	const badName = `[project] name %: an image name is 1 to 64 of a-z, 0-9, '.', '_' and '-'`
	for _, test := range []struct{ text, want string }{
		{"", strings.Replace(badName, "%", `""`, 1)},
		{"[project]\nname = \"Python\"\n", strings.Replace(badName, "%", `"Python"`, 1)},
		{"[project]\nname = \"a/b\"\n", strings.Replace(badName, "%", `"a/b"`, 1)},
		{"[project]\nname = \"..\"\n", strings.Replace(badName, "%", `".."`, 1)},
		{"[project]\nname = \".a\"\n", strings.Replace(badName, "%", `".a"`, 1)},
		{"[project]\nname = \"sha256:a\"\n", strings.Replace(badName, "%", `"sha256:a"`, 1)},
		{"[project]\nname = \"" + strings.Repeat("a", 65) + "\"\n", strings.Replace(badName, "%", `"`+strings.Repeat("a", 65)+`"`, 1)},
		{"[project\n", "line 1, column 9: toml: expected ']' to close table name"},
		{head + "name = \"b\"\n", "line 3, column 1: toml: key name is already defined"},
		{head + "[tool.csb]\nbse = \"debian:sid\"\n", "[tool.csb]: unknown key bse"},
		{head + "[tool.csb.more]\na = 1\n", "[tool.csb]: unknown key more"},
		{head + "[tool.csb]\ninstaller = \"pip\"\n", `[tool.csb] installer "pip": only "apt" is known`},
		{head + "[tool.csb]\nbase = \"alpine:3\"\n", `[tool.csb] base "alpine:3": only "debian:SUITE" is known`},
		{head + "[tool.csb]\nbase = \"debian:\"\n", `[tool.csb] base "debian:": "" is not a Debian suite`},
		{head + "[tool.csb]\nbase = \"debian:sid --hook=x\"\n", `[tool.csb] base "debian:sid --hook=x": "sid --hook=x" is not a Debian suite`},
		{head + "[tool.csb]\nbase = \"debian:sid\\n\"\n", `[tool.csb] base "debian:sid\n": "sid\n" is not a Debian suite`},
		{head + "[tool.csb]\npreload = [\"os; import sys\"]\n", `[tool.csb] preload "os; import sys": not a module name`},
		{head + "[tool.csb]\npreload = [\"a..b\"]\n", `[tool.csb] preload "a..b": not a module name`},
		{head + "dependencies = [\"numpy\", \"pandas[excel]\"]\n", `[project] dependencies "pandas[excel]": not a name with version specifiers (extras, markers and URLs are not supported by the apt installer)`},
		{head + "dependencies = [\"numpy=>1\"]\n", `[project] dependencies "numpy=>1": version specifiers "=>1": improper constraint: =>1`},
		{head + "dependencies = [\"Ruamel.YAML\", \"numpy\", \"ruamel_yaml>1\"]\n", "[project] dependencies: ruamel-yaml stands there twice"},
	} {
		t.Run(test.want, func(t *testing.T) {
			_, err := parseProject([]byte(test.text))
			assert.Error(t, err, test.want)
		})
	}
}

// Values of another type: what the library says is its own, the place is not.
func TestParseProjectTypes(t *testing.T) {
	const head = "[project]\nname = \"a\"\n"
	for _, test := range []struct{ text, want string }{
		{"[project]\nname = 3\n", "line 2, column 8: "},
		{head + "dependencies = \"numpy\"\n", "line 3, column 16: "},
		{head + "dependencies = [1]\n", "line 3, column 17: "},
		{"tool = 1\n" + head, "line 1, column 8: "},
		{head + "[tool]\ncsb = 1\n", "[tool.csb]"},
		{head + "# more\n[tool.csb]\npreload = 3\n", "[tool.csb] preload: "},
		{head + "# more\n[tool.csb]\nbase = [\"debian:sid\"]\n", "[tool.csb] base: "},
	} {
		t.Run(test.want, func(t *testing.T) {
			_, err := parseProject([]byte(test.text))
			assert.Assert(t, err != nil)
			assert.Check(t, strings.HasPrefix(err.Error(), test.want), "%v", err)
		})
	}
}

func TestReadProject(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadProject(dir)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "pyproject.toml"), []byte("[project]\n"), 0o600))
	_, err = ReadProject(dir)
	assert.ErrorContains(t, err, dir+"/pyproject.toml: [project] name")

	p, err := ReadProject("python")
	assert.NilError(t, err)
	assert.Equal(t, p.Name, "python")
}

func TestParseDependency(t *testing.T) {
	for text, want := range map[string][2]string{
		"numpy":                  {"numpy", ""},
		" numpy ":                {"numpy", ""},
		"NumPy":                  {"numpy", ""},
		"zope.interface":         {"zope-interface", ""},
		"a__b-.c":                {"a-b-c", ""},
		"numpy>=1.2,<2":          {"numpy", ">=1.2,<2"},
		"numpy >= 1.2 , < 2":     {"numpy", ">= 1.2 , < 2"},
		"numpy (>=1.2)":          {"numpy", ">=1.2"},
		"numpy ()":               {"numpy", ""},
		"numpy==1.*":             {"numpy", "==1.*"},
		"numpy~=1.4":             {"numpy", "~=1.4"},
		"numpy!=1.5,!=1.6":       {"numpy", "!=1.5,!=1.6"},
		"numpy===1.4":            {"numpy", "===1.4"},
		"numpy>=1.2,":            {"numpy", ">=1.2,"},
		"numpy==1!2.0.post1.dev": {"numpy", "==1!2.0.post1.dev"},
	} {
		d, err := parseDependency(text)
		assert.NilError(t, err, text)
		assert.DeepEqual(t, [2]string{d.Name, d.Specifiers}, want)
	}
	for _, text := range []string{
		"", " ", "numpy[fft]", "numpy [fft] >=1", `numpy; python_version < "3.12"`, `numpy>=1 ; sys_platform == "linux"`,
		"numpy @ https://example.org/numpy.whl", "numpy@file:///etc", "https://example.org/numpy.whl", "-e .", "--hook=x", "./numpy", "_numpy", "numpy-",
		"numpy (>=1", "numpy >=1)", "numpy,pandas", "numpy pandas", "nümpy", "numpy\npandas", "numpy>=", "numpy=>1", "numpy~=1", "numpy>=x", "numpy,<2",
		"numpy,--hook=x", "numpy $(id)",
	} {
		_, err := parseDependency(text)
		assert.Check(t, err != nil, "%q", text)
	}
	for _, text := range []string{"numpy[fft]", `numpy; python_version < "3.12"`, "numpy @ https://example.org/numpy.whl"} {
		_, err := parseDependency(text)
		assert.Check(t, is.ErrorContains(err, "extras, markers and URLs are not supported"))
	}
}

// What the library takes and PEP 508 does not: other tools would refuse the
// file, or read it otherwise.
func TestParseDependencyIsPEP508(t *testing.T) {
	for _, text := range []string{"numpy 1.2", "numpy>=1||<2", "numpy>=1.2 <2", "numpy =1.2"} {
		_, err := parseDependency(text)
		assert.Check(t, err != nil, "%q", text)
	}
}

func TestAllows(t *testing.T) {
	for _, test := range []struct {
		dependency, version string
		want                bool
	}{
		{"a", "1.0", true},
		{"a", "not a version", true},
		{"a>=1.2", "1.2", true},
		{"a>=1.2", "1.10", true},
		{"a>=1.2", "1.1.9", false},
		{"a>1.2", "1.2.0", false},
		{"a>=1.2,<2", "2.0", false},
		{"a>=1.2,<2", "1.24.2", true},
		{"a<2", "2.0rc1", false},
		{"a==1.5", "1.5.0", true},
		{"a==1.*", "1.5.3", true},
		{"a==1.*", "2.0", false},
		{"a!=1.5.3", "1.5.3", false},
		{"a~=1.4", "1.9", true},
		{"a~=1.4", "2.0", false},
		{"a~=1.4.5", "1.4.9", true},
		{"a~=1.4.5", "1.5", false},
		{"a==1.0", "1.0+deb12", true},
	} {
		d, err := parseDependency(test.dependency)
		assert.NilError(t, err)
		got, err := d.Allows(test.version)
		assert.NilError(t, err)
		assert.Check(t, got == test.want, "%s allows %s: %v", test.dependency, test.version, got)
	}
	d, err := parseDependency("a>1")
	assert.NilError(t, err)
	_, err = d.Allows("1~dfsg~x")
	assert.ErrorContains(t, err, `version "1~dfsg~x": `)
}
