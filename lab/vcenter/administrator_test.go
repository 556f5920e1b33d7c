package vcenter

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// startServer starts the one server that a test process can have.
func startServer(t *testing.T) *Server {
	t.Helper()
	dir := t.TempDir()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	pair := tls.TLS.Certificates[0]
	tls.Close()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := defaultConfig()
	config.Cert = in("crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	config.Key = in("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	config.PasswordFile, config.ControlSocket = in("password", []byte("word")), filepath.Join(dir, "sock")
	config.Dir, config.Disks, config.Others, config.WriterRate = filepath.Join(dir, "datastore"), []int64{16 << 20}, 0, 0
	running, err := Start(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	return running.Server
}

func TestAnAdministratorSwitchesTracking(t *testing.T) {
	s := startServer(t)
	call := func(path, body string, want int) vmView {
		t.Helper()
		w := httptest.NewRecorder()
		s.control().ServeHTTP(w, httptest.NewRequest("POST", "/vms/web01"+path, strings.NewReader(body)))
		if w.Code != want {
			t.Fatalf("%s %s: %d %s", path, body, w.Code, w.Body)
		}
		var v vmView
		if path == "/cbt" && want == http.StatusOK {
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Fatal(err)
			}
		}
		return v
	}
	now := func() vmView { return s.machineList()[0].view() }
	stun := func() { call("/snapshots", `{"name":"stun"}`, http.StatusOK) }

	if v := call("/cbt", `{"enabled":true}`, http.StatusOK); !v.CBTEnabled || v.CBTActive {
		t.Errorf("switched on, not stunned: %+v", v)
	}
	stun()
	first := now().Disks[0].ChangeID
	if first == "" || !now().CBTActive {
		t.Errorf("on and stunned: %+v", now())
	}
	if v := call("/cbt", `{"enabled":false}`, http.StatusOK); v.CBTEnabled || v.Disks[0].ChangeID == "" {
		t.Errorf("off in the configuration only: %+v", v)
	}
	stun()
	if v := now(); v.CBTActive || v.Disks[0].ChangeID != "" {
		t.Errorf("off and stunned: %+v", v)
	}
	call("/cbt", `{"enabled":true}`, http.StatusOK)
	stun()
	uuid := func(id string) string { return strings.SplitN(id, "/", 2)[0] }
	if again := now().Disks[0].ChangeID; again == "" || uuid(again) == uuid(first) {
		t.Errorf("on again with %q, was %q: the hole in history does not show", again, first)
	}
	call("/cbt", `{}`, http.StatusBadRequest)
	call("/cbt", `{"enabled":"yes"}`, http.StatusBadRequest)
}
