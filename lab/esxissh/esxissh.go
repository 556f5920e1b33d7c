// Package esxissh is the SSH of an ESXi host: OpenSSH's own sshd and sftp-server,
// one process a connection, with one user of its own (root, by key or password)
// and a file tree in which only /vmfs is not this machine's. What it changes for
// itself (mounts, users) nobody else sees. It knows no virtual machine.
package esxissh

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	sshd       = "/usr/sbin/sshd"
	sftpServer = "/usr/lib/openssh/sftp-server"
)

// Access is what a client needs.
type Access struct {
	Address      string `json:"address"` // 127.0.0.1:port
	User         string `json:"user"`
	PasswordFile string `json:"password_file"`
	Key          string `json:"key"`
	KnownHosts   string `json:"known_hosts"`
}

// Server listens until Stop.
type Server struct {
	Access
	dir      string
	admit    func()
	listener net.Listener

	mu       sync.Mutex
	stopped  bool
	sessions map[int]bool // process groups
}

// Unavailable says why there can be no such server on this machine; nil when
// there can.
func Unavailable() error {
	if os.Geteuid() != 0 {
		return errors.New("sshd needs root")
	}
	for _, program := range []string{sshd, sftpServer} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("%w (Debian: openssh-server)", err)
		}
	}
	if found, _ := filepath.Glob("/usr/lib/*/libnss_wrapper.so"); len(found) == 0 {
		return errors.New("no libnss_wrapper.so (Debian: libnss-wrapper)")
	}
	return nil
}

// Start serves the folder dir/root/vmfs/volumes; keys, password and log are put
// into dir. Each connection waits for admit before anything answers it; nil: for
// nothing.
func Start(dir string, admit func()) (*Server, error) {
	if err := Unavailable(); err != nil {
		return nil, err
	}
	s := &Server{dir: dir, admit: admit, sessions: map[int]bool{}}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("ssh of the ESXi host: %w", err)
	}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.Access = Access{Address: s.listener.Addr().String(), User: "root", PasswordFile: s.in("password"),
		Key: s.in("user_key"), KnownHosts: s.in("known_hosts")}
	hostKey, err := os.ReadFile(s.in("host_key.pub"))
	if err != nil {
		return nil, err
	}
	words := strings.Fields(string(hostKey))
	host, port, _ := net.SplitHostPort(s.Address)
	known := fmt.Sprintf("[%s]:%s %s %s\n", host, port, words[0], words[1])
	if err := os.WriteFile(s.KnownHosts, []byte(known), 0o600); err != nil {
		return nil, err
	}
	go s.accept()
	return s, nil
}

func (s *Server) in(name string) string { return filepath.Join(s.dir, name) }

// Datastores is the folder that clients see as /vmfs/volumes.
func (s *Server) Datastores() string { return filepath.Join(s.dir, "root/vmfs/volumes") }

