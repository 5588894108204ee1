// Package server is csbd's side of the protocol: it accepts connections,
// identifies the peer, authorizes each request by the policy, executes, and
// encodes the answer.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/audit"
	"github.com/fcarli/codesandbox/rpc/server/queue"
)

// A Source hands out sandboxes. It is safe for concurrent use.
type Source interface {
	// Take returns a sandbox of the class that has not been used. warm says
	// that it was ready before it was asked for. The caller closes it.
	Take(ctx context.Context, c isolation.Class) (s isolation.Sandbox, warm bool, err error)
}

// An ImageStore finds images by name. images.Store is one.
type ImageStore interface {
	Resolve(name string) (images.Image, error)
}

// A Config is what a Server needs to know.
type Config struct {
	Sandboxes Source
	Images    ImageStore
	Policy    *policy.Policy
	// Version is answered to clients and stands in results.
	Version rpc.Version
	// Driver is the word for the isolation in results, "runsc".
	Driver string
	// Executions is how many run at a time, of all callers together.
	Executions int
	// Memory, in bytes, bounds what requests and results hold: half of it those,
	// half these. See CheckMemory.
	Memory int64
	// Connections bounds those of all users together, ConnectionsPerUser those
	// of one. One user alone never gets more than half of all.
	Connections, ConnectionsPerUser int
	// Unenforced names the limits that this host does not enforce and the
	// policy allows it not to.
	Unenforced []string
	// Pools describes the sandboxes that are kept ready; nil if none ever are.
	Pools func() []rpc.Pool
	Log   *slog.Logger
	// Audit gets a line for each execution and each refusal; nil is none.
	Audit *audit.Log
	// Observer is told of the same; nil is nobody.
	Observer Observer
}

// A Server serves the protocol. Its zero value is not usable; see New.
type Server struct {
	Config
	policy     atomic.Pointer[policy.Policy]
	generation atomic.Int64
	stale      atomic.Bool // the policy file has a newer policy, but a bad one
	queue      *queue.Queue
	started    time.Time
	health     health
	prover     *prover
	counters   counters

	// requests and results are the memory of each, places the connections.
	requests, results, places *budget
	// decoding is held while a large request is decoded, which needs memory on
	// top of the request's own.
	decoding sync.Mutex

	// background counts connections, sandboxes being closed, and a proof that
	// callers wait for.
	background sync.WaitGroup
	// accepting counts the loops that accept connections.
	accepting sync.WaitGroup
	// life ends when the server stops to work for anyone.
	life context.Context
	die  context.CancelFunc

	mu          sync.Mutex
	listeners   map[net.Listener]bool
	connections map[*connection]bool
	executions  map[string]execution // by id
	closing     bool                 // accept nothing more and begin with nothing
	finishing   bool                 // take no more requests
}

// An execution that is queued or running.
type execution struct {
	uid    uint32
	cancel context.CancelCauseFunc
}

// errCancelled is why an execution ends that somebody asked to cancel;
// errDisconnected why one ends whose client went away.
var (
	errCancelled    = errors.New("cancelled by request")
	errDisconnected = errors.New("client went away")
	errStopping     = errors.New("csbd is stopping")
)

// New returns a Server that does not listen yet.
func New(c Config) *Server {
	s := &Server{
		Config:      c,
		queue:       queue.New(c.Executions),
		started:     time.Now(),
		prover:      newProver(),
		listeners:   map[net.Listener]bool{},
		connections: map[*connection]bool{},
		executions:  map[string]execution{},
		requests:    newBudget(c.Memory / 2),
		results:     newBudget(c.Memory / 2),
		places:      newBudget(int64(c.Connections)),
	}
	s.life, s.die = context.WithCancel(context.Background())
	s.SetPolicy(c.Policy)
	return s
}

// SetPolicy makes p the policy of all requests that are decided from now on.
func (s *Server) SetPolicy(p *policy.Policy) int64 {
	if s.Observer != nil {
		var list []ProfileImages
		for _, profile := range p.Profiles() {
			list = append(list, ProfileImages{profile.Name, profile.Images})
		}
		s.Observer.PolicySet(list)
	}
	s.policy.Store(p)
	s.stale.Store(false)
	return s.generation.Add(1)
}

// PolicyStays says that a newer policy was to be taken over and could not be.
// Status says so until SetPolicy.
func (s *Server) PolicyStays() { s.stale.Store(true) }

