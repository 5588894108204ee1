package isolation

import "sync"

// A Capture keeps the head and the tail of what is written to it, up to a
// limit, and counts the rest. It never blocks and never fails. It may be read
// while it is written.
type Capture struct {
	limit int

	mu    sync.Mutex
	head  []byte
	tail  []byte // a ring once it is full
	next  int    // where the ring continues
	total int64
}

// NewCapture returns a Capture that keeps limit bytes: the first half of them
// from the beginning, the rest from the end.
func NewCapture(limit int64) *Capture { return &Capture{limit: int(limit)} }

// Write implements io.Writer.
func (c *Capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(p)
	c.total += int64(n)
	if room := c.limit/2 - len(c.head); room > 0 {
		k := min(room, len(p))
		c.head = append(c.head, p[:k]...)
		p = p[k:]
	}
	size := c.limit - c.limit/2
	if room := size - len(c.tail); room > 0 {
		k := min(room, len(p))
		c.tail = append(c.tail, p[:k]...)
		p = p[k:]
	}
	if len(p) > size {
		c.next = (c.next + len(p) - size) % max(size, 1)
		p = p[len(p)-size:]
	}
	for len(p) > 0 {
		k := copy(c.tail[c.next:], p)
		c.next = (c.next + k) % size
		p = p[k:]
	}
	return n, nil
}

// Bytes returns what was kept.
func (c *Capture) Bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := make([]byte, 0, len(c.head)+len(c.tail))
	b = append(b, c.head...)
	b = append(b, c.tail[c.next:]...)
	return append(b, c.tail[:c.next]...)
}

// Dropped is how many bytes were not kept, and Offset where in Bytes they are
// missing.
func (c *Capture) Dropped() (dropped, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dropped = c.total - int64(len(c.head)+len(c.tail))
	if dropped == 0 {
		return 0, 0
	}
	return dropped, int64(len(c.head))
}
