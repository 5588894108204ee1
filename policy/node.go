package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

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
