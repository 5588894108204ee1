package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sourcegraph/jsonrpc2"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc"
)

func TestParseEnvelope(t *testing.T) {
	for _, test := range []struct{ line, envelope, params string }{
		{`{"jsonrpc":"2.0","id":1,"method":"status"}`, `{"id":1,"jsonrpc":"2.0","method":"status"}`, ""},
		{`{"jsonrpc":"2.0","method":"status"}`, `{"jsonrpc":"2.0","method":"status"}`, ""},
		{` {"params":{"code":"<"} , "id":"ä","method":"execute","jsonrpc":"2.0"}` + "\r", `{"id":"ä","jsonrpc":"2.0","method":"execute"}`, `{"code":"<"}`},
		{`{"jsonrpc":"2.0","id":0,"method":"","params":[]}`, `{"id":0,"jsonrpc":"2.0","method":""}`, "[]"},
		{`{"jsonrpc":"2.0","id":9007199254740992,"method":"m","meta":5}`, `{"id":9007199254740992,"jsonrpc":"2.0","method":"m"}`, ""},
		{`{"jsonrpc":"2.0","id":"","method":"m"}`, `{"id":"","jsonrpc":"2.0","method":"m"}`, ""},
		{`{"jsonrpc":"2.0","id":"null","method":"m\n"}`, `{"id":"null","jsonrpc":"2.0","method":"m\n"}`, ""},
	} {
		envelope, params, bad := parseEnvelope([]byte(test.line))
		assert.Assert(t, bad == nil, "%s: %v", test.line, bad)
		assert.Equal(t, string(envelope), test.envelope)
		assert.Equal(t, string(params), test.params)
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	const (
		version = `jsonrpc has to be "2.0"`
		method  = "method has to be a string"
		id      = "id has to be a string or a whole number from 0 to 2^53"
		params  = "params has to be an object"
	)
	for _, test := range []struct {
		line string
		code int64
		want string
	}{
		{`{`, rpc.CodeParseError, "not JSON: unexpected end of JSON input at byte 1"},
		{`{"jsonrpc":"2.0",}`, rpc.CodeParseError, "not JSON: invalid character '}' looking for beginning of object key string at byte 18"},
		{`hello`, rpc.CodeParseError, "not JSON: invalid character 'h' looking for beginning of value at byte 1"},
		{`{} {}`, rpc.CodeParseError, "not JSON: invalid character '{' after top-level value at byte 4"},
		{`[{]`, rpc.CodeParseError, "not JSON: invalid character ']' looking for beginning of object key string at byte 3"},
		{"\x00", rpc.CodeParseError, `not JSON: invalid character '\x00' looking for beginning of value at byte 1`},
		{`5`, rpc.CodeInvalidRequest, "a message has to be a JSON object"},
		{`"x"`, rpc.CodeInvalidRequest, "a message has to be a JSON object"},
		{`null`, rpc.CodeInvalidRequest, "a message has to be a JSON object"},
		// Names are exact, and each stands there once.
		{`{"JSONRPC":"2.0","id":1,"method":"m"}`, rpc.CodeInvalidRequest, version},
		{`{"jsonrpc":"2.0","id":1,"METHOD":"m"}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}`, rpc.CodeInvalidRequest, "method stands there twice"},
		{`{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"m"}`, rpc.CodeInvalidRequest, "id stands there twice"},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":{},"params":{}}`, rpc.CodeInvalidRequest, "params stands there twice"},
		{`[]`, rpc.CodeInvalidRequest, "batches are not supported: send one request a line"},
		{`[{"jsonrpc":"2.0","id":1,"method":"status"}]`, rpc.CodeInvalidRequest, "batches are not supported: send one request a line"},
		{`{}`, rpc.CodeInvalidRequest, version},
		{`{"id":1,"method":"m"}`, rpc.CodeInvalidRequest, version},
		{`{"jsonrpc":"1.0","id":1,"method":"m"}`, rpc.CodeInvalidRequest, version},
		{`{"jsonrpc":2.0,"id":1,"method":"m"}`, rpc.CodeInvalidRequest, version},
		{`{"jsonrpc":null,"id":1,"method":"m"}`, rpc.CodeInvalidRequest, version},
		{`{"jsonrpc":"2.0","id":1}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":1,"method":5}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":1,"method":null}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":1,"method":["m"]}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":1,"result":5}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}`, rpc.CodeInvalidRequest, method},
		{`{"jsonrpc":"2.0","id":null,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":-1,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":-0,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":1.5,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":1e2,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":9007199254740993,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":99999999999999999999,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":true,"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":{},"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":[1],"method":"m"}`, rpc.CodeInvalidRequest, id},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":null}`, rpc.CodeInvalidRequest, params},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":5}`, rpc.CodeInvalidRequest, params},
		{`{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}`, rpc.CodeInvalidRequest, params},
	} {
		t.Run(test.line, func(t *testing.T) {
			envelope, taken, bad := parseEnvelope([]byte(test.line))
			assert.Assert(t, bad != nil, "taken as %s", envelope)
			assert.Equal(t, bad.Code, test.code)
			assert.Equal(t, bad.Message, test.want)
			assert.Check(t, envelope == nil && taken == nil)
		})
	}
}

// A program with bytes that are no text would run as another program, if they
// were taken as U+FFFD as encoding/json does.
func TestParseEnvelopeRefusesWhatIsNoUTF8(t *testing.T) {
	_, _, bad := parseEnvelope([]byte("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"execute\",\"params\":{\"code\":\"print('\xff')\"}}"))
	assert.Assert(t, bad != nil)
	assert.Equal(t, bad.Code, int64(rpc.CodeParseError))
}

// The buffer is reused for the next message; the parameters are not.
func TestParametersStay(t *testing.T) {
	for _, size := range []int{1, smallMessage - 100, smallMessage, 10 * smallMessage} {
		params := func(c string) string { return `{"code":"` + strings.Repeat(c, size) + `"}` }
		line := func(c string) string {
			return `{"jsonrpc":"2.0","id":"abc","method":"execute","params":` + params(c) + "}\n"
		}
		s, _, _ := streamOf(t, 1<<20, line("x")+line("!"))
		var r jsonrpc2.Request
		assert.NilError(t, s.ReadObject(&r))
		first := s.takeMessage()
		assert.NilError(t, s.ReadObject(&r))
		assert.Check(t, string(first.take()) == params("x"), "of %d bytes", size)
	}
}

// A message that there is no memory for is refused at once, and the next one
// read.
func TestReadObjectWithoutMemory(t *testing.T) {
	const good = `{"jsonrpc":"2.0","id":7,"method":"version"}`
	s, client, refused := streamOf(t, 1<<30, strings.Repeat("x", 1<<20)+"\n"+good)
	assert.Assert(t, s.memory.take(1, s.memory.total-100<<10))
	var r jsonrpc2.Request
	assert.NilError(t, s.ReadObject(&r))
	assert.Equal(t, r.Method, "version")
	assert.Equal(t, len(*refused), 1)
	assert.Equal(t, (*refused)[0].Code, int64(rpc.CodeBusy))
	line, err := bufio.NewReader(client).ReadString('\n')
	assert.NilError(t, err)
	assert.Check(t, strings.Contains(line, `"id":null`) && strings.Contains(line, `"kind":"busy"`), "%s", line)
	s.takeMessage().release()
	assert.Equal(t, s.memory.users[0], int64(0))
}

// A message that holds memory has to come to its end; one that holds none may
// take its time.
func TestReadObjectRunsOutOfPatience(t *testing.T) {
	ours, theirs := pair(t)
	s := newLineStream(ours, newBudget(1<<30), 0, func() int64 { return 1 << 20 }, func(*rpc.Error) {})
	s.patience = 50 * time.Millisecond
	go func() {
		time.Sleep(4 * s.patience)
		_, _ = io.WriteString(theirs, `{"jsonrpc":"2.0","id":7,`)
		time.Sleep(4 * s.patience)
		_, _ = io.WriteString(theirs, `"method":"version"}`+"\n"+strings.Repeat("x", 100<<10))
	}()
	var r jsonrpc2.Request
	assert.NilError(t, s.ReadObject(&r))
	s.takeMessage().release()
	s.finish()
	assert.ErrorIs(t, s.ReadObject(&r), os.ErrDeadlineExceeded)
	assert.Equal(t, s.memory.used, int64(0))
	line, err := bufio.NewReader(theirs).ReadString('\n')
	assert.NilError(t, err)
	assert.Check(t, strings.Contains(line, "not come to its end"), "%s", line)
}

// FuzzEnvelope holds that no line makes parseEnvelope panic, that what it
// refuses has one of two codes, and that what it accepts is a request that the
// library reads with the same id.
func FuzzEnvelope(f *testing.F) {
	for _, line := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"status"}`, `{"jsonrpc":"2.0","id":"a<\u2028\ud83d\ude00","method":"m","params":{"a":[]}}`,
		`{"jsonrpc":"2.0","method":"m","params":[1]}`, `[]`, `null`, `{`, "\x00", `{"jsonrpc":"2.0","id":null,"method":null}`,
		`{"id":1,"id":"b","jsonrpc":"2.0","method":"m"}`, `{"jsonrpc":"2.0","ID":1,"METHOD":"m","method":"n"}`,
		`{"jsonrpc":"2.0","m\u0065thod":"m","params":{"a":"]}\\","b":[{}]}}`, "{\"jsonrpc\":\"2.0\",\"id\":\"\xff\",\"method\":\"m\"}", "\u0085{}", `{"ID":1}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(bytes.TrimSpace(line)) == 0 {
			return // the caller skips it
		}
		envelope, params, bad := parseEnvelope(line)
		if bad != nil {
			if bad.Code != rpc.CodeParseError && bad.Code != rpc.CodeInvalidRequest || bad.Message == "" || bad.Data.Kind == "" {
				t.Errorf("%q is refused with %+v", line, bad)
			}
			return
		}
		if !json.Valid(line) {
			t.Fatalf("%q is accepted", line)
		}
		// Without regard to case, as encoding/json decodes below.
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(line, &members); err != nil {
			t.Fatal(err)
		}
		for name := range members {
			if lower := strings.ToLower(name); lower != name && (lower == "id" || lower == "method") {
				return
			}
		}
		if !bytes.Equal(bytes.Trim(members["params"], space), params) && !sameJSON(members["params"], params) {
			t.Errorf("%q: params %q", line, params)
		}
		if params != nil && (!json.Valid(params) || params[0] != '{' && params[0] != '[') {
			t.Errorf("%q has parameters %q", line, params)
		}
		var request jsonrpc2.Request
		if err := json.Unmarshal(envelope, &request); err != nil {
			t.Fatalf("envelope %s: %v", envelope, err)
		}
		var sent struct {
			ID     *any   `json:"id"`
			Method string `json:"method"`
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&sent); err != nil {
			t.Fatal(err)
		}
		if request.Notif != (sent.ID == nil) {
			t.Fatalf("%q: notification: %v", line, request.Notif)
		}
		if request.Method != sent.Method {
			t.Errorf("%q: method %q", line, request.Method)
		}
		if sent.ID == nil {
			return
		}
		// What the answer will say.
		back, err := json.Marshal(request.ID)
		if err != nil {
			t.Fatal(err)
		}
		var answered any
		d = json.NewDecoder(bytes.NewReader(back))
		d.UseNumber()
		if err := d.Decode(&answered); err != nil || answered != *sent.ID {
			t.Errorf("%q: id %v is answered as %s, %v", line, *sent.ID, back, err)
		}
	})
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// streamOf is the server's end of a connection on which the client has sent
// the text and closed its sending direction; and the client's end.
func streamOf(t *testing.T, limit int64, sent string) (*lineStream, *net.UnixConn, *[]*rpc.Error) {
	t.Helper()
	ours, theirs := pair(t)
	go func() {
		_, _ = io.WriteString(theirs, sent)
		_ = theirs.CloseWrite()
	}()
	refused := new([]*rpc.Error)
	return newLineStream(ours, newBudget(1<<30), 0, func() int64 { return limit }, func(e *rpc.Error) { *refused = append(*refused, e) }), theirs, refused
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	assert.NilError(t, err)
	conns := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := fileOf(fd)
		c, err := net.FileConn(f)
		assert.NilError(t, err)
		assert.NilError(t, f.Close())
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

// Lines around the limit, shorter and longer than the buffer (16 KiB).
func TestReadLine(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	const tooLong = "too long"
	for _, limit := range []int{1, 10, 16<<10 - 1, 16 << 10, 16<<10 + 1, 40000} {
		for _, test := range []struct {
			name, sent string
			want       []string
		}{
			{"limit-1", x(limit-1) + "\n", []string{x(limit - 1)}},
			{"limit", x(limit) + "\n", []string{x(limit)}},
			{"limit+1", x(limit+1) + "\n", []string{tooLong}},
			{"twice the limit", x(2*limit+5) + "\n", []string{tooLong}},
			{"far beyond the buffer", x(3*limit+100000) + "\n", []string{tooLong}},
			{"no newline", x(limit), []string{x(limit)}},
			{"too long without a newline", x(limit + 1), []string{tooLong}},
			{"far too long without a newline", x(limit + 100000), []string{tooLong}},
			{"too long, then good", x(limit+1) + "\n" + x(limit) + "\n", []string{tooLong, x(limit)}},
			{"far too long, then good", x(limit+100000) + "\n" + x(limit) + "\n" + "y", []string{tooLong, x(limit), "y"}},
			{"good, then too long, then good", "a\n" + x(limit+20000) + "\nb\n", []string{"a", tooLong, "b"}},
			{"empty lines", "\n\na\n", []string{"", "", "a"}},
			{"nothing", "", nil},
		} {
			t.Run(fmt.Sprintf("limit %d/%s", limit, test.name), func(t *testing.T) {
				s, _, _ := streamOf(t, int64(limit), test.sent)
				var got []string
				for {
					held := &share{budget: s.memory}
					line, err := s.readLine(held)
					assert.Check(t, held.n >= int64(cap(line)) || len(line) <= smallMessage, "%d bytes are held for a line of %d", held.n, cap(line))
					held.release()
					if errors.Is(err, errTooLong) {
						got = append(got, tooLong)
						continue
					}
					if err == nil || len(line) > 0 {
						got = append(got, string(line))
					}
					if err != nil {
						assert.Equal(t, err, io.EOF)
						break
					}
				}
				assert.Equal(t, len(got), len(test.want), "%.50q", got)
				for i := range got {
					assert.Check(t, got[i] == test.want[i], "line %d: %d bytes %.20q, want %d bytes %.20q", i, len(got[i]), got[i], len(test.want[i]), test.want[i])
				}
			})
		}
	}
}

// What is no request is answered with id null, and the next line is read.
func TestReadObjectRejects(t *testing.T) {
	const good = `{"jsonrpc":"2.0","id":7,"method":"execute","params":{"code":"x"}}`
	s, client, refused := streamOf(t, 100, strings.Join([]string{
		"", "  \t", "junk", strings.Repeat("x", 200), "[]", `{"jsonrpc":"2.0","id":1}`, good, "\r", "{",
	}, "\n"))
	var r jsonrpc2.Request
	assert.NilError(t, s.ReadObject(&r))
	assert.Equal(t, r.Method, "execute")
	assert.Check(t, r.Params == nil) // the library need not carry them
	assert.Equal(t, r.ID, jsonrpc2.ID{Num: 7})
	m := s.takeMessage()
	assert.Equal(t, string(m.take()), `{"code":"x"}`)
	assert.Check(t, m.take() == nil && s.takeMessage() == nil)
	m.release()
	s.finish()
	assert.Equal(t, s.ReadObject(&r), io.EOF)
	assert.NilError(t, s.Close())
	assert.Equal(t, s.memory.used, int64(0))

	var codes []int64
	for _, e := range *refused {
		codes = append(codes, e.Code)
	}
	want := []int64{rpc.CodeParseError, rpc.CodeInvalidRequest, rpc.CodeInvalidRequest, rpc.CodeInvalidRequest, rpc.CodeParseError}
	assert.DeepEqual(t, codes, want)
	lines := bufio.NewScanner(client)
	for i, code := range want {
		assert.Assert(t, lines.Scan(), "answer %d", i)
		var answer struct {
			JSONRPC string
			ID      json.RawMessage
			Error   jsonrpc2.Error
		}
		assert.NilError(t, json.Unmarshal(lines.Bytes(), &answer))
		assert.Equal(t, answer.JSONRPC, "2.0")
		assert.Equal(t, string(answer.ID), "null")
		assert.Equal(t, answer.Error.Code, code)
	}
	assert.Check(t, !lines.Scan())
}

func fileOf(fd int) *os.File { return os.NewFile(uintptr(fd), "socketpair") }
