// Package runner holds the Python program that runs inside every sandbox and
// the frames that the host exchanges with it.
//
// The sandbox's descriptor 0 carries one request, descriptors 1 and 2 the
// program's own output with two things of ours in it: a ready line before the
// request, and an end mark after the program.
//
//	ready    "CSB1 ready\n" on stdout, before anything else
//	warm-up  "CSBW", 4 bytes big-endian length, that many bytes of Python, which
//	         the runner executes before it writes another ready line; any number
//	         of them, before the request. One, empty or not, has to follow each
//	         restore from a snapshot: the runner then renews what is random
//	notice   "CSBN": a request is about to come. It wakes the runner, which takes
//	         an idle sandbox a millisecond or two, and has no answer
//	request  "CSB1", 4 bytes big-endian length, that many bytes of JSON (header),
//	         then code, stdin and each file's content, of the lengths it states
//	taken    one more ready line: all of the request is there, code and files are
//	         in place, and the program is about to start. It has not yet, so that
//	         it cannot have written this
//	refused  "CSB1 files\n" instead, 4 bytes big-endian length, that many bytes of
//	         text: why code and files cannot be placed. No program runs
//	end      on stdout: NUL "csb-end " token " ", 4 bytes big-endian length,
//	         that many bytes of JSON (End)
//	         on stderr: NUL "csb-end " token " "
//
// The token is random and new for each request, so that no program ends its
// output by accident. A program can find it and forge its own end, which
// harms its own result only: everything that comes out of a sandbox is parsed
// within bounds and decides nothing about another.
package runner

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"

	"github.com/fcarli/codesandbox/isolation"
)

// Source is the program that is baked into every image at Path.
//
//go:embed runner.py
var Source []byte

const (
	// Path of the runner in an image.
	Path = "/csb/runner.py"
	// Ready is the first line that a runner writes to stdout.
	Ready = "CSB1 ready\n"
	// refusal begins what a runner says instead of Ready to a request whose
	// files it cannot place. It is as long.
	refusal = "CSB1 files\n"
	// maxReason bounds the reason that follows, in bytes.
	maxReason = 8 << 10
	// MaxEnd bounds the JSON of an end frame in bytes.
	MaxEnd = 1 << 20

	magic       = "CSB1"
	magicWarm   = "CSBW"
	magicNotice = "CSBN"
	markStart   = "\x00csb-end "

	// inOneWrite is the largest request, in bytes, that is copied into one
	// piece: the runner then takes it in one read.
	inOneWrite = 64 << 10
)

// A Token introduces the end frame of one request: 32 hexadecimal digits.
type Token string

// NewToken returns a random Token.
func NewToken() Token {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("no randomness: " + err.Error()) // documented never to happen on Linux
	}
	return Token(hex.EncodeToString(b[:]))
}

func (t Token) mark() []byte { return []byte(markStart + string(t) + " ") }

type header struct {
	Token       Token             `json:"token"`
	Args        []string          `json:"args"`
	Environment map[string]string `json:"environment"`
	Code        int               `json:"code"`
	Stdin       int               `json:"stdin"`
	Files       []fileHeader      `json:"files"`
	Limits      limits            `json:"limits"`
}

type fileHeader struct {
	Path string `json:"path"`
	Mode uint32 `json:"mode"`
	Size int    `json:"size"`
}

type limits struct {
	Memory    int64 `json:"memory"`
	Processes int   `json:"processes"`
	OpenFiles int   `json:"open_files"`
}

// StackRoom is the address space that the runner allows for the stacks of
// threads, on top of the memory limit; set_limits in runner.py does the same.
func StackRoom(l isolation.Limits) int64 {
	return min(int64(l.Processes)*(2<<20), l.Memory/4)
}

// WriteNotice announces a request.
func WriteNotice(w io.Writer) error {
	if _, err := io.WriteString(w, magicNotice); err != nil {
		return fmt.Errorf("write notice: %w", err)
	}
	return nil
}

