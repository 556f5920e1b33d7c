// Tests of what needs no service: places, processes, the conversion host's
// devices, and what the front remembers. The cloud as a whole is tested in
// tests/lab/python_real_openstack.
package realcloud

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/devices"
)

func newTestLayout(t *testing.T) *layout {
	t.Helper()
	l, err := newLayout(t.TempDir(), "/unpacked", 4711, 3600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.Log, 0o700); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	if err := l.write(); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSettings(t *testing.T) {
	l := newTestLayout(t)
	other, err := newLayout(t.TempDir(), "/unpacked", 4712, 3600)
	if err != nil || other.Bridge == l.Bridge || other.NodeName == l.NodeName || other.password == l.password {
		t.Error("two labs share a name:", other, err)
	}
	seen := map[int]string{}
	for name, port := range l.ports {
		if seen[port] != "" || port < 10000 || port >= 30000 {
			t.Errorf("%s has port %d, as has %q", name, port, seen[port])
		}
		seen[port] = name
	}
	found := 0
	filepath.Walk(l.Work, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(l.password)) {
			found++
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s holds a password and has mode %v", path, info.Mode())
			}
		}
		if bytes.Contains(raw, []byte("<no value>")) || bytes.Contains(raw, []byte("{{")) {
			t.Errorf("%s is not filled in", path)
		}
		return nil
	})
	if found < 6 {
		t.Errorf("%d files with a password", found)
	}
	// nova-compute must not know the databases.
	for _, name := range []string{"nova-compute.conf", "nova-compute-ferry.conf"} {
		raw, err := os.ReadFile(filepath.Join(l.Etc, name))
		if err != nil || bytes.Contains(raw, []byte("mysql")) {
			t.Errorf("%s: %v\n%s", name, err, raw)
		}
	}
	if _, err := newLayout("/"+strings.Repeat("x", 90), "", 1, 3600); err == nil {
		t.Error("a path too long for the sockets is taken")
	}
}

