package runner

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/fcarli/codesandbox/isolation"
)

// sizes of what a request carries and a program prints, in bytes.
var sizes = []int{8, 1 << 20}

func BenchmarkWriteRequest(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			spec := isolation.Spec{Code: []byte("print(1)"), Stdin: bytes.Repeat([]byte("x"), size)}
			b.ReportAllocs()
			for b.Loop() {
				if err := WriteRequest(io.Discard, token, spec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkScanner scans an output and the end frame behind it, as they come
// through a pipe.
func BenchmarkScanner(b *testing.B) {
	const piece = 64 << 10
	line := append(bytes.Repeat([]byte("x"), 79), '\n')
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			stream := bytes.Repeat(line, size/len(line)+1)[:size]
			stream = append(stream, endFrame(`{"exit_code": 0}`)...)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				s := NewScanner(token, io.Discard, true)
				for rest := stream; len(rest) > 0; {
					n := min(piece, len(rest))
					if _, err := s.Write(rest[:n]); err != nil {
						b.Fatal(err)
					}
					rest = rest[n:]
				}
				if s.End() == nil {
					b.Fatal("no end")
				}
			}
		})
	}
}
