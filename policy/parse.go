package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/fcarli/codesandbox/isolation"
)

// MaxSize is the largest policy file in bytes.
const MaxSize = 1 << 20

// A Source is where a policy comes from.
type Source struct {
	// Name stands in front of errors: the file's name.
	Name string
	Data []byte
	// ReadFile reads a seccomp profile that the policy names by path. It is nil
	// where the text comes from somebody for whom we must not open files.
	ReadFile func(path string) ([]byte, error)
}

// Load reads and parses a policy file.
func Load(file string) (*Policy, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	read := func(path string) ([]byte, error) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
		return os.ReadFile(path)
	}
	return Parse(Source{Name: file, Data: data, ReadFile: read})
}

// Parse parses a policy. All errors that it finds are joined, each as
// "NAME:LINE: path: what is wrong".
func Parse(s Source) (*Policy, error) {
	if len(s.Data) > MaxSize {
		return nil, fmt.Errorf("%s: larger than %s", s.Name, FormatSize(MaxSize))
	}
	decoder := yaml.NewDecoder(bytes.NewReader(s.Data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: empty", s.Name)
	} else if err != nil {
		return nil, fmt.Errorf("%s:%s", s.Name, syntax(err))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document", s.Name)
	}
	p := &parser{source: s, policy: &Policy{profiles: map[string]*Profile{}}}
	p.top(document.Content[0])
	if p.more > 0 {
		p.errs = append(p.errs, fmt.Errorf("%s: %d more errors", s.Name, p.more))
	}
	if err := errors.Join(p.errs...); err != nil {
		return nil, err
	}
	return p.policy, nil
}

// syntax is the YAML library's "yaml: line 3: what is wrong" as what follows
// the file's name.
func syntax(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if at, ok := strings.CutPrefix(text, "line "); ok {
		return at
	}
	return " " + text
}

// A policy may come from anybody (policy.check): what it can make us do and
// say is bounded.
const (
	maxErrors  = 100
	maxEntries = 1000 // of one list, and of profiles
	maxMessage = 500  // bytes of path and text, each
)

type parser struct {
	source Source
	policy *Policy
	errs   []error
	more   int // errors beyond maxErrors
}

func (p *parser) fail(n *yaml.Node, path, format string, args ...any) {
	if len(p.errs) == maxErrors {
		p.more++
		return
	}
	if path = shorten(path); path != "" {
		path += ": "
	}
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %s%s", p.source.Name, n.Line, path, shorten(fmt.Sprintf(format, args...))))
}

func shorten(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + "…"
}

func (p *parser) warn(n *yaml.Node, path, format string, args ...any) {
	p.policy.Warnings = append(p.policy.Warnings,
		fmt.Sprintf("%s:%d: %s: %s", p.source.Name, n.Line, path, fmt.Sprintf(format, args...)))
}

// mapping calls the function for each key; an unknown key has none.
func (p *parser) mapping(n *yaml.Node, path string, keys map[string]func(*yaml.Node, string)) {
	if n.Kind != yaml.MappingNode {
		p.fail(n, path, "want a mapping, got %s", kind(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		f, ok := keys[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.fail(key, path, "want a name as key, got %s", kind(key))
		case seen[key.Value]:
			p.fail(key, at, "stands there twice")
		case !ok:
			p.fail(key, at, "unknown key%s", suggest(key.Value, keys))
		case value.Kind == yaml.AliasNode || value.Anchor != "":
			p.fail(value, at, "anchors and aliases are not supported")
		default:
			f(value, at)
		}
		seen[key.Value] = true
	}
}

func (p *parser) sequence(n *yaml.Node, path string, each func(*yaml.Node, string)) {
	if n.Kind != yaml.SequenceNode {
		p.fail(n, path, "want a list, got %s", kind(n))
		return
	}
	if len(n.Content) > maxEntries {
		p.fail(n, path, "more than %d entries", maxEntries)
		return
	}
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.Kind == yaml.AliasNode || item.Anchor != "" {
			p.fail(item, at, "anchors and aliases are not supported")
			continue
		}
		each(item, at)
	}
}

// scalar returns the text of a scalar, "" after a failure.
func (p *parser) scalar(n *yaml.Node, path string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		p.fail(n, path, "want a value, got %s", kind(n))
		return ""
	}
	return n.Value
}

func (p *parser) strings(n *yaml.Node, path string, pattern *regexp.Regexp) []string {
	list := []string{}
	p.sequence(n, path, func(n *yaml.Node, path string) {
		s := p.scalar(n, path)
		switch {
		case s == "":
		case !pattern.MatchString(s):
			p.fail(n, path, "%q is not a name", s)
		case slices.Contains(list, s):
			p.fail(n, path, "%q stands there twice", s)
		default:
			list = append(list, s)
		}
	})
	return list
}

func (p *parser) integer(n *yaml.Node, path string, least, most int) int {
	s := p.scalar(n, path)
	if s == "" {
		return least
	}
	v, err := strconv.Atoi(s)
	if err != nil || v < least || v > most {
		p.fail(n, path, "%q: want a whole number from %d to %d", s, least, most)
		return least
	}
	return v
}

func (p *parser) top(n *yaml.Node) {
	var profiles, rules, pools, version *yaml.Node
	keep := func(into **yaml.Node) func(*yaml.Node, string) {
		return func(n *yaml.Node, _ string) { *into = n }
	}
	p.mapping(n, "", map[string]func(*yaml.Node, string){
		"version":  keep(&version),
		"profiles": keep(&profiles),
		"rules":    keep(&rules),
		"pools":    keep(&pools),
		"allow_unenforced": func(n *yaml.Node, path string) {
			p.policy.AllowUnenforced = p.strings(n, path, namePattern)
			for _, name := range p.policy.AllowUnenforced {
				if !slices.Contains(enforceable, name) {
					p.fail(n, path, "%q is not one of %q", name, enforceable)
				}
			}
		},
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	if version == nil {
		p.fail(n, "version", "missing; this is version 1")
	} else if v := p.scalar(version, "version"); v != "" && v != "1" {
		p.fail(version, "version", "%q is not known; this csbd reads version 1", v)
	}
	if profiles == nil {
		p.fail(n, "profiles", "missing")
	} else {
		p.profiles(profiles)
	}
	if rules == nil {
		p.fail(n, "rules", "missing; without a rule every caller is refused")
	} else {
		index := 0
		p.sequence(rules, "rules", func(n *yaml.Node, path string) {
			index++
			p.rule(n, path, index)
		})
	}
	if pools != nil {
		p.sequence(pools, "pools", p.pool)
	}
}

// enforceable are the limits that a host may be unable to enforce.
var enforceable = []string{"memory", "processes", "cpus", "cpu_time"}

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)
	envPattern  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

func (p *parser) profiles(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		p.fail(n, "profiles", "want a mapping from names to profiles, got %s", kind(n))
		return
	}
	if len(n.Content) == 0 {
		p.fail(n, "profiles", "empty")
	}
	if len(n.Content) > 2*maxEntries {
		p.fail(n, "profiles", "more than %d entries", maxEntries)
		return
	}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := join("profiles", key.Value)
		if !namePattern.MatchString(key.Value) {
			p.fail(key, path, "not a name")
			continue
		}
		if p.policy.profiles[key.Value] != nil {
			p.fail(key, path, "stands there twice")
			continue
		}
		if value.Kind == yaml.AliasNode || value.Anchor != "" {
			p.fail(value, path, "anchors and aliases are not supported")
			continue
		}
		p.policy.profiles[key.Value] = p.profile(value, path, key.Value)
	}
}

