package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/rpc"
)

// writeTimeout is how long a client may leave one answer unread.
const writeTimeout = 30 * time.Second

// A lineStream is the jsonrpc2.ObjectStream of one client: one object a line,
// bounded before it is decoded. What is not a request it answers itself and
// goes on, which the library's streams do not: they end the connection.
//
// The library decodes and encodes a request's parameters several times on its
// way. They can be tens of megabytes, so the library gets the envelope without
// them, and the handler, which it calls before it reads on, takes them from
// here.
type lineStream struct {
	conn *net.UnixConn
	in   *bufio.Reader
	// limit is the largest message in bytes, asked before each.
	limit  func() int64
	refuse func(*rpc.Error) // counts refusals

	params json.RawMessage // of the request that was read last

	writing sync.Mutex

	mu       sync.Mutex
	inFlight int
	idle     chan struct{} // closed when inFlight becomes 0 after end of input
	ended    bool
}

func newLineStream(c *net.UnixConn, limit func() int64, refuse func(*rpc.Error)) *lineStream {
	return &lineStream{conn: c, in: bufio.NewReaderSize(c, 16<<10), limit: limit, refuse: refuse, idle: make(chan struct{})}
}

// ReadObject implements jsonrpc2.ObjectStream.
func (s *lineStream) ReadObject(v any) error {
	for {
		line, err := s.readLine()
		if err == errTooLong {
			s.reject(rpc.Errorf(rpc.CodeInvalidRequest, "message is longer than %d bytes", s.limit()))
			continue
		}
		if err != nil && len(line) == 0 {
			s.drain()
			return err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		envelope, params, bad := parseEnvelope(line)
		if bad != nil {
			s.reject(bad)
			continue
		}
		s.params = params
		s.begin()
		return json.Unmarshal(envelope, v)
	}
}

// takeParams hands over the parameters of the request just read.
func (s *lineStream) takeParams() json.RawMessage {
	p := s.params
	s.params = nil
	return p
}

var errTooLong = errors.New("line too long")

// readLine reads up to the next newline, or end of input, without it. A longer
// line is read to its end and dropped.
func (s *lineStream) readLine() ([]byte, error) {
	limit := s.limit()
	var line []byte
	for {
		part, err := s.in.ReadSlice('\n')
		size := int64(len(line) + len(part))
		if err == nil {
			size-- // the newline
		}
		if size > limit {
			for err == bufio.ErrBufferFull {
				_, err = s.in.ReadSlice('\n')
			}
			// End of input, if that is what err says, comes again with the next read.
			return nil, errTooLong
		}
		if err == nil && line == nil {
			// One slice held it all, and it stays ours until the next read: by
			// then it has been decoded.
			return bytes.TrimSuffix(part, []byte("\n")), nil
		}
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return bytes.TrimSuffix(line, []byte("\n")), err
		}
	}
}

// parseEnvelope checks a message and takes its parameters out. The envelope
// that it returns is what the library needs to see.
func parseEnvelope(line []byte) (envelope []byte, params json.RawMessage, bad *rpc.Error) {
	invalid := func(format string, args ...any) (_ []byte, _ json.RawMessage, bad *rpc.Error) {
		return nil, nil, rpc.Errorf(rpc.CodeInvalidRequest, format, args...)
	}
	if !utf8.Valid(line) {
		// encoding/json would put U+FFFD into the program without a word.
		return nil, nil, rpc.Errorf(rpc.CodeParseError, "not UTF-8")
	}
	if line = bytes.TrimSpace(line); line[0] == '[' && json.Valid(line) {
		return invalid("batches are not supported: send one request a line")
	}
	var m struct {
		JSONRPC json.RawMessage `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Method  json.RawMessage `json:"method"`
		Params  json.RawMessage `json:"params"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, nil, rpc.Errorf(rpc.CodeParseError, "not JSON: %v at byte %d", syntax, syntax.Offset)
		}
		return invalid("a message has to be a JSON object")
	}
	var method string
	switch {
	case string(m.JSONRPC) != `"2.0"`:
		return invalid(`jsonrpc has to be "2.0"`)
	case len(m.Method) == 0 || m.Method[0] != '"' || json.Unmarshal(m.Method, &method) != nil:
		return invalid("method has to be a string")
	case m.ID != nil && !usableID(m.ID):
		return invalid("id has to be a string or a whole number from 0 to 2^53")
	case m.Params != nil && m.Params[0] != '{' && m.Params[0] != '[':
		return invalid("params has to be an object")
	}
	out := map[string]any{"jsonrpc": "2.0", "method": method}
	if m.ID != nil {
		out["id"] = m.ID
	}
	envelope, err := json.Marshal(out)
	if err != nil {
		return invalid("%v", err)
	}
	return envelope, bytes.Clone(m.Params), nil
}

func usableID(id json.RawMessage) bool {
	if id[0] == '"' {
		return true
	}
	n, err := strconv.ParseUint(string(id), 10, 64)
	return err == nil && n <= 1<<53
}

// WriteObject implements jsonrpc2.ObjectStream.
func (s *lineStream) WriteObject(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(append(data, '\n'))
}

func (s *lineStream) write(line []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := s.conn.Write(line)
	if err != nil {
		// A client that takes half an answer must not get another behind it.
		s.conn.Close()
	}
	return err
}

// reject answers what is not a request, with id null as JSON-RPC says.
func (s *lineStream) reject(e *rpc.Error) {
	s.refuse(e)
	_ = s.WriteObject(map[string]any{"jsonrpc": "2.0", "id": nil, "error": e.Wire()})
}

// Close implements jsonrpc2.ObjectStream.
func (s *lineStream) Close() error { return s.conn.Close() }

// begin and finish count the requests that are being worked on.
func (s *lineStream) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight++
}

func (s *lineStream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
	if s.ended && s.inFlight == 0 {
		close(s.idle)
	}
}

// drain waits, at the end of input, until every request is answered or the
// client has gone. A client that has only closed its sending direction is
// still there for its answers; one that has closed the socket shows as a
// hangup.
func (s *lineStream) drain() {
	s.mu.Lock()
	s.ended = true
	if s.inFlight == 0 {
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.hungUp() {
		select {
		case <-s.idle:
			return
		case <-tick.C:
		}
	}
}

func (s *lineStream) hungUp() bool {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(min(fd, math.MaxInt32))}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
	return err != nil || gone
}
