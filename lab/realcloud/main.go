// Package realcloud is a supervisor of a real OpenStack: Keystone, Glance, Cinder,
// Nova, Placement and Neutron out of Debian's packages, as child processes on
// loopback with all they write below one folder, and a front that gives them the
// address, the call log, the scripted faults and the control socket that the
// stand-in (lab/openstack) has. It needs root. What the services are it leaves as
// it is; the few programs that it puts in front of this machine's are in shim/.
package realcloud

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/devices"
)

// Config is the file that --config names; the same fields as the stand-in's.
type Config struct {
	Listen         string `json:"listen"`
	Cert           string `json:"cert"`
	Key            string `json:"key"`
	ControlSocket  string `json:"control_socket"`
	MetadataListen string `json:"metadata_listen"`
	Dir            string `json:"dir"`
	Devices        string `json:"devices"` // "loop" or "file"
	ReadyFile      string `json:"ready_file"`
	PasswordFile   string `json:"password_file"`
	TokenLifetime  int    `json:"token_lifetime_s"`
	Heat           bool   `json:"heat"`
}

// supervisor is one running cloud.
type supervisor struct {
	config   Config
	layout   *layout
	children *children
	attached *attached
	secrets  secrets

	project, user string // of the lab
	admin         *account
	owner         *account // the lab's user
	provider      *account // the admin in its own project
	made          seeded
}

// Main runs `vmferry-lab real-openstack`.
func Main(args []string) error {
	flags := flag.NewFlagSet("real-openstack", flag.ContinueOnError)
	file := flags.String("config", "", "settings as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is one word too many", flags.Arg(0))
	}
	if *file == "" {
		return errors.New("needs --config FILE")
	}
	config, err := readConfig(*file)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return Run(ctx, config)
}

func readConfig(path string) (Config, error) {
	var config Config
	file, err := os.Open(path)
	if err != nil {
		return config, err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return config, fmt.Errorf("%s: %w", path, err)
	}
	for name, value := range map[string]string{"listen": config.Listen, "cert": config.Cert, "key": config.Key, "dir": config.Dir,
		"metadata_listen": config.MetadataListen, "ready_file": config.ReadyFile, "password_file": config.PasswordFile,
		"control_socket": config.ControlSocket} {
		if value == "" {
			return config, fmt.Errorf("%s: %s is missing", path, name)
		}
	}
	if config.Dir, err = filepath.Abs(config.Dir); err == nil {
		// The kernel names mounts and loop devices' files by their real path.
		config.Dir, err = filepath.EvalSymlinks(config.Dir)
	}
	// libvirtd sees other folders there, and so would not see the lab's.
	for _, hidden := range []string{"/run/", "/var/lib/", "/var/cache/", "/var/log/"} {
		if strings.HasPrefix(config.Dir+"/", hidden) && err == nil {
			err = fmt.Errorf("a real OpenStack cannot be below %s: give another --dir", hidden)
		}
	}
	return config, err
}

// Run starts the cloud and serves until the context ends; then nothing is left of
// it but files.
func Run(ctx context.Context, config Config) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the real OpenStack needs root: it mounts, and makes bridges and taps")
	}
	password, err := os.ReadFile(config.PasswordFile)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(config.Cert, config.Key)
	if err != nil {
		return err
	}
	unpacked, database, err := installed()
	if err != nil {
		return err
	}
	var listeners []net.Listener
	defer func() {
		for _, listener := range listeners {
			listener.Close()
		}
	}()
	for _, address := range []string{config.Listen, config.MetadataListen} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		listeners = append(listeners, listener)
	}
	if config.TokenLifetime == 0 {
		config.TokenLifetime = 24 * 60 * 60
	}
	l, err := newLayout(config.Dir, unpacked, portOf(listeners[0]), config.TokenLifetime)
	if err != nil {
		return err
	}
	if err := l.write(); err != nil {
		return err
	}
	for _, path := range []string{config.ControlSocket, l.in("run/devices.sock")} {
		listener, err := calls.ListenControl(path)
		if err != nil {
			return err
		}
		listeners = append(listeners, listener)
	}
	s := &supervisor{config: config, layout: l, children: newChildren(l),
		attached: &attached{folder: devices.Folder{Dir: config.Dir, Loop: config.Devices != "file"}, shares: map[string]string{}, all: map[string]*attachedVolume{}}}
	for _, backend := range backends {
		s.attached.shares["127.0.0.1:"+l.export(backend)] = l.export(backend)
	}
	if err := s.attached.folder.Prepare(); err != nil {
		return err
	}
	defer func() {
		if ending := s.end(); err == nil {
			err = ending
		}
	}()
	labPassword := strings.TrimRight(string(password), "\r\n")
	s.secrets.add(labPassword)
	s.secrets.add(l.password)
	callLog, faults := &calls.Log{}, calls.NewFaults(1)
	secure := tls.NewListener(listeners[0], &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	failed := make(chan error, 4)
	serve := func(handler http.Handler, listener net.Listener) {
		server := calls.Server(handler)
		go func() { failed <- server.Serve(listener) }()
	}
	// Nova's driver may ask as soon as it runs; the others have no answers yet.
	serve(s.attached.handler(), listeners[3])
	if err := s.raise(ctx, database, labPassword); err != nil {
		return err
	}
	serve(s.front(callLog, faults), secure)
	serve(http.HandlerFunc(s.metadata), listeners[1])
	serve(s.control(callLog, faults), listeners[2])
	if err := calls.WriteReady(config.ReadyFile, s.ready(portOf(listeners[0]), portOf(listeners[1]))); err != nil {
		return err
	}
	defer os.Remove(config.ReadyFile)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// end takes away what the cloud has on this machine.
func (s *supervisor) end() error {
	began := time.Now()
	log.Print("ending the services")
	s.attached.end()
	s.children.end()
	s.attached.end() // what was attached in the meantime
	err := Release(s.config.Dir)
	log.Printf("ended in %.1f s", time.Since(began).Seconds())
	return err
}

const metadataPath = "/openstack/latest/meta_data.json"

// metadata answers as the metadata service does inside the conversion host.
func (s *supervisor) metadata(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Path != metadataPath {
		calls.Refuse(w, http.StatusNotFound, "the lab's metadata service knows GET "+metadataPath)
		return
	}
	calls.Reply(w, http.StatusOK, obj{
		"uuid": s.made.instance, "name": hostName, "hostname": hostName + ".novalocal", "launch_index": 0,
		"availability_zone": zoneName, "project_id": s.project, "devices": []obj{}, "meta": obj{}, "dedicated_cpus": []int{},
	})
}

// ready is what the ready file says.
func (s *supervisor) ready(port, metadataPort int) obj {
	return obj{
		"kind": "real", "port": port, "metadata_port": metadataPort,
		"auth_url":     fmt.Sprintf("%s/identity/v3", s.layout.Front),
		"metadata_url": fmt.Sprintf("http://127.0.0.1:%d%s", metadataPort, metadataPath),
		"username":     userName, "project_name": projectName, "domain_name": "Default", "region_name": regionName,
		"project_id": s.project, "user_id": s.user, "instance_id": s.made.instance,
		"network_id": s.made.network, "subnet_id": s.made.subnet, "shared_network_id": s.made.shared,
		"flavor_id": s.made.flavor, "volume_type": backends[0], "availability_zone": zoneName,
		"volumes_dir": s.layout.export(backends[0]), "appcred_file": s.appCredFile(),
		"admin_password_file": s.layout.adminPasswordFile(),
	}
}
