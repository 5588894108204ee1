package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/rpc"
)

// Patience with clients.
const (
	// writeTimeout is how long a client may leave one answer unread.
	writeTimeout = 30 * time.Second
	// messageTimeout is how long a message that is not a small one may take to
	// arrive: it holds memory meanwhile.
	messageTimeout = 30 * time.Second
)

// Sizes of messages, in bytes.
const (
	// smallMessage is what a connection may hold without asking.
	smallMessage = 16 << 10
	// maxName bounds the id and the name of the method, as JSON.
	maxName = 16 << 10
	// requestOverhead is what a request that is worked on needs, apart from its
	// message.
	requestOverhead = 32 << 10
)

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
	memory *budget          // of requests
	uid    uint32
	// patience is messageTimeout, but for tests.
	patience time.Duration

	read *message // last

	writing sync.Mutex

	mu       sync.Mutex
	inFlight int
	idle     chan struct{} // closed when inFlight becomes 0 after end of input
	ended    bool
}

// A message is a request's parameters and the memory that is held for them,
// and later for what becomes of them.
type message struct {
	params          json.RawMessage
	request, result *share
}

// take hands the parameters over: from then on nothing else keeps them.
func (m *message) take() json.RawMessage {
	params := m.params
	m.params = nil
	return params
}

func (m *message) release() {
	m.request.release()
	m.result.release()
}

func newLineStream(c *net.UnixConn, memory *budget, uid uint32, limit func() int64, refuse func(*rpc.Error)) *lineStream {
	return &lineStream{conn: c, in: bufio.NewReaderSize(c, smallMessage), limit: limit, refuse: refuse,
		memory: memory, uid: uid, patience: messageTimeout, idle: make(chan struct{})}
}

// ReadObject implements jsonrpc2.ObjectStream.
func (s *lineStream) ReadObject(v any) error {
	for {
		held := &share{budget: s.memory, uid: s.uid}
		envelope, params, err := s.readRequest(held)
		if envelope == nil {
			held.release()
			if err != nil {
				return err
			}
			continue
		}
		s.read = &message{params: params, request: held}
		s.begin()
		return json.Unmarshal(envelope, v)
	}
}

// readRequest reads one line and answers it itself, without an envelope or an
// error, if it is not a request.
func (s *lineStream) readRequest(held *share) (envelope []byte, params json.RawMessage, _ error) {
	line, err := s.readLine(held)
	switch {
	case err == errTooLong:
		s.reject(rpc.Errorf(rpc.CodeInvalidRequest, "message is longer than %d bytes", s.limit()))
		return nil, nil, nil
	case err == errNoMemory:
		s.reject(noMemory())
		return nil, nil, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.reject(rpc.Errorf(rpc.CodeInvalidRequest, "message has not come to its end within %v", s.patience))
		return nil, nil, err
	case err != nil && len(line) == 0:
		s.drain()
		return nil, nil, err
	case len(bytes.TrimSpace(line)) == 0:
		return nil, nil, nil
	}
	envelope, params, bad := parseEnvelope(line)
	if bad != nil {
		s.reject(bad)
		return nil, nil, nil
	}
	if len(line) <= smallMessage {
		params = bytes.Clone(params) // the line is the reader's buffer
	}
	return envelope, params, nil
}

// takeMessage hands over the request just read.
func (s *lineStream) takeMessage() *message {
	m := s.read
	s.read = nil
	return m
}

// Why a line was dropped.
var (
	errTooLong  = errors.New("line too long")
	errNoMemory = errors.New("no memory for the line")
)

// noMemory is the refusal of a request that does not fit into memory together
// with those that are there.
func noMemory() *rpc.Error {
	e := rpc.Busy(time.Second, "the requests that are being worked on leave no memory for this one")
	e.Data.Rule = "memory"
	return e
}

