// Starting and ending the server. Everything listens on what the configuration
// says, by default a free port of the loopback.
package vcenter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/calls"
)

// Main is "vmferry-lab vcenter"; it serves until SIGINT or SIGTERM.
func Main(args []string) error {
	config, err := Parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	running, err := Start(ctx, config)
	if err != nil {
		return err
	}
	fmt.Printf("vcenter: https://%s/sdk, VM %s\n", running.Endpoint, running.VMPath)
	<-ctx.Done()
	return running.Stop()
}

// Running is a started server.
type Running struct {
	Endpoint string // address:port
	VMPath   string
	Server   *Server

	web, control *http.Server
}

// Start builds inventory and guest and begins to serve. There is one server a
// process: the simulator keeps its inventory in a global.
func Start(ctx context.Context, config Config) (*Running, error) {
	if err := config.fill(); err != nil {
		return nil, err
	}
	password, err := readPassword(config.PasswordFile)
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(config.Cert, config.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	for _, dir := range []string{config.Dir, config.FrozenDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	s := &Server{config: config, log: &calls.Log{}, faults: calls.NewFaults(config.Seed), changes: newChangeSignal(),
		tasks: newTaskBook(), datastores: map[string]*datastore{}, machines: map[string]*machine{},
		settings: &settings{v: defaultSettings()}, exports: &exports{all: map[string]*exportLease{}}}
	s.sessions = newSessionTable(config.Username, password, defaultSettings().idle(), dropInner)
	s.privileges = &privileges{user: config.RestrictedUsername}
	if config.RestrictedUsername != "" {
		password, err := readPassword(config.RestrictedPasswordFile)
		if err != nil {
			return nil, err
		}
		s.sessions.accounts = append(s.sessions.accounts, account{config.RestrictedUsername, password})
	}
	s.registerMethods()
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	return s.listen(certificate)
}

func readPassword(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	password := strings.TrimRight(strings.SplitN(string(raw), "\n", 2)[0], "\r")
	if password == "" {
		return "", fmt.Errorf("password file %s: its first line is empty", path)
	}
	return password, nil
}

func (s *Server) build(ctx context.Context) error {
	inv, err := s.buildInventory(ctx)
	if err != nil {
		return err
	}
	names := []string{s.config.VMName}
	if s.config.SecondVM != "" {
		names = append(names, s.config.SecondVM)
	}
	for i, name := range names {
		m, err := inv.addMachine(name, i+1)
		if err != nil {
			return err
		}
		s.addMachine(m)
	}
	if err := inv.addOthers(); err != nil {
		return err
	}
	for i, root := range s.config.ProxyRoots {
		m, err := inv.addProxy(fmt.Sprintf("proxy%02d", i+1), root, i+1)
		if err != nil {
			return err
		}
		s.addMachine(m)
	}
	return nil
}

func (s *Server) addMachine(m *machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[m.ref.Value] = m
}

func (s *Server) listen(certificate tls.Certificate) (*Running, error) {
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return nil, err
	}
	control, err := calls.ListenControl(s.config.ControlSocket)
	if err != nil {
		listener.Close()
		return nil, err
	}
	s.address, s.thumbprint = listener.Addr().String(), soap.ThumbprintSHA1(leaf)
	r := &Running{Endpoint: listener.Addr().String(), VMPath: "/" + s.datacenter + "/vm/" + s.config.VMName, Server: s}
	r.web = calls.Server(s)
	r.web.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	r.web.ConnContext = PacedConnections
	// Clients that refuse the certificate are an everyday event here.
	r.web.ErrorLog = log.New(io.Discard, "", 0)
	r.control = &http.Server{Handler: s.control(), ReadHeaderTimeout: 30 * time.Second}
	s.startSSH()
	go r.web.ServeTLS(listener, "", "")
	go r.control.Serve(control)
	for _, m := range s.machineList() {
		m.setLoad()
	}
	if s.config.ReadyFile != "" {
		ready := map[string]interface{}{"endpoint": r.Endpoint, "vm_path": r.VMPath, "pid": os.Getpid(), "macs": s.macs()}
		if s.ssh != nil {
			ready["esxi_ssh"] = s.ssh.Access
		}
		if err := calls.WriteReady(s.config.ReadyFile, ready); err != nil {
			r.Stop()
			return nil, err
		}
	}
	return r, nil
}

// Stop ends the server: calls under way are cut off, tasks may end.
func (r *Running) Stop() error {
	s := r.Server
	r.web.Close()
	s.vddkDisks.closeAll()
	r.control.Close()
	if s.ssh != nil {
		s.ssh.Stop()
	}
	s.sessions.endAll()
	s.exports.endAll()
	s.settle(5 * time.Second)
	var first error
	for _, m := range s.machineList() {
		m.writer.Stop()
		m.unplugAll()
		for _, d := range m.diskList() {
			if d.data == nil {
				continue
			}
			if err := d.data.Close(); err != nil && first == nil {
				first = err
			}
		}
	}
	os.Remove(s.config.ControlSocket)
	os.RemoveAll(filepath.Clean(s.config.Dir) + "-small")
	return first
}

func listenURL() *url.URL {
	// Without a user the simulator takes any password: ours is checked before.
	return &url.URL{Scheme: "https", Host: "127.0.0.1"}
}

// macs are the addresses of the network cards, for whoever maps them.
func (s *Server) macs() []string {
	list := []string{}
	for _, m := range s.machineList() {
		if m.name != s.config.VMName {
			continue
		}
		for _, card := range m.hardware.nics {
			list = append(list, card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress)
		}
	}
	return list
}

func (s *Server) machineList() []*machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*machine, 0, len(s.machines))
	for _, m := range s.machines {
		list = append(list, m)
	}
	return list
}

func (s *Server) machineByRef(ref types.ManagedObjectReference) *machine {
	if ref.Type != "VirtualMachine" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machines[ref.Value]
}

func (s *Server) nextSnapshotNumber() int64 { return atomic.AddInt64(&s.snapshotNumber, 1) }
