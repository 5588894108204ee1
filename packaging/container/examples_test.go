package container_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/policy"
)

// A service of compose.yaml.
type service struct {
	Image       string
	ReadOnly    bool     `yaml:"read_only"`
	NetworkMode string   `yaml:"network_mode"`
	CapDrop     []string `yaml:"cap_drop"`
	CapAdd      []string `yaml:"cap_add"`
	SecurityOpt []string `yaml:"security_opt"`
	Cgroup      string
	Volumes     []string
	Tmpfs       []string
	Environment map[string]string
	User        string
	GroupAdd    []string `yaml:"group_add"`
	MemLimit    string   `yaml:"mem_limit"`
	StopGrace   string   `yaml:"stop_grace_period"`
	DependsOn   any      `yaml:"depends_on"`
}

func readCompose(t *testing.T) (csbd, app service) {
	t.Helper()
	var compose struct {
		Services struct{ Csbd, App service }
		Volumes  map[string]any
	}
	f, err := os.Open("compose.yaml")
	assert.NilError(t, err)
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	assert.NilError(t, d.Decode(&compose))
	return compose.Services.Csbd, compose.Services.App
}

// flags are those of `docker run` that mean the same.
func (s service) flags(t *testing.T) (list []string) {
	t.Helper()
	add := func(flag string, values ...string) {
		for _, v := range values {
			if v != "" {
				list = append(list, flag+"="+v)
			}
		}
	}
	if s.ReadOnly {
		add("--read-only", "true")
	}
	network := s.NetworkMode
	if network == "" {
		network = "none" // the test's engine has no other
	}
	add("--network", network)
	add("--cap-drop", s.CapDrop...)
	add("--cap-add", s.CapAdd...)
	add("--security-opt", s.SecurityOpt...)
	add("--cgroupns", s.Cgroup)
	add("--volume", s.Volumes...)
	add("--tmpfs", s.Tmpfs...)
	for name, value := range s.Environment {
		add("--env", name+"="+value)
	}
	add("--user", s.User)
	add("--group-add", s.GroupAdd...)
	add("--memory", s.MemLimit)
	return list
}

// A container of the pod.
type container struct {
	Name            string
	SecurityContext struct {
		RunAsUser                int `yaml:"runAsUser"`
		Privileged               bool
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop, Add []string }
	} `yaml:"securityContext"`
	Env          []struct{ Name, Value string }
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

// TestKubernetes holds the pod to compose.yaml, whose privileges TestSidecar
// uses, and to itself.
func TestKubernetes(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "kubernetes", "sidecar.yaml"))
	assert.NilError(t, err)
	var config struct{ Data map[string]string }
	var pod struct {
		Spec struct {
			HostNetwork, HostPID, HostIPC bool
			InitContainers                []container `yaml:"initContainers"`
			Containers                    []container
			Volumes                       []struct {
				Name     string
				HostPath any `yaml:"hostPath"`
			}
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	assert.NilError(t, d.Decode(&config))
	assert.NilError(t, d.Decode(&pod))
	assert.Assert(t, errors.Is(d.Decode(new(any)), io.EOF))

	p, err := policy.Parse(policy.Source{Name: "policy.yaml", Data: []byte(config.Data["policy.yaml"])})
	assert.NilError(t, err)
	csbd, app := pod.Spec.InitContainers[0], pod.Spec.Containers[0]
	_, _, err = p.Match(policy.Caller{UID: uint32(app.SecurityContext.RunAsUser)})
	assert.NilError(t, err, "the app is nobody to the policy")

	compose, _ := readCompose(t)
	assert.DeepEqual(t, csbd.SecurityContext.Capabilities.Add, compose.CapAdd)
	for _, c := range []container{csbd, app} {
		assert.DeepEqual(t, c.SecurityContext.Capabilities.Drop, []string{"ALL"})
		assert.Check(t, !c.SecurityContext.Privileged)
		assert.Check(t, c.SecurityContext.AllowPrivilegeEscalation != nil && !*c.SecurityContext.AllowPrivilegeEscalation)
	}
	assert.Check(t, csbd.SecurityContext.ReadOnlyRootFilesystem && compose.ReadOnly)
	assert.Check(t, !pod.Spec.HostNetwork && !pod.Spec.HostPID && !pod.Spec.HostIPC)
	var names []string
	for _, v := range pod.Spec.Volumes {
		names = append(names, v.Name)
		assert.Check(t, v.HostPath == nil, "volume %s is the host's", v.Name)
	}
	shared := map[string]string{}
	for _, c := range []container{csbd, app} {
		for _, m := range c.VolumeMounts {
			assert.Check(t, slices.Contains(names, m.Name), "%s mounts %s, which is no volume", c.Name, m.Name)
			if m.Name == "socket" {
				shared[c.Name] = m.MountPath
			}
		}
	}
	for _, e := range app.Env {
		if e.Name == "CSBD_SOCKET" {
			assert.Check(t, strings.HasPrefix(e.Value, shared["app"]+"/"))
		}
	}
	assert.Equal(t, shared["csbd"], shared["app"])
}

// TestPolicy: the one in the image is right.
func TestPolicy(t *testing.T) {
	p, err := policy.Load("policy.yaml")
	assert.NilError(t, err)
	assert.Equal(t, len(p.Warnings), 0, "%q", p.Warnings)
}