// readLine reads up to the next newline, or end of input, without it. A longer
// line, or one that there is no memory for, is read to its end and dropped.
// Lines longer than smallMessage are the caller's to keep; others are valid
// until the next call.
func (s *lineStream) readLine(held *share) ([]byte, error) {
	limit := s.limit()
	var line []byte
	defer func() {
		if line != nil {
			_ = s.conn.SetReadDeadline(time.Time{})
		}
	}()
	for {
		part, err := s.in.ReadSlice('\n')
		size := int64(len(line) + len(part))
		if err == nil {
			size-- // the newline
		}
		if size > limit {
			return nil, s.skipLine(err, errTooLong)
		}
		if err != bufio.ErrBufferFull && line == nil {
			// One slice held it all, and it stays ours until the next read: by
			// then it has been decoded.
			return bytes.TrimSuffix(part, []byte("\n")), err
		}
		if line == nil {
			_ = s.conn.SetReadDeadline(time.Now().Add(s.patience))
		}
		if len(line)+len(part) > cap(line) {
			// As append does, with the memory of both counted while there are both.
			// Room for one buffer more than the limit: the newline is still in it.
			size := min(max(2*cap(line), 4*smallMessage), int(limit)+smallMessage)
			if !held.grow(int64(size)) {
				// What was read is garbage from here on.
				_ = s.conn.SetReadDeadline(time.Time{})
				held.release()
				return nil, s.skipLine(err, errNoMemory)
			}
			line = append(make([]byte, 0, size), line...)
			held.resize(int64(size))
		}
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return bytes.TrimSuffix(line, []byte("\n")), err
		}
	}
}

// skipLine reads on to the end of the line, if err says that there is more, and
// returns why. End of input, if that is what is read, comes again with the next
// read.
func (s *lineStream) skipLine(err, why error) error {
	_ = s.conn.SetReadDeadline(time.Time{})
	for err == bufio.ErrBufferFull {
		_, err = s.in.ReadSlice('\n')
	}
	return why
}

// parseEnvelope checks a message and takes its parameters out. The envelope
// that it returns is what the library needs to see; the parameters are a part
// of the line.
func parseEnvelope(line []byte) (envelope []byte, params json.RawMessage, bad *rpc.Error) {
	invalid := func(format string, args ...any) (_ []byte, _ json.RawMessage, bad *rpc.Error) {
		return nil, nil, rpc.Errorf(rpc.CodeInvalidRequest, format, args...)
	}
	if !utf8.Valid(line) {
		// encoding/json would put U+FFFD into the program without a word.
		return nil, nil, rpc.Errorf(rpc.CodeParseError, "not UTF-8")
	}
	line = bytes.Trim(line, space)
	if !json.Valid(line) {
		return nil, nil, rpc.Errorf(rpc.CodeParseError, "not JSON: %v", syntaxError(line))
	}
	switch line[0] {
	case '[':
		return invalid("batches are not supported: send one request a line")
	case '{':
	default:
		return invalid("a message has to be a JSON object")
	}
	// encoding/json would take "METHOD" for "method", and the last of two.
	var version, id, method json.RawMessage
	known := map[string]*json.RawMessage{"jsonrpc": &version, "id": &id, "method": &method, "params": &params}
	twice := ""
	each(line, func(name, value json.RawMessage) bool {
		member := known[unquote(name)]
		switch {
		case member == nil:
		case *member != nil:
			twice = unquote(name)
		default:
			*member = value
		}
		return twice == ""
	})
	switch {
	case twice != "":
		return invalid("%s stands there twice", twice)
	case string(version) != `"2.0"`:
		return invalid(`jsonrpc has to be "2.0"`)
	case len(method) == 0 || method[0] != '"':
		return invalid("method has to be a string")
	case id != nil && !usableID(id):
		return invalid("id has to be a string or a whole number from 0 to 2^53")
	case params != nil && params[0] != '{' && params[0] != '[':
		return invalid("params has to be an object")
	case len(method) > maxName || len(id) > maxName:
		return invalid("method and id are at most %d bytes long", maxName)
	}
	out := map[string]any{"jsonrpc": "2.0", "method": method}
	if id != nil {
		out["id"] = id
	}
	envelope, err := json.Marshal(out)
	if err != nil {
		return invalid("%v", err)
	}
	return envelope, params, nil
}

// syntaxError says where what is not valid JSON stops being JSON.
func syntaxError(line []byte) string {
	err := json.Unmarshal(line, new(json.RawMessage))
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("%v at byte %d", syntax, syntax.Offset)
	}
	return fmt.Sprint(err)
}

func usableID(id json.RawMessage) bool {
	if id[0] == '"' {
		return true
	}
	n, err := strconv.ParseUint(string(id), 10, 64)
	return err == nil && n <= 1<<53
}

// WriteObject implements jsonrpc2.ObjectStream. The library has nothing to
// write: answers are sent without it, as it would encode each several times.
func (s *lineStream) WriteObject(v any) error {
	return s.send(func(w *bufio.Writer) error { return writeValue(w, v) })
}

// reject answers what is not a request, with id null as JSON-RPC says.
func (s *lineStream) reject(e *rpc.Error) {
	s.refuse(e)
	_ = s.refusal(nil, e)
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