// Serve accepts connections until the listener is closed or Shutdown is
// called, which makes it return nil.
func (s *Server) Serve(l *net.UnixListener) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = true
	s.accepting.Add(1)
	s.mu.Unlock()
	defer s.accepting.Done()
	for wait := time.Millisecond; ; {
		c, err := l.AcceptUnix()
		if err == nil {
			wait = time.Millisecond
			accepted := sinceBoot()
			uid, ok := s.admit(c)
			if !ok {
				continue
			}
			s.background.Add(1)
			go func() {
				defer s.background.Done()
				defer s.places.give(uid, 1)
				s.serve(c, accepted)
			}()
			continue
		}
		s.mu.Lock()
		closing := s.closing
		s.mu.Unlock()
		if closing {
			return nil
		}
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return fmt.Errorf("accept: %w", err)
		}
		// Out of descriptors or the like: others need the time to give some back.
		s.Log.Error("accept", "error", err)
		time.Sleep(wait)
		wait = min(2*wait, time.Second)
	}
}

// Shutdown stops accepting connections and executions, lets those that run
// come to their end until ctx does, then cancels them. It returns when every
// answer has been sent, or its client has not taken it, and every sandbox is
// gone.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	s.queue.Close()
	// Those that have been accepted are served, and told that csbd is stopping;
	// the others stay in a socket of systemd's for the next csbd.
	s.accepting.Wait()

	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		s.mu.Lock()
		running = len(s.executions) > 0
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			s.cancelAll()
			running = false
		case <-tick.C:
		}
	}
	s.die()
	// Answers go out before their connections are closed.
	s.mu.Lock()
	s.finishing = true
	for c := range s.connections {
		c.finish()
	}
	s.mu.Unlock()
	s.background.Wait()
}

func (s *Server) cancelAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.executions {
		e.cancel(errStopping)
	}
}

// A connection is one client.
type connection struct {
	server  *Server
	peer    peer
	stream  *lineStream
	log     *slog.Logger
	process process       // of the peer, when it connected, for the audit
	slots   chan struct{} // bounds the requests that are worked on at a time

	mu       sync.Mutex
	requests map[jsonrpc2.ID]context.CancelCauseFunc // executions by request id
}

// maxInFlight bounds the requests of one connection that are worked on at a
// time. More wait in the socket.
const maxInFlight = 256

// serve serves a connection that was accepted at a time since boot.
func (s *Server) serve(c *net.UnixConn, accepted time.Duration) {
	defer c.Close()
	p, err := identify(c)
	if err != nil {
		s.Log.Error("connection refused", "error", err)
		return
	}
	conn := &connection{
		server: s, peer: p, requests: map[jsonrpc2.ID]context.CancelCauseFunc{},
		log:   s.Log.With("uid", p.uid, "pid", p.pid),
		slots: make(chan struct{}, maxInFlight),
	}
	if s.Audit != nil {
		conn.process = processOf(c, p, accepted)
	}
	conn.stream = newLineStream(c, s.requests, p.uid, conn.maxMessage, func(e *rpc.Error) {
		s.refused("", e)
		conn.audit(nil, nil, e)
	})
	s.mu.Lock()
	s.connections[conn] = true
	if s.finishing {
		conn.finish()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.connections, conn)
		s.mu.Unlock()
	}()
	conn.log.Debug("connected")

	ctx, cancel := context.WithCancelCause(context.Background())
	rpcConn := jsonrpc2.NewConn(ctx, conn.stream, conn, jsonrpc2.SetLogger(rpcLog{conn.log}))
	<-rpcConn.DisconnectNotify()
	cancel(errDisconnected)
	for range maxInFlight {
		conn.slots <- struct{}{} // every request has ended
	}
	conn.log.Debug("disconnected")
}

// finish lets the connection end as if the client had sent its last request:
// what is in flight is answered first.
func (c *connection) finish() { _ = c.stream.conn.CloseRead() }

// rpcLog sends what the JSON-RPC library complains about to the log: protocol
// errors of clients, none of which is our failure.
type rpcLog struct{ log *slog.Logger }

func (l rpcLog) Printf(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }

// maxMessage is the largest message that the caller may send: room for the
// parts of a request in base64 or in text with a few escapes, and for the
// rest. A caller without a profile can send no more than small requests.
func (c *connection) maxMessage() int64 {
	profile, _, err := c.server.policy.Load().Match(c.caller())
	if err != nil {
		return 64 << 10
	}
	return maxMessage(profile)
}

func maxMessage(p *policy.Profile) int64 {
	return 2*(p.Request.Code+p.Request.Stdin+p.Request.Files) + 1<<20
}

func (c *connection) caller() policy.Caller {
	return policy.Caller{UID: c.peer.uid, Groups: c.peer.groups}
}