// builtin is the profile of which a file's profiles say the differences.
func builtin(name string) *Profile {
	return &Profile{
		Name:   name,
		Images: []string{"python"},
		Default: isolation.Limits{Timeout: 10 * time.Second, CPUTime: 10 * time.Second, Memory: 256 << 20, Disk: 64 << 20,
			Output: 1 << 20, Processes: 64, OpenFiles: 256, CPUs: 1},
		Max: isolation.Limits{Timeout: time.Minute, CPUTime: time.Minute, Memory: 1 << 30, Disk: 512 << 20,
			Output: 16 << 20, Processes: 256, OpenFiles: 256, CPUs: 1},
		Request:     Sizes{Code: 8 << 20, Stdin: 16 << 20, Files: 32 << 20},
		SeccompName: "default",
		Environment: []string{"LANG", "TZ"},
		Concurrency: 4,
		Queue:       32,
		Rate:        Rate{6000, time.Minute},
	}
}

func (p *parser) profile(n *yaml.Node, path, name string) *Profile {
	pr := builtin(name)
	duration := func(n *yaml.Node, path string) (time.Duration, bool) {
		return convert(p, n, path, ParseDuration, minimum.Timeout, 24*time.Hour, time.Duration.String)
	}
	size := func(least int64) func(n *yaml.Node, path string) (int64, bool) {
		return func(n *yaml.Node, path string) (int64, bool) {
			return convert(p, n, path, ParseSize, least, 1<<40, FormatSize)
		}
	}
	count := func(least, most int) func(n *yaml.Node, path string) (int, bool) {
		return func(n *yaml.Node, path string) (int, bool) {
			return convert(p, n, path, strconv.Atoi, least, most, itoa)
		}
	}
	cpus := func(n *yaml.Node, path string) (float64, bool) {
		return convert(p, n, path, parseNumber, minimum.CPUs, 1024, func(f float64) string { return fmt.Sprint(f) })
	}
	bytesKey := func(into *int64) func(*yaml.Node, string) {
		return func(n *yaml.Node, path string) {
			if v, ok := size(0)(n, path); ok {
				*into = v
			}
		}
	}
	d, m := &pr.Default, &pr.Max
	seccompAt := n
	p.mapping(n, path, map[string]func(*yaml.Node, string){
		"images": func(n *yaml.Node, path string) {
			pr.Images = p.strings(n, path, namePattern)
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				p.fail(n, path, "empty")
			}
		},
		"timeout":    limit(p, &d.Timeout, &m.Timeout, duration),
		"cpu_time":   limit(p, &d.CPUTime, &m.CPUTime, duration),
		"memory":     limit(p, &d.Memory, &m.Memory, size(minimum.Memory)),
		"disk":       limit(p, &d.Disk, &m.Disk, size(minimum.Disk)),
		"output":     limit(p, &d.Output, &m.Output, size(minimum.Output)),
		"processes":  limit(p, &d.Processes, &m.Processes, count(minimum.Processes, 1<<15)),
		"open_files": limit(p, &d.OpenFiles, &m.OpenFiles, count(minimum.OpenFiles, 1<<20)),
		"cpus":       limit(p, &d.CPUs, &m.CPUs, cpus),
		"output_exceeded": func(n *yaml.Node, path string) {
			switch s := p.scalar(n, path); s {
			case "truncate":
				d.KillOnOutput, m.KillOnOutput = false, false
			case "kill":
				d.KillOnOutput, m.KillOnOutput = true, true
			case "":
			default:
				p.fail(n, path, "%q: want \"truncate\" or \"kill\"", s)
			}
		},
		"request": func(n *yaml.Node, path string) {
			p.mapping(n, path, map[string]func(*yaml.Node, string){
				"code":  bytesKey(&pr.Request.Code),
				"stdin": bytesKey(&pr.Request.Stdin),
				"files": bytesKey(&pr.Request.Files),
			})
		},
		"network": func(n *yaml.Node, path string) {
			if s := p.scalar(n, path); s != "none" && s != "" {
				p.fail(n, path, "%q: only \"none\" is possible", s)
			}
		},
		"seccomp": func(n *yaml.Node, path string) {
			pr.SeccompName, seccompAt = p.scalar(n, path), n
		},
		"environment": func(n *yaml.Node, path string) { pr.Environment = p.strings(n, path, envPattern) },
		"concurrency": func(n *yaml.Node, path string) { pr.Concurrency = p.integer(n, path, 1, 10000) },
		"queue":       func(n *yaml.Node, path string) { pr.Queue = p.integer(n, path, 0, 100000) },
		"rate": func(n *yaml.Node, path string) {
			s := p.scalar(n, path)
			if s == "" {
				return
			}
			var err error
			if pr.Rate, err = ParseRate(s); err != nil {
				p.fail(n, path, "%v", err)
			}
		},
	})
	seccomp, err := p.seccomp(pr.SeccompName)
	if err != nil {
		p.fail(seccompAt, join(path, "seccomp"), "%v", err)
	}
	if seccomp == "" && pr.SeccompName != "unconfined" && err == nil {
		p.warn(seccompAt, join(path, "seccomp"), "profile %s is not checked here", pr.SeccompName)
	}
	pr.Seccomp = seccomp
	return pr
}