func TestEndsSessions(t *testing.T) {
	l := newTestLayout(t)
	c := newChildren(l)
	// A leader that ends at once, and one that does not listen; both leave others behind.
	for name, script := range map[string]string{"leaves": "sleep 1234 & exit 0", "stays": "trap '' TERM; sleep 1234 & sleep 1234"} {
		made, err := c.start(name, nil, "/bin/sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		if name == "leaves" {
			<-made.ended
			if lost := <-c.lost; lost != made || !strings.Contains(lost.failure().Error(), "leaves ended before") {
				t.Error(lost)
			}
		}
	}
	pids := map[string]int{}
	for _, one := range c.all {
		pids[one.name] = one.pid
		if pid, leads := sessionOf(l.pidFile(one.name)); pid != one.pid || leads != (one.name == "stays") {
			t.Errorf("%s: session %d, leader lives: %v", one.name, pid, leads)
		}
	}
	endGroups([]string{l.pidFile("leaves"), l.pidFile("stays")}, sigterm, 200*time.Millisecond)
	for name, pid := range pids {
		if left := members(pid); len(left) > 0 {
			t.Errorf("%s left %v", name, left)
		}
		if isThere(l.pidFile(name)) {
			t.Errorf("%s has a pid file yet", name)
		}
	}
	// Somebody else has the number now.
	if err := os.WriteFile(l.pidFile("other"), []byte(fmt.Sprintf("%d 1\n", os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	if pid, _ := sessionOf(l.pidFile("other")); pid != 0 {
		t.Error("a pid file with another start time is believed")
	}
}

// members are the processes of a session that have not ended.
func members(leader int) (found []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		if fields := statFields(path); len(fields) > 3 && fields[0] != "Z" && fields[3] == fmt.Sprint(leader) {
			found = append(found, path)
		}
	}
	return found
}

func TestDevices(t *testing.T) {
	l := newTestLayout(t)
	folder := l.export("lab")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	a := &attached{folder: devices.Folder{Dir: l.Dir}, shares: map[string]string{"127.0.0.1:" + folder: folder}, all: map[string]*attachedVolume{}}
	if err := a.folder.Prepare(); err != nil {
		t.Fatal(err)
	}
	const id = "04b81477-3473-49ed-be9d-5d550e7f4b7e"
	good := question{VolumeID: id, Kind: "nfs", Export: "127.0.0.1:" + folder, Name: "volume-" + id, Format: "raw"}
	if err := os.WriteFile(filepath.Join(folder, good.Name), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spoil := range []func(*question){
		func(q *question) { q.VolumeID = "../../etc/passwd" },
		func(q *question) { q.Kind = "iscsi" },
		func(q *question) { q.Export = "127.0.0.1:/etc" },
		func(q *question) { q.Name = "../volume" },
		func(q *question) { q.Name = "volume-that-is-not" },
		func(q *question) { q.Format = "qcow2" },
	} {
		q := good
		spoil(&q)
		if err := a.attach(q); err == nil {
			t.Errorf("attached: %+v", q)
		}
	}
	link := filepath.Join(l.Dir, "by-id", "virtio-04b81477-3473-49ed-b")
	for round := 0; round < 2; round++ { // an answer that got lost
		if err := a.attach(good); err != nil || !isThere(link) || a.device(id) == "" {
			t.Fatal(err, a.device(id))
		}
	}
	for round := 0; round < 2; round++ {
		if err := a.detach(good); err != nil || isThere(link) || a.device(id) != "" {
			t.Fatal(err, a.device(id))
		}
	}
}

func TestFrontRemembers(t *testing.T) {
	s := &supervisor{layout: newTestLayout(t)}
	pass := func(method, path string, status int, header http.Header, body string) string {
		r, _ := http.NewRequest(method, "https://lab"+path, nil)
		s.direct(r)
		answer := &http.Response{Request: r, StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}
		if err := s.notice(answer); err != nil {
			t.Error(err)
		}
		raw, _ := io.ReadAll(answer.Body)
		if string(raw) != body {
			t.Errorf("%s became %s", body, raw)
		}
		return r.URL.String()
	}
	if at, want := pass("GET", "/volume/v3/p/volumes?limit=1", 200, nil, "x"), s.layout.URL("cinder")+"/v3/p/volumes?limit=1"; at != want {
		t.Errorf("%s, not %s", at, want)
	}
	pass("POST", "/identity/v3/auth/tokens", 201, http.Header{"X-Subject-Token": {"T"}}, "{}")
	pass("POST", "/identity/v3/auth/tokens", 401, nil, "{}")
	pass("POST", "/network/v2.0/networks", 201, nil, `{"network":{"id":"abdd2939-9d8c-494c"}}`)
	pass("POST", "/network/v2.0/networks.json", 201, nil, `{"networks":[{"id":"12345678-9012"}]}`)
	pass("POST", "/network/v2.0/ports", 201, nil, `{"port":{"id":"99999999-9999"}}`)
	if taken := s.secrets.takeTokens(); len(taken) != 1 || taken[0] != "T" || len(s.secrets.takeTokens()) != 0 || len(s.secrets.list()) != 1 {
		t.Error(taken, s.secrets.list())
	}
	raw, err := os.ReadFile(bridgeList(s.layout.Work))
	if err != nil || string(raw) != "brqabdd2939-9d\nbrq12345678-90\n" {
		t.Errorf("%s %v", raw, err)
	}
	// None of them is there, so nothing is removed.
	if err := Release(s.layout.Dir); err != nil {
		t.Error(err)
	}
}

// A service that refuses an image has not read it: what it says must arrive all the same, instead of a connection that
// ends in the middle of the bytes.
func TestFrontRelaysARefusalBeforeTheBytes(t *testing.T) {
	s := &supervisor{layout: newTestLayout(t)}
	service, err := net.Listen("tcp", s.layout.listens("glance"))
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go func() {
		for {
			c, err := service.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				t.Error(err)
			}
			io.WriteString(c, "HTTP/1.1 409 Conflict\r\nContent-Length: 5\r\nConnection: close\r\n\r\nno...")
			c.Close()
		}
	}()
	front := httptest.NewServer(s.front(&calls.Log{}, &calls.Faults{}))
	defer front.Close()
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}}
	for n := 0; n < 20; n++ {
		request, err := http.NewRequest(http.MethodPut, front.URL+"/image/v2/images/1/file", bytes.NewReader(make([]byte, 5<<20)))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Expect", "100-continue")
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusConflict || string(text) != "no..." || err != nil {
			t.Fatal(answer.Status, string(text), err)
		}
	}
}

func TestUntil(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := until(ctx, "it", func() error { return io.EOF }); err == nil || err.Error() != "it: EOF" {
		t.Error(err)
	}
	tried := 0
	if err := until(context.Background(), "it", func() error { tried++; return hopeless{io.EOF} }); err == nil || tried != 1 {
		t.Error(tried, err)
	}
}
