package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/fcarli/codesandbox/isolation"
)

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
