package server

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sourcegraph/jsonrpc2"

	"github.com/fcarli/codesandbox/rpc"
)

// An executed is a Result together with its output, which is encoded piece by
// piece on its way to the client: text of 16 MiB can be 96 MiB of JSON.
type executed struct {
	rpc.Result     // without the output
	stdout, stderr []byte
}

// noOutput is how a Result without output shows it.
const noOutput = `"stdout":"","stderr":""`

// writeJSON writes what json.Marshal would make of the Result with its output.
func (e *executed) writeJSON(w *bufio.Writer) error {
	data, err := json.Marshal(e.Result)
	if err != nil {
		return err
	}
	// In front of it are an id and a status of ours only.
	before, after, ok := bytes.Cut(data, []byte(noOutput))
	if !ok {
		return fmt.Errorf("encode result: no place for output in %.100q", data)
	}
	_, _ = w.Write(before)
	_, _ = w.WriteString(`"stdout":`)
	writeText(w, e.stdout)
	_, _ = w.WriteString(`,"stderr":`)
	writeText(w, e.stderr)
	writeExact(w, `,"stdout_base64":"`, e.stdout)
	writeExact(w, `,"stderr_base64":"`, e.stderr)
	_, err = w.Write(after)
	return err
}

// writeText writes b as a JSON string. Each run of bytes that are not UTF-8
// becomes one U+FFFD. Like those below it leaves errors to the writer, which
// keeps the first.
func writeText(w *bufio.Writer, b []byte) {
	_ = w.WriteByte('"')
	garbage := false
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size == 1 {
			if !garbage {
				_, _ = w.WriteString("\uFFFD")
			}
			garbage = true
			b = b[1:]
			continue
		}
		garbage = false
		if plain := plainLength(b); plain > 0 {
			_, _ = w.Write(b[:plain])
			b = b[plain:]
			continue
		}
		switch r {
		case '"', '\\':
			_, _ = w.Write([]byte{'\\', byte(r)})
		case '\n':
			_, _ = w.WriteString(`\n`)
		default:
			if r < ' ' || r == '\u2028' || r == '\u2029' { // as json.Marshal, for JavaScript
				_, _ = fmt.Fprintf(w, `\u%04x`, r)
			} else {
				_, _ = w.Write(b[:size])
			}
		}
		b = b[size:]
	}
	_ = w.WriteByte('"')
}

// plainLength is how many bytes at the beginning of b are ASCII that JSON
// writes as it is.
func plainLength(b []byte) int {
	for i, c := range b {
		if c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return i
		}
	}
	return len(b)
}

// writeExact writes a member with b in base64 if the text has lost anything.
func writeExact(w *bufio.Writer, member string, b []byte) {
	if utf8.Valid(b) {
		return
	}
	_, _ = w.WriteString(member)
	e := base64.NewEncoder(base64.StdEncoding, w)
	_, _ = e.Write(b)
	_ = e.Close()
	_ = w.WriteByte('"')
}

// writers are the buffers of the answers that are being written.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 32<<10) }}

// answer sends the result of a request. Only one answer of a connection is
// encoded at a time. On an error the connection is closed: a client that takes
// half an answer must not get another behind it.
func (s *lineStream) answer(id jsonrpc2.ID, result any) error {
	return s.send(func(w *bufio.Writer) error {
		name, err := json.Marshal(id)
		if err != nil {
			return err
		}
		_, _ = w.WriteString(`{"jsonrpc":"2.0","id":`)
		_, _ = w.Write(name)
		_, _ = w.WriteString(`,"result":`)
		if e, ok := result.(*executed); ok {
			err = e.writeJSON(w)
		} else {
			err = writeValue(w, result)
		}
		_ = w.WriteByte('}')
		return err
	})
}

// refusal sends an error; without an id, it is about what was no request.
func (s *lineStream) refusal(id *jsonrpc2.ID, e *rpc.Error) error {
	return s.send(func(w *bufio.Writer) error {
		return writeValue(w, map[string]any{"jsonrpc": "2.0", "id": id, "error": e.Wire()})
	})
}

func writeValue(w *bufio.Writer, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}

// send writes one line.
func (s *lineStream) send(write func(*bufio.Writer) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	w := writers.Get().(*bufio.Writer)
	w.Reset(s.conn)
	defer func() {
		w.Reset(nil)
		writers.Put(w)
	}()
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err := write(w)
	if err == nil {
		_ = w.WriteByte('\n')
		err = w.Flush()
	}
	if err != nil {
		s.conn.Close()
	}
	return err
}

// turnAway tells a client that it is one too many. It never waits: the answer
// fits into what the kernel keeps for a new connection.
func turnAway(c *net.UnixConn, e *rpc.Error) {
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	line, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": nil, "error": e.Wire()})
	_, _ = c.Write(append(line, '\n'))
	c.Close()
}