func (s *Server) prepare() error {
	for _, folder := range []string{"root/vmfs/volumes", "root/usr", "root/dev", "root/etc"} {
		if err := os.MkdirAll(s.in(folder), 0o700); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"lib": "usr/lib", "lib64": "usr/lib64", "bin": "usr/bin"} {
		if err := os.Symlink(target, s.in("root/"+link)); err != nil {
			return err
		}
	}
	for _, key := range []string{"host_key", "user_key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", s.in(key)).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return err
	}
	password := hex.EncodeToString(raw)
	hash := exec.Command("openssl", "passwd", "-6", "-stdin")
	hash.Stdin = strings.NewReader(password + "\n")
	crypted, err := hash.Output()
	if err != nil {
		return fmt.Errorf("openssl passwd: %w", err)
	}
	files := map[string]string{
		"password":        password + "\n",
		"root/etc/passwd": "root:x:0:0::/:/bin/sh\n",
		// For libnss_wrapper: sshd has a user for its unprivileged part.
		"passwd": fmt.Sprintf("root:x:0:0:root:%s:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n", s.dir),
		"group":  "root:x:0:\nnogroup:x:65534:\n",
		"shadow": fmt.Sprintf("root:%s:19000:0:99999:7:::\n", strings.TrimSpace(string(crypted))),
		// As on ESXi: root may log in; its subsystem is sftp. The binds are made before
		// sshd starts, see session.
		"sshd_config": fmt.Sprintf("HostKey %s\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile %s\nPermitRootLogin yes\n"+
			"PasswordAuthentication yes\nKbdInteractiveAuthentication no\nSubsystem sftp /usr/sbin/chroot %s %s -R\n",
			s.in("host_key"), s.in("user_key.pub"), s.in("root"), sftpServer),
	}
	for name, text := range files {
		if err := os.WriteFile(s.in(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// session is what runs for a connection, in mounts of its own: sshd wants its
// folder in /run, and sftp-server its libraries in the tree that it is shut into.
const session = `mount -t tmpfs none /run && mkdir /run/sshd && mount --bind /usr "$0/root/usr" && mount --bind /dev "$0/root/dev" &&
exec env LD_PRELOAD=libnss_wrapper.so NSS_WRAPPER_PASSWD="$0/passwd" NSS_WRAPPER_GROUP="$0/group" NSS_WRAPPER_SHADOW="$0/shadow" \
    ` + sshd + ` -i -e -f "$0/sshd_config"`

func (s *Server) accept() {
	for {
		connection, err := s.listener.Accept()
		if err != nil {
			return
		}
		go s.welcome(connection.(*net.TCPConn))
	}
}

func (s *Server) welcome(connection *net.TCPConn) {
	defer connection.Close()
	if s.admit != nil {
		s.admit()
	}
	if err := s.serve(connection); err != nil {
		fmt.Fprintf(os.Stderr, "ssh of the ESXi host: %v\n", err)
	}
}

func (s *Server) serve(connection *net.TCPConn) error {
	file, err := connection.File()
	if err != nil {
		return err
	}
	defer file.Close()
	log, err := os.OpenFile(s.in("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", session, s.dir)
	command.Stdin, command.Stdout, command.Stderr = file, file, log
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	if err := command.Start(); err != nil {
		return err
	}
	pid := command.Process.Pid
	s.sessions[pid] = true
	go func() {
		command.Wait()
		s.mu.Lock()
		delete(s.sessions, pid)
		s.mu.Unlock()
	}()
	return nil
}

// Stop ends the server and every session.
func (s *Server) Stop() {
	s.listener.Close()
	s.mu.Lock()
	s.stopped = true
	for pid := range s.sessions {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
	s.mu.Unlock()
	// Whoever removes the folder next shall not meet an open log.
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until) && s.busy(); {
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *Server) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions) > 0
}

// Show makes path appear as a file of a datastore, or as one that exists and
// cannot be opened: sftp-server then answers "Failure", as it does for the "Device
// or resource busy" of a file that a running machine has locked.
func (s *Server) Show(datastore, folder, name, path string, locked bool) error {
	shown := filepath.Join(s.Datastores(), datastore, folder, name)
	if err := os.MkdirAll(filepath.Dir(shown), 0o700); err != nil {
		return err
	}
	there, err := os.Lstat(shown)
	if err == nil && locked && there.Mode()&os.ModeSocket != 0 {
		return nil
	}
	if real, bad := os.Stat(path); err == nil && !locked && bad == nil && os.SameFile(there, real) {
		return nil
	}
	fresh := shown + ".new"
	if locked {
		err = syscall.Mknod(fresh, syscall.S_IFSOCK|0o600, 0)
	} else {
		err = os.Link(path, fresh)
	}
	if err != nil {
		return err
	}
	return os.Rename(fresh, shown)
}

// Keep removes what a folder shows beyond these names.
func (s *Server) Keep(datastore, folder string, names map[string]bool) {
	entries, _ := os.ReadDir(filepath.Join(s.Datastores(), datastore, folder))
	for _, entry := range entries {
		if !names[entry.Name()] {
			os.Remove(filepath.Join(s.Datastores(), datastore, folder, entry.Name()))
		}
	}
}
