// Package audit writes a line for each thing that is to be remembered, away
// from whoever reports it: a bounded queue and one writer. What could not be
// written is counted.
package audit

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// queued is how many lines may wait for the writer.
const queued = 4096

// complainEvery is how often the log is told that lines are being lost.
const complainEvery = 10 * time.Second

// A Log is safe for concurrent use. A nil Log takes everything and keeps
// nothing. Close it.
type Log struct {
	to    io.WriteCloser
	log   *slog.Logger
	done  chan struct{}
	wrote atomic.Int64
	lost  atomic.Int64

	mu     sync.RWMutex // held for writing by Close only
	closed bool
	lines  chan any
}

// New returns a Log that writes each line to w by one Write.
func New(w io.WriteCloser, log *slog.Logger) *Log {
	l := &Log{to: w, log: log, done: make(chan struct{}), lines: make(chan any, queued)}
	go l.write()
	return l
}

// Add queues a line, which has to be encodable as JSON and must not change any
// more. It never waits: when the queue is full the line is lost.
func (l *Log) Add(line any) {
	if l == nil {
		return
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.closed {
		select {
		case l.lines <- line:
			return
		default:
		}
	}
	l.lost.Add(1)
}

// Counts are how many lines were written and lost so far.
func (l *Log) Counts() (written, lost int64) { return l.wrote.Load(), l.lost.Load() }

func (l *Log) write() {
	defer close(l.done)
	var complained time.Time
	var known int64
	losing := false // the log has been told so
	complain := func(err error) {
		if lost := l.lost.Load(); lost > known && time.Since(complained) >= complainEvery {
			l.log.Error("audit lines lost", "lost", lost, "written", l.wrote.Load(), "error", err)
			known, complained, losing = lost, time.Now(), err != nil
		}
	}
	for line := range l.lines {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		err := e.Encode(line)
		if err == nil {
			_, err = l.to.Write(b.Bytes())
		}
		if err != nil {
			l.lost.Add(1)
		} else {
			l.wrote.Add(1)
		}
		if losing && err == nil {
			known = l.lost.Load()
			losing = false
			l.log.Warn("audit lines are written again", "lost", known, "written", l.wrote.Load())
		}
		complain(err)
	}
	complained = time.Time{}
	complain(nil)
}

// Close writes what is queued.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.lines)
	}
	l.mu.Unlock()
	<-l.done
	return l.to.Close()
}
