package runner

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync/atomic"
)

// A Scanner takes one output stream of a sandbox apart: what the program wrote
// goes to W, what follows the end mark does not. It is used by one goroutine.
type Scanner struct {
	w    io.Writer
	mark []byte
	// body says whether an end frame follows the mark (stdout) or not (stderr).
	body bool

	held  []byte // the end of the input so far, if it may begin a mark
	frame []byte // what has come after the mark
	found bool
	done  bool
	end   *End

	passed atomic.Int64
}

// Passed is how many bytes have gone to W. It may be called at any time.
func (s *Scanner) Passed() int64 { return s.passed.Load() }

// NewScanner returns a Scanner for stdout (whose mark an End follows) or
// stderr (where the mark stands alone).
func NewScanner(t Token, w io.Writer, stdout bool) *Scanner {
	return &Scanner{w: w, mark: t.mark(), body: stdout}
}

// Write takes the next bytes of the stream. It fails only if W does.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	if s.done {
		return n, nil
	}
	if s.found {
		s.collect(p)
		return n, nil
	}
	if len(s.held) > 0 {
		p = append(s.held, p...)
		s.held = nil
	}
	if i := bytes.Index(p, s.mark); i >= 0 {
		s.found = true
		s.collect(p[i+len(s.mark):])
		return n, s.emit(p[:i])
	}
	keep := tail(p, s.mark)
	s.held = append([]byte(nil), p[len(p)-keep:]...)
	return n, s.emit(p[:len(p)-keep])
}

// Flush passes on what was held back: the stream is at its end.
func (s *Scanner) Flush() error {
	held := s.held
	s.held = nil
	return s.emit(held)
}

// Done says whether the end of the program has been seen on this stream.
func (s *Scanner) Done() bool { return s.done }

// End is the program's end, or nil if none has come or it made no sense.
func (s *Scanner) End() *End { return s.end }

func (s *Scanner) emit(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	s.passed.Add(int64(len(p)))
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// collect gathers the frame behind the mark. A frame that makes no sense was
// written by the program: it ends the stream and says nothing.
func (s *Scanner) collect(p []byte) {
	if !s.body {
		s.done = true
		return
	}
	s.frame = append(s.frame, p...)
	if len(s.frame) < 4 {
		return
	}
	size := binary.BigEndian.Uint32(s.frame)
	if size > MaxEnd {
		s.done = true
		s.frame = nil
		return
	}
	if rest := s.frame[4:]; len(rest) >= int(size) {
		s.done = true
		if end, err := parseEnd(rest[:size]); err == nil {
			s.end = &end
		}
		s.frame = nil
	}
}

// tail is the length of the longest proper prefix of mark that p ends with.
func tail(p, mark []byte) int {
	longest := min(len(p), len(mark)-1)
	for n := longest; n > 0; n-- {
		if p[len(p)-n] == mark[0] && bytes.HasPrefix(mark, p[len(p)-n:]) {
			return n
		}
	}
	return 0
}
