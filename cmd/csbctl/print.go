package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// printJSON prints a JSON value: indented for people at a terminal, on one
// line for programs.
func printJSON(w io.Writer, raw json.RawMessage) error {
	var out bytes.Buffer
	var err error
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		err = json.Indent(&out, raw, "", "  ")
	} else {
		err = json.Compact(&out, raw)
	}
	if err != nil {
		return err
	}
	out = *bytes.NewBuffer(readable(out.Bytes()))
	out.WriteByte('\n')
	_, err = w.Write(out.Bytes())
	return err
}

// readable writes <, > and & as themselves, which Go's encoder escapes for the
// sake of HTML.
func readable(b []byte) []byte {
	plain := map[string]byte{"u003c": '<', "u003e": '>', "u0026": '&'}
	out := b[:0]
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 == len(b) {
			out = append(out, b[i])
			continue
		}
		if i+6 <= len(b) {
			if c, ok := plain[string(b[i+1:i+6])]; ok {
				out = append(out, c)
				i += 5
				continue
			}
		}
		out = append(out, b[i], b[i+1])
		i++
	}
	return out
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
