package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// A File is written to up to a size, and then becomes PATH.1, the older ones
// PATH.2 and so on. It is for one writer.
type File struct {
	path string
	max  int64 // bytes
	keep int   // older files
	f    *os.File
	size int64
}

// Open opens or makes the file, with mode 0600. keep is at least 1.
func Open(path string, max int64, keep int) (*File, error) {
	w := &File{path: path, max: max, keep: keep}
	return w, w.open()
}

func (w *File) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", w.path)
	}
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("audit: %w", err)
	}
	w.f, w.size = f, info.Size()
	return w.wholeLines()
}

// wholeLines ends the line that a csbd left half-written when it was killed.
func (w *File) wholeLines() error {
	last := make([]byte, 1)
	if w.size == 0 {
		return nil
	}
	if _, err := w.f.ReadAt(last, w.size-1); err != nil || last[0] == '\n' {
		return err
	}
	n, err := w.f.Write([]byte("\n"))
	w.size += int64(n)
	return err
}

// Write appends a line, or nothing of it.
func (w *File) Write(line []byte) (int, error) {
	if w.f == nil {
		if err := w.open(); err != nil {
			return 0, err
		}
	}
	if w.size > 0 && w.size+int64(len(line)) > w.max {
		if err := w.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := w.f.Write(line)
	if err != nil {
		if cut := w.f.Truncate(w.size); cut != nil {
			return 0, errors.Join(err, cut, w.Close())
		}
		return 0, err
	}
	w.size += int64(n)
	return n, nil
}

func (w *File) rotate() error {
	for i := w.keep; i > 0; i-- {
		from := w.path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", w.path, i-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", w.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return w.open()
}

// Close closes the file; a later Write opens it again.
func (w *File) Close() error {
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}
