// Package images turns a pyproject.toml into a root filesystem image that
// sandboxes boot from, and keeps images by content digest.
package images

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	pep440 "github.com/aquasecurity/go-pep440-version"
	"github.com/pelletier/go-toml/v2"
)

// A Project is what a pyproject.toml asks for.
type Project struct {
	// Name of the image: [project] name.
	Name string
	// Dependencies in the order of the file.
	Dependencies []Dependency
	// Base of the root filesystem, "debian:bookworm".
	Base string
	// Installer of the dependencies, "apt".
	Installer string
	// Preload lists the modules that the waiting interpreter has imported.
	Preload []string
	// Warmup is Python that a restored interpreter executes once before it is
	// given a program.
	Warmup string

	source []byte
}

// A Dependency is one entry of [project] dependencies (PEP 508, without extras,
// URLs and markers).
type Dependency struct {
	// Name, normalised as PEP 503 says.
	Name string
	// Specifiers as written, "" for any version: ">=1.2,<2".
	Specifiers string

	check pep440.Specifiers
}

// Allows says whether version (PEP 440) satisfies the specifiers.
func (d Dependency) Allows(version string) (bool, error) {
	if d.Specifiers == "" {
		return true, nil
	}
	v, err := pep440.Parse(version)
	if err != nil {
		return false, fmt.Errorf("version %q: %w", version, err)
	}
	return d.check.Check(v), nil
}

// document is the part of a pyproject.toml that concerns us. Other tables
// belong to other tools; inside ours an unknown key is an error.
type document struct {
	Project struct {
		Name         string   `toml:"name"`
		Dependencies []string `toml:"dependencies"`
	} `toml:"project"`
	Tool map[string]any `toml:"tool"`
}

type table struct {
	Base      string   `toml:"base"`
	Installer string   `toml:"installer"`
	Preload   []string `toml:"preload"`
	Warmup    string   `toml:"warmup"`
}

// ReadProject reads and checks the pyproject.toml in dir.
func ReadProject(dir string) (*Project, error) {
	file := filepath.Join(dir, "pyproject.toml")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p, err := parseProject(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

var (
	imageName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)
	moduleName  = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$`)
	requirement = regexp.MustCompile(`^\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\(([^()]*)\)|([^()\[\];@]*))\s*$`)
	specifier   = regexp.MustCompile(`^\s*(===|==|~=|!=|<=|>=|<|>)\s*[^\s<>=~|]+\s*$`)
	separators  = regexp.MustCompile(`[-_.]+`)
)

func parseProject(data []byte) (*Project, error) {
	var d document
	if err := toml.Unmarshal(data, &d); err != nil {
		return nil, tomlError(err)
	}
	t := table{Base: "debian:bookworm", Installer: "apt"}
	if ours, ok := d.Tool["csb"]; ok {
		if _, ok := ours.(map[string]any); !ok {
			return nil, errors.New("[tool.csb]: want a table")
		}
		again, err := toml.Marshal(ours)
		if err != nil {
			return nil, err
		}
		if err := toml.NewDecoder(bytes.NewReader(again)).DisallowUnknownFields().Decode(&t); err != nil {
			var at *toml.DecodeError // of the table alone: its line is not the file's
			if strict := new(*toml.StrictMissingError); !errors.As(err, strict) && errors.As(err, &at) {
				return nil, fmt.Errorf("[tool.csb] %s: %w", strings.Join(at.Key(), "."), err)
			}
			return nil, fmt.Errorf("[tool.csb]: %w", tomlError(err))
		}
	}
	p := &Project{Name: d.Project.Name, Base: t.Base, Installer: t.Installer, Preload: t.Preload, Warmup: t.Warmup, source: data}
	if !imageName.MatchString(p.Name) {
		return nil, fmt.Errorf("[project] name %q: an image name is 1 to 64 of a-z, 0-9, '.', '_' and '-'", p.Name)
	}
	if p.Installer != "apt" {
		return nil, fmt.Errorf("[tool.csb] installer %q: only \"apt\" is known", p.Installer)
	}
	if !strings.HasPrefix(p.Base, "debian:") {
		return nil, fmt.Errorf("[tool.csb] base %q: only \"debian:SUITE\" is known", p.Base)
	}
	if suite := p.suite(); !regexp.MustCompile(`^[a-z]+$`).MatchString(suite) {
		return nil, fmt.Errorf("[tool.csb] base %q: %q is not a Debian suite", p.Base, suite)
	}
	for _, m := range p.Preload {
		if !moduleName.MatchString(m) {
			return nil, fmt.Errorf("[tool.csb] preload %q: not a module name", m)
		}
	}
	for _, text := range d.Project.Dependencies {
		dep, err := parseDependency(text)
		if err != nil {
			return nil, fmt.Errorf("[project] dependencies %q: %w", text, err)
		}
		if slices.ContainsFunc(p.Dependencies, func(o Dependency) bool { return o.Name == dep.Name }) {
			return nil, fmt.Errorf("[project] dependencies: %s stands there twice", dep.Name)
		}
		p.Dependencies = append(p.Dependencies, dep)
	}
	return p, nil
}

func (p *Project) suite() string { return strings.TrimPrefix(p.Base, "debian:") }

func parseDependency(text string) (Dependency, error) {
	m := requirement.FindStringSubmatch(text)
	if m == nil {
		return Dependency{}, errors.New("not a name with version specifiers (extras, markers and URLs are not supported by the apt installer)")
	}
	d := Dependency{
		Name:       strings.ToLower(separators.ReplaceAllString(m[1], "-")),
		Specifiers: strings.TrimSpace(m[2] + m[3]),
	}
	if d.Specifiers == "" {
		return d, nil
	}
	for _, s := range strings.Split(strings.TrimSuffix(d.Specifiers, ","), ",") {
		if !specifier.MatchString(s) {
			return Dependency{}, fmt.Errorf("version specifiers %q: improper constraint: %s", d.Specifiers, s)
		}
	}
	var err error
	if d.check, err = pep440.NewSpecifiers(d.Specifiers); err != nil {
		return Dependency{}, fmt.Errorf("version specifiers %q: %w", d.Specifiers, err)
	}
	return d, nil
}

// tomlError puts line and column in front of a decoding error.
func tomlError(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		return fmt.Errorf("unknown key %s", strings.Join(strict.Errors[0].Key(), "."))
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, column := at.Position()
		return fmt.Errorf("line %d, column %d: %w", line, column, err)
	}
	return err
}
