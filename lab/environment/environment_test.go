package environment

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/guest"
)

// The test program is its own pair of servers: small ones that read the same
// settings and say the same in their ready files.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[2] == "--config" {
		if err := fakeServer(os.Args[1], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fakeServer(name, config string) error {
	raw, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var s struct {
		Listen         string `json:"listen"`
		Cert           string `json:"cert"`
		Key            string `json:"key"`
		ControlSocket  string `json:"control_socket"`
		MetadataListen string `json:"metadata_listen"`
		ReadyFile      string `json:"ready_file"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	fmt.Println("fake", name, "starts")
	if os.Getenv("LAB_TEST_FAIL") == name {
		return errors.New("fake " + name + " cannot start: on purpose")
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	ready := map[string]interface{}{"endpoint": listener.Addr().String(), "macs": []string{"00:50:56:00:00:01"}}
	if name == "openstack" {
		metadata, err := net.Listen("tcp", s.MetadataListen)
		if err != nil {
			return err
		}
		go http.Serve(metadata, http.NotFoundHandler())
		ready = map[string]interface{}{"auth_url": "https://" + listener.Addr().String() + "/identity/v3", "metadata_url": "http://" + metadata.Addr().String() + "/",
			"instance_id": "i", "network_id": "n", "subnet_id": "s", "flavor_id": "f", "username": "u", "project_name": "p"}
	}
	control, err := calls.ListenControl(s.ControlSocket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	calls.Register(mux, &calls.Log{}, calls.NewFaults(1))
	go calls.Server(mux).Serve(control)
	go calls.Server(http.NotFoundHandler()).ServeTLS(listener, s.Cert, s.Key)
	if os.Getenv("LAB_TEST_SILENT") != name {
		if err := calls.WriteReady(s.ReadyFile, ready); err != nil {
			return err
		}
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(2 * time.Minute): // should the test be killed
	}
	return nil
}

func options(t *testing.T) Options {
	t.Helper()
	// Not t.TempDir: its name would be too long for a socket.
	parent, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	o := defaultOptions()
	o.Dir, o.Devices = filepath.Join(parent, "dir"), "file"
	if o.Executable, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var out bytes.Buffer
		if err := Down(o.Dir, false, &out); err != nil {
			t.Error(err, out.String())
		}
		os.RemoveAll(parent)
	})
	return o
}

func up(t *testing.T, o Options) *Lab {
	t.Helper()
	var out bytes.Buffer
	lab, err := Up(context.Background(), o, &out)
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(raw) > 0
}

func TestUpChecksTheGuest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	for want, flags := range map[string][]string{
		"plain or linux":         {"--guest", "windows"},
		"112 MiB there at least": {"--guest", "linux", "--disks", "96M"},
		"needs 16 MiB at least":  {"--guest", "plain", "--disks", "8M"},
	} {
		if err := mainUp(context.Background(), append([]string{"--dir", dir}, flags...), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("up %q: %v", flags, err)
		}
	}
	o := options(t)
	o.Guest = guest.Linux
	lab := up(t, o)
	var settings vcenterSettings
	raw, err := os.ReadFile(filepath.Join(o.Dir, "vcenter.json"))
	if err == nil {
		err = json.Unmarshal(raw, &settings)
	}
	if err != nil || lab.Guest != "linux" || settings.Guest != "linux" {
		t.Errorf("the lab's guest is %q, the vCenter is to make %q (%v)", lab.Guest, settings.Guest, err)
	}
	var out bytes.Buffer
	if err := introduce(lab, &out); err != nil || strings.Contains(out.String(), "%!") || strings.Contains(out.String(), "--flavor f --run-v2v=false") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestUpStatusDown(t *testing.T) {
	o := options(t)
	lab := up(t, o)
	loaded, err := Load(o.Dir)
	if err != nil || !reflect.DeepEqual(loaded, lab) {
		t.Fatalf("%+v, %+v (%v)", loaded, lab, err)
	}
	// Nothing in the folder is for others' eyes, and no password is in a command
	// line or environment.
	var secrets []string
	filepath.Walk(o.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if strings.HasSuffix(path, ".password") {
			raw, _ := os.ReadFile(path)
			secrets = append(secrets, string(raw))
		}
		return nil
	})
	different := map[string]bool{}
	for _, secret := range secrets {
		different[secret] = len(secret) >= 20
	}
	if len(secrets) != 3 || len(different) != 3 || !different[secrets[0]] {
		t.Fatal("passwords:", len(secrets))
	}
	for _, pid := range []int{lab.VCenter.PID, lab.OpenStack.PID} {
		for _, file := range []string{"cmdline", "environ"} {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range secrets {
				if bytes.Contains(raw, []byte(secret)) {
					t.Errorf("a password is in the %s of %d", file, pid)
				}
			}
		}
		if session, _, _ := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0); int(session) != pid {
			t.Errorf("%d has no session of its own", pid)
		}
	}
	if _, err := os.Stat(lab.VCenter.RestrictedPasswordFile); err != nil || lab.VCenter.RestrictedUsername == lab.VCenter.Username {
		t.Error("the restricted user:", lab.VCenter.RestrictedUsername, err)
	}
	checkCertificate(t, lab)
	clouds, err := os.ReadFile(lab.OpenStack.CloudsYAML)
	if err != nil || !strings.Contains(string(clouds), "auth_url: \""+lab.OpenStack.AuthURL+"\"") {
		t.Error(string(clouds), err)
	}
	said, err := exec.Command("sh", "-c", ". \"$1\"; echo $OS_CLOUD $VMFERRY_DEVICE_DIR $VMFERRY_LAB_DIR", "sh", filepath.Join(o.Dir, "env.sh")).CombinedOutput()
	if want := "lab " + lab.OpenStack.ByID + " " + o.Dir + "\n"; err != nil || string(said) != want {
		t.Errorf("env.sh gives %s, want %s (%v)", said, want, err)
	}
	var out bytes.Buffer
	if err := Status(context.Background(), o.Dir, true, &out); err != nil || !strings.Contains(out.String(), `"up": true`) {
		t.Error(err, out.String())
	}
	if _, err := Up(context.Background(), o, &out); err == nil || !strings.Contains(err.Error(), "is up in") {
		t.Error("a second up:", err)
	}
	out.Reset()
	if err := mainControl(context.Background(), []string{"--dir", o.Dir, "vcenter", "post", "/faults", `{"kind":"reset"}`}, &out); err != nil || !strings.Contains(out.String(), "ids") {
		t.Error(err, out.String())
	}
	for _, bad := range [][]string{{}, {"vcenter", "GET"}, {"vcenter", "GET", "calls"}, {"nova", "GET", "/calls"}, {"vcenter", "POST", "/faults", "{"}, {"openstack", "POST", "/faults", `{"kind":"x"}`}} {
		if err := mainControl(context.Background(), append([]string{"--dir", o.Dir}, bad...), &out); err == nil {
			t.Errorf("ctl %q passed", bad)
		}
	}
	if err := Down(o.Dir, false, &out); err != nil {
		t.Fatal(err)
	}
	if alive(lab.VCenter.PID) || alive(lab.OpenStack.PID) {
		t.Error("a server lives on")
	}
	if _, err := os.Stat(o.Dir); !os.IsNotExist(err) {
		t.Error("the folder is still there:", err)
	}
	if err := Status(context.Background(), o.Dir, false, &out); !errors.Is(err, ErrNotUp) {
		t.Error(err)
	}
	if err := Down(o.Dir, false, &out); err != nil {
		t.Error("down twice:", err)
	}
}

func checkCertificate(t *testing.T, lab *Lab) {
	t.Helper()
	raw, err := os.ReadFile(lab.VCenter.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	for _, name := range []string{"localhost", "127.0.0.1"} {
		conn, err := tls.Dial("tcp", lab.VCenter.Endpoint, &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
		conn.Close()
		if colons(sum[:]) != lab.VCenter.SHA256 || len(lab.VCenter.SHA256) != 95 {
			t.Error(lab.VCenter.SHA256)
		}
	}
	if conn, err := tls.Dial("tcp", lab.VCenter.Endpoint, nil); err == nil {
		conn.Close()
		t.Error("trusted without the lab's CA")
	}
	if openssl, err := exec.LookPath("openssl"); err == nil {
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", lab.VCenter.CA, filepath.Join(lab.Dir, "openstack.crt")).CombinedOutput()
		if err != nil {
			t.Errorf("openssl: %s", out)
		}
	} else {
		t.Log("openssl is not installed: its strict check is left out")
	}
}

func TestEverythingIsRolledBack(t *testing.T) {
	for _, failing := range []string{"vcenter", "openstack"} {
		o := options(t)
		t.Setenv("LAB_TEST_FAIL", failing)
		var out bytes.Buffer
		_, err := Up(context.Background(), o, &out)
		if err == nil || !strings.Contains(err.Error(), "on purpose") || !strings.Contains(err.Error(), failing+" ended before it was ready") {
			t.Fatal(err)
		}
		nothingLeft(t, o)
	}
}

func nothingLeft(t *testing.T, o Options) {
	t.Helper()
	if _, err := os.Stat(o.Dir); !os.IsNotExist(err) {
		entries, _ := os.ReadDir(o.Dir)
		t.Error("left over:", entries)
	}
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, []byte(o.Dir+"/")) {
			t.Errorf("%s still runs: %q", path, raw)
		}
	}
}

func TestDeadlineAndCancel(t *testing.T) {
	o := options(t)
	t.Setenv("LAB_TEST_SILENT", "vcenter")
	o.Deadline = 300 * time.Millisecond
	var out bytes.Buffer
	if _, err := Up(context.Background(), o, &out); err == nil || !strings.Contains(err.Error(), "no answer in time from the lab's vcenter") {
		t.Fatal(err)
	}
	nothingLeft(t, o)
	o.Deadline = time.Minute
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(200*time.Millisecond, cancel)
	if _, err := Up(ctx, o, &out); err == nil || !strings.Contains(err.Error(), "stopped while waiting") {
		t.Fatal(err)
	}
	nothingLeft(t, o)
}

// After a crash of the machine or a kill the next up starts afresh.
func TestUpAfterACrash(t *testing.T) {
	o := options(t)
	lab := up(t, o)
	for _, pid := range []int{lab.VCenter.PID, lab.OpenStack.PID} {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for until := time.Now().Add(time.Minute); (alive(lab.VCenter.PID) || alive(lab.OpenStack.PID)) && time.Now().Before(until); {
		time.Sleep(5 * time.Millisecond)
	}
	os.WriteFile(filepath.Join(o.Dir, "datastore", "left"), []byte("x"), 0o600)
	again := up(t, o)
	if again.VCenter.PID == lab.VCenter.PID {
		t.Error("the same process")
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "datastore", "left")); !os.IsNotExist(err) {
		t.Error("files of the old lab are in the new one")
	}
}

func TestForeignThingsAreLeftAlone(t *testing.T) {
	o := options(t)
	os.MkdirAll(o.Dir, 0o700)
	precious := filepath.Join(o.Dir, "precious")
	os.WriteFile(precious, []byte("x"), 0o600)
	var out bytes.Buffer
	if _, err := Up(context.Background(), o, &out); err == nil || !strings.Contains(err.Error(), "not a lab's folder") {
		t.Error(err)
	}
	if err := Down(o.Dir, false, &out); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	os.RemoveAll(o.Dir)

	// A pid that now belongs to somebody else is not ended.
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		other.Process.Kill()
		other.Wait()
	}()
	lab := up(t, o)
	syscall.Kill(lab.VCenter.PID, syscall.SIGKILL)
	os.WriteFile(filepath.Join(o.Dir, "vcenter.pid"), []byte(strconv.Itoa(other.Process.Pid)), 0o600)
	if err := Down(o.Dir, false, &out); err != nil {
		t.Error(err)
	}
	if !alive(other.Process.Pid) {
		t.Error("somebody else's process was ended")
	}
}

func TestKeep(t *testing.T) {
	o := options(t)
	up(t, o)
	var out bytes.Buffer
	if err := Down(o.Dir, true, &out); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "log", "vcenter.log")); err != nil {
		t.Error(err)
	}
	if _, err := Load(o.Dir); !errors.Is(err, ErrNoLab) {
		t.Error(err)
	}
}

func TestBadDirs(t *testing.T) {
	for _, dir := range []string{"/", "/tmp/" + strings.Repeat("x", 100), "/tmp/a\nb", "/tmp/a\"b"} {
		if _, err := checkDir(dir); err == nil {
			t.Errorf("%q passed", dir)
		}
	}
	o := options(t)
	os.MkdirAll(filepath.Dir(o.Dir), 0o700)
	if err := os.Symlink("/tmp", o.Dir); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := Up(context.Background(), o, &out); err == nil || !strings.Contains(err.Error(), "not a folder") {
		t.Error("a symbolic link passed:", err)
	}
	os.Remove(o.Dir)
}

func TestQuote(t *testing.T) {
	for _, word := range []string{"", "plain/path", "two words", "it's", "$HOME;`id`", "a\nb"} {
		said, err := exec.Command("sh", "-c", "printf %s "+quote(word)).Output()
		if err != nil || string(said) != word {
			t.Errorf("%q became %q (%v)", word, said, err)
		}
	}
}
