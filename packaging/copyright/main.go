// Copyright prints the copyright file of a package (DEP-5: Debian's
// machine-readable format) for the Go programs named on the command line: every
// module that is linked into one of them, as the program itself says, with the
// text of its licence. A licence that it does not know fails the build.
//
// The text of Apache-2.0 is part of every Debian system, and Debian wants it to
// be referred to; with -full it is printed, for other systems.
package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

func main() {
	full := flag.Bool("full", false, "print the text of Apache-2.0")
	flag.Parse()
	if err := run(os.Stdout, flag.Args(), *full); err != nil {
		fmt.Fprintf(os.Stderr, "copyright: %v\n", err)
		os.Exit(1)
	}
}

func run(w io.Writer, programs []string, full bool) error {
	parts, err := linked(programs)
	if err != nil {
		return err
	}
	own, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	fmt.Fprint(w, "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"+
		"Upstream-Name: CodeSandbox\nSource: https://github.com/fcarli/codesandbox\n\n"+
		"Files: *\nCopyright: The CodeSandbox authors\nLicense: Apache-2.0\n")
	for _, p := range parts {
		if err := p.print(w); err != nil {
			return err
		}
	}
	fmt.Fprint(w, "\nLicense: Apache-2.0\n")
	if full {
		return writeText(w, string(own))
	}
	return writeText(w, "Licensed under the Apache License, Version 2.0. On Debian systems its text\nis in /usr/share/common-licenses/Apache-2.0.\n")
}

// A part is what was linked: a module, or Go itself.
type part struct {
	name, version, dir string
	in                 []string // names of the programs
}

// linked are the parts of the programs, sorted, Go first.
func linked(programs []string) ([]part, error) {
	parts := map[string]*part{}
	golang := part{name: "Go's standard library", version: runtime.Version()}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	golang.dir = strings.TrimSpace(string(root))
	for _, program := range programs {
		name := filepath.Base(program)
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, err
		}
		golang.in = append(golang.in, name)
		for _, m := range info.Deps {
			// A replacement is a copy of the module that was built here.
			key := m.Path + "@" + m.Version
			if parts[key] == nil {
				parts[key] = &part{name: m.Path, version: m.Version}
			}
			parts[key].in = append(parts[key].in, name)
		}
	}
	list := []part{golang}
	keys := make([]string, 0, len(parts))
	for key := range parts {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		out, err := exec.Command("go", "mod", "download", "-json", key).Output()
		var module struct{ Dir, Error string }
		if err := errors.Join(err, json.Unmarshal(out, &module)); err != nil {
			return nil, fmt.Errorf("go mod download %s: %w %s", key, err, module.Error)
		}
		parts[key].dir = module.Dir
		list = append(list, *parts[key])
	}
	return list, nil
}

// print writes the part's paragraph. The text of its licence stands in it.
func (p part) print(w io.Writer) error {
	var text, notes []byte
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"} {
		var err error
		if text, err = os.ReadFile(filepath.Join(p.dir, name)); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	names := known(text)
	if len(names) == 0 {
		return fmt.Errorf("%s %s: no licence that this program knows", p.name, p.version)
	}
	for _, name := range []string{"NOTICE", "PATENTS"} {
		more, err := os.ReadFile(filepath.Join(p.dir, name))
		if err == nil {
			notes = append(notes, more...)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	holders := holders(text)
	if len(holders) == 0 {
		holders = []string{"the authors of " + p.name}
	}
	fmt.Fprintf(w, "\nFiles: %s\nCopyright: %s\nLicense: %s\n", strings.ReplaceAll(p.name, " ", "-")+"/*", strings.Join(holders, "\n  "), strings.Join(names, " and "))
	// Apache-2.0's text comes once, at the end; this is what else there is.
	rest := string(text)
	if _, after, ok := strings.Cut(rest, "END OF TERMS AND CONDITIONS"); ok {
		_, rest, _ = strings.Cut(after, "limitations under the License.")
	}
	if !slices.Equal(names, []string{"Apache-2.0"}) {
		if err := writeText(w, rest); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "Comment:\n %s %s is linked into %s.\n", p.name, p.version, strings.Join(p.in, ", "))
	if len(notes) > 0 {
		if err := writeText(w, string(notes)); err != nil {
			return err
		}
	}
	return nil
}

// writeText writes a text as the rest of a field.
func writeText(w io.Writer, text string) error {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimRight(line, " \t\r\n\f")
		if line == "" {
			line = "."
		}
		if _, err := fmt.Fprintf(w, " %s\n", line); err != nil {
			return err
		}
	}
	return nil
}

// licences by a sentence that only they have.
var licences = []struct {
	name  string
	words string
}{
	{"Apache-2.0", "Licensed under the Apache License, Version 2.0"}, // of its appendix, or alone
	{"Apache-2.0", "Apache License Version 2.0, January 2004"},
	{"Expat", "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files"},
	{"BSD-3-clause", "may be used to endorse or promote products derived from this software without specific prior written permission"},
	{"BSD-2-clause", "Redistributions in binary form must reproduce the above copyright notice"},
	{"ISC", "Permission to use, copy, modify, and distribute this software for any purpose with or without fee is hereby granted"},
	{"MPL-2.0", "Mozilla Public License Version 2.0"},
}

var space = regexp.MustCompile(`\s+`)

// known are the names of the licences whose text this is.
func known(text []byte) []string {
	words := string(space.ReplaceAll(bytes.TrimSpace(text), []byte(" ")))
	var names []string
	for _, l := range licences {
		if strings.Contains(words, l.words) && !slices.Contains(names, l.name) && !(l.name == "BSD-2-clause" && slices.Contains(names, "BSD-3-clause")) {
			names = append(names, l.name)
		}
	}
	return names
}

var holder = regexp.MustCompile(`(?m)^[ \t#*]*(Copyright (?:\(c\) |© )?[0-9]{4}.*|Copyright (?:\(c\)|©) .*)$`)

// holders are the lines of a licence that say whose it is, without "Copyright".
func holders(text []byte) []string {
	var found []string
	for _, m := range holder.FindAllSubmatch(text, -1) {
		line := strings.TrimSpace(regexp.MustCompile(`^Copyright (\([cC]\) |© )?`).ReplaceAllString(string(m[1]), ""))
		if !slices.Contains(found, line) {
			found = append(found, line)
		}
	}
	return found
}
