package main

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/pool"
	"github.com/fcarli/codesandbox/isolation/runsc"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server"
)

// refreshEvery is how soon a pool notices that its image was built anew.
const refreshEvery = 5 * time.Second

// A source hands out sandboxes: those of the policy's pools from snapshots and
// kept ready, all others cold.
type source struct {
	*pool.Pool
	runtime *runsc.Runtime
	store   images.Store
	log     *slog.Logger

	mu     sync.Mutex
	policy *policy.Policy
	kept   map[isolation.Class]pool.Size
	labels map[isolation.Class]policy.Pool
}

func newSource(c config, r *runsc.Runtime, store images.Store, log *slog.Logger) *source {
	s := &source{runtime: r, store: store, log: log}
	s.Pool = pool.New(pool.Config{
		Launcher: s.launcher,
		Launches: int(c.Launches),
		MaxAge:   c.SandboxAge,
		Memory:   int64(c.PoolMemory),
		Log:      log,
	})
	return s
}

func (s *source) launcher(c isolation.Class) isolation.Launcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, kept := s.kept[c]; kept {
		return s.runtime.RestoreLauncher(c)
	}
	return s.runtime.Launcher(c, nil)
}

// keep makes the pools those of the policy.
func (s *source) keep(p *policy.Policy) {
	s.mu.Lock()
	s.policy = p
	s.mu.Unlock()
	s.refresh()
}

// refresh follows the policy's pools to the images that their names mean now.
func (s *source) refresh() {
	s.mu.Lock()
	kept, labels := map[isolation.Class]pool.Size{}, map[isolation.Class]policy.Pool{}
	for _, want := range s.policy.Pools {
		image, err := s.store.Resolve(want.Image)
		if err != nil {
			continue // not built yet: a request for it says so
		}
		profile := s.policy.Profile(want.Profile)
		class := server.Class(image, profile, profile.Default.Disk)
		// Profiles that only differ in what is decided outside the sandbox share
		// a class, and its sandboxes; so do two pools of one profile.
		size := kept[class]
		kept[class] = pool.Size{Ready: size.Ready + want.Ready, Max: size.Max + want.Max}
		if _, ok := labels[class]; !ok {
			labels[class] = want
		}
	}
	changed := s.kept == nil || !maps.Equal(kept, s.kept)
	s.kept, s.labels = kept, labels
	s.mu.Unlock()
	if !changed {
		return
	}
	s.Keep(kept)
	if err := s.runtime.SweepSnapshots(slices.Collect(maps.Keys(kept))); err != nil {
		s.log.Error("unused snapshots not removed", "error", err)
	}
}

// status describes the pools for clients.
func (s *source) status() []rpc.Pool {
	s.mu.Lock()
	labels := s.labels
	s.mu.Unlock()
	var list []rpc.Pool
	for _, st := range s.Stats() {
		label := labels[st.Class]
		p := rpc.Pool{
			Image: label.Image, Profile: label.Profile,
			Want: st.Size.Ready, Max: st.Size.Max, Ready: st.Ready, Starting: st.Starting,
			Hits: st.Hits, Misses: st.Misses, Launched: st.Launched, Failed: st.Failed, Died: st.Died,
			RefillTime: st.Refill.Seconds(), Age: st.Oldest.Seconds(), Memory: st.Memory,
		}
		switch snapshot := s.runtime.SnapshotState(st.Class); {
		case snapshot.Since.IsZero():
			p.Snapshot = rpc.SnapshotNone
		case snapshot.Making:
			p.Snapshot, p.SnapshotAge = rpc.SnapshotMaking, time.Since(snapshot.Since).Seconds()
		default:
			p.Snapshot, p.SnapshotAge = rpc.SnapshotReady, time.Since(snapshot.Since).Seconds()
		}
		if st.Problem != nil {
			p.Problem = "the last sandbox could not be started; csbd's log says why"
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b rpc.Pool) int {
		return slices.Compare([]string{a.Image, a.Profile}, []string{b.Image, b.Profile})
	})
	return list
}