// limit reads `{default: A, max: B}`, or one value for both.
func limit[T int | int64 | float64 | time.Duration](p *parser, def, most *T, parse func(*yaml.Node, string) (T, bool)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.MappingNode {
			if v, ok := parse(n, path); ok {
				*def, *most = v, v
			}
			return
		}
		var haveDefault, haveMax bool
		p.mapping(n, path, map[string]func(*yaml.Node, string){
			"default": func(n *yaml.Node, path string) {
				if v, ok := parse(n, path); ok {
					*def, haveDefault = v, true
				}
			},
			"max": func(n *yaml.Node, path string) {
				if v, ok := parse(n, path); ok {
					*most, haveMax = v, true
				}
			},
		})
		// Naming one of the two keeps the other in its bounds.
		if haveDefault && !haveMax {
			*most = max(*most, *def)
		}
		if haveMax && !haveDefault {
			*def = min(*def, *most)
		}
		if *def > *most {
			p.fail(n, path, "default is above max")
		}
	}
}

func convert[T int | int64 | float64 | time.Duration](p *parser, n *yaml.Node, path string, parse func(string) (T, error), least, most T, format func(T) string) (T, bool) {
	s := p.scalar(n, path)
	if s == "" {
		return least, false
	}
	v, err := parse(s)
	if errors.Is(err, strconv.ErrRange) {
		p.fail(n, path, "%s: want %s to %s", s, format(least), format(most))
		return least, false
	}
	if err != nil {
		if errors.Is(err, strconv.ErrSyntax) {
			err = fmt.Errorf("%q is not a number", s)
		}
		p.fail(n, path, "%v", err)
		return least, false
	}
	if v < least || v > most {
		p.fail(n, path, "%s: want %s to %s", s, format(least), format(most))
		return least, false
	}
	return v, true
}

