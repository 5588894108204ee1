package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/rpc/server"
	"github.com/fcarli/codesandbox/rpc/server/metrics"
)

// Bounds of the HTTP servers, which answer few and know them: on a loopback
// address anybody on the host can connect.
const (
	watchers    = 16 // connections of each
	watchHeader = 8 << 10
	watchRead   = 5 * time.Second
	watchWrite  = 15 * time.Second // a profile's own time comes on top
	watchIdle   = 2 * time.Minute  // scrapes are a minute apart or less
	watchStop   = 2 * time.Second
)

// watch serves metrics and profiles as configured. stop ends both, when what
// they are about to answer is out.
func watch(c config, m *metrics.Metrics, log *slog.Logger) (stop func(), _ error) {
	var running []*http.Server
	stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), watchStop)
		defer cancel()
		for _, s := range running {
			if s.Shutdown(ctx) != nil {
				_ = s.Close() // its listener is closed already
			}
		}
	}
	if c.Metrics != (address{}) {
		l, err := listenMetrics(c)
		if err != nil {
			return nil, err
		}
		running = append(running, serveHTTP(l, m.Handler(log), log))
		log.Info("metrics", "address", l.Addr().String())
	}
	if c.Pprof != "" {
		l, err := createSocket(c.Pprof, 0o600, -1)
		if err != nil {
			stop()
			return nil, fmt.Errorf("pprof: %w", err)
		}
		running = append(running, serveHTTP(rootOnly{l, log}, profiles(), log))
		log.Info("pprof", "address", l.Addr().String())
	}
	return stop, nil
}

func listenMetrics(c config) (net.Listener, error) {
	if c.Metrics.path == "" {
		l, err := net.Listen("tcp", c.Metrics.ip.String())
		if errors.Is(err, syscall.EAFNOSUPPORT) {
			return nil, fmt.Errorf("metrics: %w: csbd may use no such addresses: take CSBD_METRICS=unix:/PATH, or let it "+
				"(RestrictAddressFamilies=AF_INET or AF_INET6 in the unit, IPv6 in the kernel)", err)
		}
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		return l, nil
	}
	gid, err := lookupGroup("CSBD_METRICS_GROUP", c.MetricsGroup)
	if err != nil {
		return nil, err
	}
	l, err := createSocket(c.Metrics.path, 0o660, gid)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}

// serveHTTP serves in the background until the server is shut down. Connections
// above the bound are closed at once.
func serveHTTP(l net.Listener, h http.Handler, log *slog.Logger) *http.Server {
	var open atomic.Int64
	s := &http.Server{
		Handler:           h,
		ReadTimeout:       watchRead,
		ReadHeaderTimeout: watchRead,
		WriteTimeout:      watchWrite,
		IdleTimeout:       watchIdle,
		MaxHeaderBytes:    watchHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				if open.Add(1) > watchers {
					c.Close()
				}
			case http.StateClosed:
				open.Add(-1)
			}
		},
	}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serve HTTP", "address", l.Addr().String(), "error", err)
		}
	}()
	return s
}

// profiles are net/http/pprof's, on a mux of their own: what they tell, memory
// and stacks, has callers' programs in it.
func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// rootOnly accepts connections of root, and of csbd's own user if that is
// another. The socket's mode lets nobody else in; should it be changed, or a
// connection be passed on, this still holds.
type rootOnly struct {
	*net.UnixListener
	log *slog.Logger
}

// Accept implements net.Listener.
func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := server.PeerUID(c)
		if err == nil && (uid == 0 || int(uid) == os.Geteuid()) {
			return c, nil
		}
		l.log.Warn("pprof refused", "uid", uid, "error", err)
		c.Close()
	}
}
