package server

import (
	"bytes"
	"encoding/json"
)

// each visits the members of a JSON object, or the elements of an array, whose
// name is nil, until visit returns false. It copies nothing: a request can be
// a hundred megabytes. Of what is not valid JSON it visits something, or
// nothing.
func each(raw []byte, visit func(name, value json.RawMessage) bool) {
	raw = skipSpace(raw)
	if len(raw) == 0 || raw[0] != '{' && raw[0] != '[' {
		return
	}
	object := raw[0] == '{'
	for rest := skipSpace(raw[1:]); len(rest) > 0 && rest[0] != '}' && rest[0] != ']'; {
		var name json.RawMessage
		if object {
			n := valueLength(rest)
			name, rest = rest[:n], skipSpace(rest[n:])
			if len(rest) == 0 || rest[0] != ':' {
				return
			}
			rest = skipSpace(rest[1:])
		}
		n := valueLength(rest)
		if n == 0 || !visit(name, rest[:n]) {
			return
		}
		if rest = skipSpace(rest[n:]); len(rest) > 0 && rest[0] == ',' {
			rest = skipSpace(rest[1:])
		}
	}
}

// count is how many members or elements there are, up to most+1.
func count(raw []byte, most int) int {
	n := 0
	each(raw, func(_, _ json.RawMessage) bool {
		n++
		return n <= most
	})
	return n
}

const space = " \t\r\n" // JSON's own; unicode has more

func skipSpace(b []byte) []byte { return bytes.TrimLeft(b, space) }

// valueLength is how long the JSON value is that b begins with; 0 if b is empty.
func valueLength(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return stringLength(b)
	case '{', '[':
		depth := 0
		for i := 0; i < len(b); i++ {
			switch b[i] {
			case '"':
				i += stringLength(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
		return len(b)
	}
	if n := bytes.IndexAny(b, ",:]}"+space); n >= 0 {
		return max(n, 1)
	}
	return len(b)
}

// stringLength is the length of the JSON string that b begins with, quotes
// included.
func stringLength(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// unquote is the text of a JSON string; "" if it is none.
func unquote(s json.RawMessage) (text string) {
	if len(s) >= 2 && s[0] == '"' && bytes.IndexByte(s, '\\') < 0 {
		return string(s[1 : len(s)-1])
	}
	_ = json.Unmarshal(s, &text)
	return text
}