// WriteRequest writes the request frame for s. It does not copy large contents.
func WriteRequest(w io.Writer, t Token, s isolation.Spec) error {
	h := header{
		Token:       t,
		Args:        append([]string{}, s.Args...),
		Environment: s.Environment,
		Code:        len(s.Code),
		Stdin:       len(s.Stdin),
		Files:       []fileHeader{},
		Limits: limits{
			Memory:    s.Limits.Memory,
			Processes: s.Limits.Processes,
			OpenFiles: s.Limits.OpenFiles,
		},
	}
	if h.Environment == nil {
		h.Environment = map[string]string{}
	}
	for _, f := range s.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		h.Files = append(h.Files, fileHeader{f.Path, mode, len(f.Content)})
	}
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode request frame: %w", err)
	}
	frame := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(data)))
	parts := [][]byte{append(frame, data...), s.Code, s.Stdin}
	for _, f := range s.Files {
		parts = append(parts, f.Content)
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size <= inOneWrite {
		parts = [][]byte{bytes.Join(parts, nil)}
	}
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		if _, err := w.Write(p); err != nil {
			return fmt.Errorf("write request frame: %w", err)
		}
	}
	return nil
}

// WriteWarmup writes a warm-up frame.
func WriteWarmup(w io.Writer, code []byte) error {
	frame := binary.BigEndian.AppendUint32([]byte(magicWarm), uint32(len(code)))
	if _, err := w.Write(append(frame, code...)); err != nil {
		return fmt.Errorf("write warm-up frame: %w", err)
	}
	return nil
}

// An End is what the runner says of the program's end.
type End struct {
	// ExitCode is the status that the program left with.
	ExitCode int `json:"exit_code"`
	// Signal that ended the program, or 0.
	Signal    int        `json:"signal"`
	Exception *exception `json:"exception"`
}

type exception struct {
	Type      string `json:"type"`
	Message   string `json:"message"`
	Line      int    `json:"line"`
	Traceback string `json:"traceback"`
}

// parseEnd decodes the JSON of an end frame. Numbers out of range are
// refused: the program may have written this.
func parseEnd(data []byte) (End, error) {
	var e End
	if err := json.Unmarshal(data, &e); err != nil {
		return End{}, fmt.Errorf("end frame: %w", err)
	}
	if e.ExitCode < 0 || e.ExitCode > 255 {
		return End{}, fmt.Errorf("end frame: exit code %d", e.ExitCode)
	}
	if e.Signal < 0 || e.Signal > 64 {
		return End{}, fmt.Errorf("end frame: signal %d", e.Signal)
	}
	if e.Exception != nil && e.Exception.Line < 0 {
		e.Exception.Line = 0
	}
	return e, nil
}

// Result is the program's end as a Result, without duration and usage.
func (e End) Result() isolation.Result {
	var x *isolation.Exception
	if e.Exception != nil {
		x = &isolation.Exception{
			Type:      e.Exception.Type,
			Message:   e.Exception.Message,
			Line:      e.Exception.Line,
			Traceback: e.Exception.Traceback,
		}
	}
	if e.Signal != 0 {
		r := isolation.Signalled(e.Signal)
		r.Exception = x
		return r
	}
	return isolation.Ended(e.ExitCode, x)
}

// Preload is the command line that starts the runner with modules imported.
func Preload(modules []string) []string {
	return append([]string{"/usr/bin/python3", Path}, modules...)
}

// WaitReady reads the ready line from a sandbox's stdout.
func WaitReady(r io.Reader) error {
	line, err := readLine(r)
	if err == nil && line != Ready {
		err = fmt.Errorf("got %q", line)
	}
	if err != nil {
		return fmt.Errorf("wait for the runner: %w", err)
	}
	return nil
}

// WaitTaken reads from a sandbox's stdout what becomes of a request: nil if the
// program is about to start, an isolation.SetupError if its files cannot be
// placed.
func WaitTaken(r io.Reader) error {
	line, err := readLine(r)
	switch {
	case err == nil && line == Ready:
		return nil
	case err == nil && line == refusal:
		var reason []byte
		if reason, err = readReason(r); err == nil {
			return &isolation.SetupError{Reason: string(reason)}
		}
	case err == nil:
		err = fmt.Errorf("got %q", line)
	}
	return fmt.Errorf("wait for the runner to take the request: %w", err)
}

// readLine reads as many bytes as a ready line has.
func readLine(r io.Reader) (string, error) {
	got := make([]byte, len(Ready))
	if n, err := io.ReadFull(r, got); err != nil {
		return "", fmt.Errorf("%w after %q", err, got[:n])
	}
	return string(got), nil
}

func readReason(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxReason {
		return nil, fmt.Errorf("a reason of %d bytes", n)
	}
	reason := make([]byte, n)
	_, err := io.ReadFull(r, reason)
	return reason, err
}
