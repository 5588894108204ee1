// Package journal sends csbd's log and its audit to the systemd journal, each
// attribute as a field of its own, so that `journalctl CSBD_UID=1000` finds
// what one user did.
//
// It speaks the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)
// itself. The package of go-systemd that does it cannot be told how long to
// wait for a journal that takes nothing, and uses a whole processor meanwhile:
// its socket is not connected, so that the kernel calls it writable whatever
// the receiver's queue.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Socket is where the journal listens.
const Socket = "/run/systemd/journal/socket"

// Priorities, as syslog(3) has them.
const (
	priorityError   = "3"
	priorityWarning = "4"
	priorityInfo    = "6"
	priorityDebug   = "7"
)

// maxValue bounds the value of a field in bytes: what is longer is cut. All
// fields of a line have to fit into one datagram, some 200 KiB.
const maxValue = 16 << 10

// sulk is how long nobody waits for a journal that has not taken a line within
// the patience of a Conn: until then a line that it does not take at once fails.
const sulk = time.Second

// A Conn is a connection to the journal, safe for concurrent use. It connects
// when there is something to send, and again when the journal was restarted.
type Conn struct {
	path     string
	patience time.Duration

	mu      sync.Mutex
	socket  *net.UnixConn // nil while not connected
	sulking time.Time     // until when
}

// Dial returns a Conn to the journal at a path, Socket outside of tests. A Send
// waits up to patience for a journal that is busy.
func Dial(path string, patience time.Duration) *Conn { return &Conn{path: path, patience: patience} }

// A field of a line. The name is one of the journal's: see fieldName.
type field struct{ name, value string }

// errSulking is why a line is not sent at all.
var errSulking = errors.New("the journal took nothing a moment ago")

// send sends a line, all of it or nothing.
func (c *Conn) send(fields []field) error {
	data := encode(fields)
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.sulking) {
		return errSulking
	}
	err := c.write(data, now.Add(c.patience))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		// Not the one that is there now: the journal was stopped, or started anew.
		c.close()
		err = c.write(data, now.Add(c.patience))
	}
	if err != nil {
		c.sulking = time.Now().Add(sulk)
		return fmt.Errorf("send to the journal: %w", err)
	}
	return nil
}

func (c *Conn) write(data []byte, deadline time.Time) error {
	if c.socket == nil {
		s, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: c.path, Net: "unixgram"})
		if err != nil {
			return err
		}
		// As much as we may: a burst of lines is not to wait. It is a wish.
		_ = s.SetWriteBuffer(8 << 20)
		c.socket = s
	}
	if err := c.socket.SetWriteDeadline(deadline); err != nil {
		return err
	}
	_, err := c.socket.Write(data)
	return err
}

func (c *Conn) close() {
	if c.socket != nil {
		c.socket.Close()
		c.socket = nil
	}
}

// Close gives the connection up; a later line opens it again.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close()
	return nil
}

// encode makes a datagram of fields. A value with a newline has its length in
// front.
func encode(fields []field) []byte {
	var b []byte
	for _, f := range fields {
		value := f.value
		if len(value) > maxValue {
			value = strings.ToValidUTF8(value[:maxValue], "") + "…"
		}
		b = append(b, f.name...)
		if strings.Contains(value, "\n") {
			b = append(b, '\n')
			b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
		} else {
			b = append(b, '=')
		}
		b = append(append(b, value...), '\n')
	}
	return b
}

// fieldName makes the name of a field of an attribute's: CSBD_EXIT_CODE of
// exit_code. The journal takes capitals, digits and underscores, up to 64.
func fieldName(words ...string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		}
		return '_'
	}, "csbd_"+strings.Join(words, "_"))
	return name[:min(len(name), 64)]
}