// Handle implements jsonrpc2.Handler. The library calls it between two reads.
func (c *connection) Handle(ctx context.Context, _ *jsonrpc2.Conn, req *jsonrpc2.Request) {
	m := c.stream.takeMessage()
	if !m.request.grow(requestOverhead) {
		m.release()
		c.reply(req, nil, nil, noMemory())
		c.stream.finish()
		return
	}
	if !c.slot() {
		m.release()
		c.stream.finish()
		return
	}
	// Executions are known by their request id before the next line is read, so
	// that a cancel behind them finds them.
	ctx, cancel := context.WithCancelCause(ctx)
	if req.Method == rpc.MethodExecute && !req.Notif {
		if !c.register(req.ID, cancel) {
			m.release()
			c.reply(req, nil, nil, rpc.Errorf(rpc.CodeInvalidRequest, "id %.100s is the id of a request that is still running", req.ID))
			c.done()
			cancel(nil)
			return
		}
	}
	go func() {
		defer c.done()
		defer m.release()
		defer cancel(nil)
		line := &record{}
		result, err := c.call(ctx, req.Method, m, line)
		if req.Method == rpc.MethodExecute && !req.Notif {
			c.unregister(req.ID)
		}
		c.reply(req, line, result, err)
	}()
}

// slot waits until one more request may be worked on; false if the client has
// gone meanwhile, which nobody else would notice while nothing is read.
func (c *connection) slot() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	default:
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case c.slots <- struct{}{}:
			return true
		case <-tick.C:
			if c.stream.hungUp() {
				return false
			}
		}
	}
}

func (c *connection) done() {
	c.stream.finish()
	<-c.slots
}

func (c *connection) register(id jsonrpc2.ID, cancel context.CancelCauseFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.requests[id]; taken {
		return false
	}
	c.requests[id] = cancel
	return true
}

func (c *connection) unregister(id jsonrpc2.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.requests, id)
}

// reply sends the answer to a request, if it wants one.
func (c *connection) reply(req *jsonrpc2.Request, line *record, result any, err *rpc.Error) {
	if line == nil {
		line = &record{}
	}
	if done, ok := result.(*executed); err != nil {
		c.server.refused(line.Profile, err)
	} else if ok {
		c.server.executed(line, done)
	}
	c.audit(line, result, err)
	if req.Notif {
		return
	}
	var sent error
	if err != nil {
		sent = c.stream.refusal(&req.ID, err)
	} else {
		sent = c.stream.answer(req.ID, result)
	}
	if sent != nil {
		c.log.Debug("answer not delivered", "error", sent)
	}
}

// call carries a request out.
func (c *connection) call(ctx context.Context, method string, m *message, line *record) (_ any, failed *rpc.Error) {
	defer func() {
		if r := recover(); r != nil {
			id := newID()
			c.log.Error("panic", "id", id, "method", method, "panic", fmt.Sprint(r))
			failed = internal(id)
		}
	}()
	if method == rpc.MethodVersion {
		return c.server.Version, noParams(m.take())
	}
	current := c.server.policy.Load()
	profile, rule, err := current.Match(c.caller())
	if err != nil {
		return nil, refusal(err)
	}
	line.Profile = profile.Name
	if method == rpc.MethodExecute {
		return c.execute(ctx, profile, m, line)
	}
	params := m.take()
	switch method {
	case rpc.MethodCancel:
		return c.cancel(params)
	case rpc.MethodStatus:
		return c.server.status(c.peer), noParams(params)
	case rpc.MethodPolicyShow:
		return c.server.show(profile, rule), noParams(params)
	case rpc.MethodPolicyCheck:
		if !m.request.grow(checkMemory) {
			return nil, noMemory()
		}
		return check(params)
	case rpc.MethodDoctor:
		if failed := noParams(params); failed != nil {
			return nil, failed
		}
		return c.server.doctor(ctx)
	case rpc.MethodImagesList:
		return c.server.images(profile), noParams(params)
	}
	return nil, rpc.Errorf(rpc.CodeMethodNotFound, "there is no method %.100q", method)
}

// refusal turns a policy's refusal into the protocol's.
func refusal(err error) *rpc.Error {
	var r *policy.Refusal
	if !errors.As(err, &r) {
		return rpc.Errorf(rpc.CodeDenied, "denied")
	}
	code := int64(rpc.CodeDenied)
	if r.Invalid {
		code = rpc.CodeInvalidParams
	}
	e := rpc.Errorf(code, "%s", r.Reason)
	e.Data.Field, e.Data.Rule = r.Field, r.Rule
	return e
}

// internal is all that a client learns of a failure of ours; the log has the
// rest under the id.
func internal(id string) *rpc.Error {
	e := rpc.Errorf(rpc.CodeInternal, "internal error; csbd's log has more under id %s", id)
	e.Data.ID = id
	return e
}
