package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
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