func (p *parser) rule(n *yaml.Node, path string, index int) {
	r := rule{name: fmt.Sprintf("rule %d", index)}
	var named, profiled bool
	p.mapping(n, path, map[string]func(*yaml.Node, string){
		"user": func(n *yaml.Node, path string) {
			named = true
			name := p.scalar(n, path)
			if name == "*" || name == "" {
				return
			}
			r.name += " (user " + name + ")"
			id, ok := lookup(name, func() (string, error) {
				u, err := user.Lookup(name)
				if err != nil {
					return "", err
				}
				return u.Uid, nil
			})
			if !ok {
				p.warn(n, path, "there is no user %q; the rule never matches", name)
				r.never = true
			}
			r.uid = &id
		},
		"group": func(n *yaml.Node, path string) {
			named = true
			name := p.scalar(n, path)
			if name == "" {
				return
			}
			r.name += " (group " + name + ")"
			id, ok := lookup(name, func() (string, error) {
				g, err := user.LookupGroup(name)
				if err != nil {
					return "", err
				}
				return g.Gid, nil
			})
			if !ok {
				p.warn(n, path, "there is no group %q; the rule never matches", name)
				r.never = true
			}
			r.gid = &id
		},
		"profile": func(n *yaml.Node, path string) {
			profiled = true
			name := p.scalar(n, path)
			if r.profile = p.policy.profiles[name]; r.profile == nil && name != "" {
				p.fail(n, path, "there is no profile %q", name)
			}
		},
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	if !named {
		p.fail(n, path, `names neither user nor group; user: "*" matches everybody`)
	}
	if !profiled {
		p.fail(n, path, "names no profile")
	}
	p.policy.rules = append(p.policy.rules, r)
}

// lookup resolves a user or group that is given by number or name.
func lookup(name string, find func() (string, error)) (uint32, bool) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), true
	}
	text, err := find()
	if err != nil {
		return 0, false
	}
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err == nil
}

func (p *parser) pool(n *yaml.Node, path string) {
	pool := Pool{Ready: 1}
	p.mapping(n, path, map[string]func(*yaml.Node, string){
		"image":   func(n *yaml.Node, path string) { pool.Image = p.scalar(n, path) },
		"profile": func(n *yaml.Node, path string) { pool.Profile = p.scalar(n, path) },
		"ready":   func(n *yaml.Node, path string) { pool.Ready = p.integer(n, path, 0, 1000) },
		"max":     func(n *yaml.Node, path string) { pool.Max = p.integer(n, path, 0, 1000) },
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	pool.Max = max(pool.Max, pool.Ready)
	profile := p.policy.profiles[pool.Profile]
	switch {
	case profile == nil:
		p.fail(n, join(path, "profile"), "there is no profile %q", pool.Profile)
	case !slices.Contains(profile.Images, pool.Image):
		p.fail(n, join(path, "image"), "%q is not one of profile %s's images, %q", pool.Image, pool.Profile, profile.Images)
	default:
		p.policy.Pools = append(p.policy.Pools, pool)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias"
	case n.Tag == "!!null" || n.Value == "":
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}

// suggest names the known key that an unknown one is nearest to.
func suggest[V any](key string, keys map[string]V) string {
	best, at := "", 3
	for k := range keys {
		if d := distance(key, k); d < at {
			best, at = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the edit distance of two short strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
