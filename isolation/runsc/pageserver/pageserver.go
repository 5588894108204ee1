// Package pageserver feeds a snapshot to the sentry that is restored from it.
//
// A sentry can be told to ask a server for its snapshot's files, by gVisor's
// own protocol (pkg/sentry/state/stateipc), instead of reading them itself. It
// hands that server its memory file, and the server writes the pages into it.
// That costs less than half of what the sentry's own reader does: pwrite
// allocates a page where a read into a mapping takes a page fault, and the
// snapshot may stay in the page cache, where the sentry's reader needs
// O_DIRECT to be any good.
//
// The server runs inside the process of the sentry that it serves, so that
// the pages are charged to the sandbox and a sandbox can reach no process of
// ours that it did not reach before.
package pageserver

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
	"gvisor.dev/gvisor/pkg/sentry/state/stateipc"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/pkg/urpc"
)

// Serve answers, in the background, the requests for the named files on the
// socket, until the other side closes it; then it calls done. It takes the
// socket and the files over.
func Serve(socket *os.File, files map[string]*os.File, done func()) error {
	fd, err := unix.Dup(int(socket.Fd()))
	socket.Close()
	if err != nil {
		return err
	}
	conn, err := unet.NewSocket(fd)
	if err != nil {
		unix.Close(fd)
		return err
	}
	served, err := stateipc.NewAsyncFileServer(snapshot(files))
	if err != nil {
		conn.Close()
		return err
	}
	server := urpc.NewServer()
	server.Register(served)
	go func() {
		_ = server.Handle(conn)
		server.Stop(0)
		done()
	}()
	return nil
}

// A snapshot implements stateipc.AsyncFileServerImpl.
type snapshot map[string]*os.File

// OpenRead implements stateipc.AsyncFileServerImpl.
func (s snapshot) OpenRead(name string) (stateio.AsyncReader, error) {
	f := s[name]
	if f == nil {
		return nil, fmt.Errorf("%s: %w", name, unix.ENOENT)
	}
	delete(s, name)
	return &reader{file: f}, nil
}

// OpenWrite implements stateipc.AsyncFileServerImpl.
func (s snapshot) OpenWrite(name string) (stateio.AsyncWriter, error) {
	return nil, fmt.Errorf("%s: %w", name, unix.EROFS)
}

// Destroy implements stateipc.AsyncFileServerImpl.
func (s snapshot) Destroy() {
	for _, f := range s {
		f.Close()
	}
}

const (
	// A read is this large at most.
	maxRead = 4 << 20
	// What is copied at a time: small enough for the processor's cache.
	chunk = 256 << 10
)

// A reader implements stateio.AsyncReader for one file. It is not
// asynchronous: Wait does the work.
type reader struct {
	file    *os.File
	targets []*os.File
	queue   []read
	buffer  []byte
}

type read struct {
	id     int
	offset int64
	target *os.File
	ranges []memmap.FileRange
}

func (r *reader) Close() error {
	errs := []error{r.file.Close()}
	for _, f := range r.targets {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func (r *reader) MaxReadBytes() uint64            { return maxRead }
func (r *reader) MaxRanges() int                  { return maxRead / hostarch.PageSize }
func (r *reader) MaxParallel() int                { return 2 }
func (r *reader) NeedRegisterDestinationFD() bool { return true }

// RegisterDestinationFD implements stateio.AsyncReader.
func (r *reader) RegisterDestinationFD(fd int32, _ uint64, _ []stateio.ClientFileRangeSetting) (stateio.DestinationFile, error) {
	own, err := unix.Dup(int(fd))
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(own), "memory")
	r.targets = append(r.targets, f)
	return f, nil
}

// AddRead implements stateio.AsyncReader.
func (r *reader) AddRead(id int, offset int64, target stateio.DestinationFile, to memmap.FileRange, _ []byte) {
	r.queue = append(r.queue, read{id, offset, target.(*os.File), []memmap.FileRange{to}})
}

// AddReadv implements stateio.AsyncReader.
func (r *reader) AddReadv(id int, offset int64, _ uint64, target stateio.DestinationFile, to []memmap.FileRange, _ []unix.Iovec) {
	r.queue = append(r.queue, read{id, offset, target.(*os.File), to})
}

// Wait implements stateio.AsyncReader.
func (r *reader) Wait(done []stateio.Completion, _ int) ([]stateio.Completion, error) {
	for _, job := range r.queue {
		n, err := r.copy(job)
		done = append(done, stateio.Completion{ID: job.id, N: n, Err: err})
	}
	r.queue = r.queue[:0]
	return done, nil
}

func (r *reader) copy(job read) (total uint64, err error) {
	if r.buffer == nil {
		r.buffer = make([]byte, chunk)
	}
	offset := job.offset
	for _, to := range job.ranges {
		for at := to.Start; at < to.End; {
			n, err := r.file.ReadAt(r.buffer[:min(chunk, to.End-at)], offset)
			if n > 0 {
				written, werr := job.target.WriteAt(r.buffer[:n], int64(at))
				total += uint64(written)
				if werr != nil {
					return total, werr
				}
				at += uint64(n)
				offset += int64(n)
			}
			if err != nil && !(errors.Is(err, io.EOF) && at == to.End) {
				return total, err
			}
		}
	}
	return total, nil
}
