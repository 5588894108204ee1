package runner

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

const token = Token("0123456789abcdef0123456789abcdef")

// endFrame is what a runner writes to stdout at the end.
func endFrame(body string) []byte {
	return append(binary.BigEndian.AppendUint32(token.mark(), uint32(len(body))), body...)
}

// scan feeds a Scanner the pieces and returns all that it passed on.
func scan(t testing.TB, stdout bool, pieces ...[]byte) (*Scanner, []byte) {
	var out bytes.Buffer
	s := NewScanner(token, &out, stdout)
	for _, p := range pieces {
		before := bytes.Clone(p)
		n, err := s.Write(p)
		assert.NilError(t, err)
		assert.Equal(t, n, len(p))
		assert.Assert(t, bytes.Equal(p, before), "Write changed its argument")
	}
	assert.NilError(t, s.Flush())
	return s, out.Bytes()
}

// The outcome does not depend on how the pipe cuts the stream.
func TestScannerAtEachCut(t *testing.T) {
	for _, c := range []struct {
		name   string
		in     string
		stdout bool
		out    string
		done   bool
		end    *End
	}{
		{"stdout", "out\nput" + string(endFrame(`{"exit_code": 3}`)), true, "out\nput", true, &End{ExitCode: 3}},
		{"stdout without output", string(endFrame(`{}`)), true, "", true, &End{}},
		{"stdout and more", "x" + string(endFrame(`{}`)) + "more", true, "x", true, &End{}},
		{"stderr", "err" + string(token.mark()) + "more", false, "err", true, nil},
		{"no mark", "just output\x00", true, "just output\x00", false, nil},
		{"half a mark", "x\x00csb-end 0123", true, "x\x00csb-end 0123", false, nil},
		{"a mark but for its last byte", "x" + string(token.mark()[:41]), false, "x" + string(token.mark()[:41]), false, nil},
		{"half a mark before a whole", "x\x00csb-end 0123\x00\x00" + string(endFrame(`{}`)), true, "x\x00csb-end 0123\x00\x00", true, &End{}},
		{"another token", "x\x00csb-end 1123456789abcdef0123456789abcdef y", true, "x\x00csb-end 1123456789abcdef0123456789abcdef y", false, nil},
		{"frame cut short", "x" + string(endFrame(`{"exit_code": 3}`)[:50]), true, "x", false, nil},
		{"frame of nonsense", "x" + string(endFrame(`nonsense`)) + "more", true, "x", true, nil},
		{"frame too long", "x" + string(token.mark()) + "\xff\xff\xff\xff" + strings.Repeat("y", 100), true, "x", true, nil},
		{"frame of no length", "x" + string(endFrame("")), true, "x", true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := []byte(c.in)
			check := func(s *Scanner, out []byte) {
				assert.Equal(t, string(out), c.out)
				assert.Equal(t, s.Done(), c.done)
				assert.DeepEqual(t, s.End(), c.end)
			}
			check(scan(t, c.stdout, in))
			for i := range len(in) + 1 {
				check(scan(t, c.stdout, in[:i], in[i:]))
			}
			var each [][]byte
			for i := range in {
				each = append(each, in[i:i+1])
			}
			check(scan(t, c.stdout, each...))
			rnd := rand.New(rand.NewSource(1))
			for range 200 {
				var pieces [][]byte
				for rest := in; len(rest) > 0; {
					n := 1 + rnd.Intn(len(rest))
					pieces = append(pieces, rest[:n])
					rest = rest[n:]
				}
				check(scan(t, c.stdout, pieces...))
			}
		})
	}
}

// A frame at the bound is taken, one beyond it is not.
func TestScannerBoundsTheFrame(t *testing.T) {
	body := `{"other": "` + strings.Repeat("x", MaxEnd-13) + `"}`
	assert.Equal(t, len(body), MaxEnd)
	s, _ := scan(t, true, endFrame(body))
	assert.Assert(t, s.Done() && s.End() != nil)
	s, _ = scan(t, true, endFrame(body+" "))
	assert.Assert(t, s.Done() && s.End() == nil)
}

// Output must not wait for what comes after it.
func TestScannerHoldsBackNoMoreThanAMark(t *testing.T) {
	var out bytes.Buffer
	s := NewScanner(token, &out, true)
	for range 1000 {
		in := []byte(strings.Repeat("x\x00csb-end ", 50))
		_, err := s.Write(in)
		assert.NilError(t, err)
		assert.Assert(t, len(s.held) < len(s.mark))
	}
	_, err := s.Write([]byte("plain"))
	assert.NilError(t, err)
	assert.Equal(t, len(s.held), 0)
	assert.Assert(t, bytes.HasSuffix(out.Bytes(), []byte("\x00csb-end plain")))
}

func TestScannerReportsItsWriter(t *testing.T) {
	s := NewScanner(token, writer(func([]byte) (int, error) { return 0, errors.New("full") }), true)
	n, err := s.Write([]byte("x\x00"))
	assert.ErrorContains(t, err, "full")
	assert.Equal(t, n, 2)
	assert.ErrorContains(t, s.Flush(), "full")
}

func TestScannerReportsAShortWrite(t *testing.T) {
	s := NewScanner(token, writer(func(p []byte) (int, error) { return len(p) - 1, nil }), true)
	_, err := s.Write([]byte("output"))
	assert.ErrorIs(t, err, io.ErrShortWrite)
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// FuzzScanner compares the Scanner, fed in pieces, with the obvious
// implementation, which sees the whole stream at once.
func FuzzScanner(f *testing.F) {
	f.Add([]byte("output"), uint8(3), true)
	f.Add(append([]byte("x"), endFrame(`{"exit_code": 3}`)...), uint8(1), true)
	f.Add(append([]byte("x\x00csb-end "), endFrame(`{}`)...), uint8(7), true)
	f.Add(append([]byte("x"), append(token.mark(), 0xff, 0xff, 0xff, 0xff, 'x')...), uint8(5), true)
	f.Add(append([]byte("x"), token.mark()...), uint8(2), false)
	f.Fuzz(func(t *testing.T, in []byte, step uint8, stdout bool) {
		var out bytes.Buffer
		s := NewScanner(token, &out, stdout)
		for rest := in; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			if out.Len() > len(in) || len(s.held) >= len(s.mark) || len(s.frame) > 4+MaxEnd+int(step)+1 {
				t.Fatalf("out %d, held %d, frame %d of %d", out.Len(), len(s.held), len(s.frame), len(in))
			}
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		want, _, found := bytes.Cut(in, token.mark())
		if !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("got %q, want %q", out.Bytes(), want)
		}
		if s.Done() && !found || !stdout && s.Done() != found {
			t.Fatalf("done is %v, there is a mark: %v", s.Done(), found)
		}
		if e := s.End(); e != nil && (!stdout || e.ExitCode < 0 || e.ExitCode > 255 || e.Signal < 0 || e.Signal > 64) {
			t.Fatalf("end %+v", e)
		}
	})
}
