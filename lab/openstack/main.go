// Package openstack is a stand-in for the parts of Keystone, Cinder, Nova,
// Neutron and Glance that moving a machine needs, on one TLS port with a path
// prefix for each, and for the metadata service of the conversion host. What it
// does not model it refuses loudly.
package openstack

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

// Config is the file that --config names.
type Config struct {
	Listen         string `json:"listen"`
	Cert           string `json:"cert"`
	Key            string `json:"key"`
	ControlSocket  string `json:"control_socket"`
	MetadataListen string `json:"metadata_listen"`
	Dir            string `json:"dir"`
	Devices        string `json:"devices"` // "loop", "file", or "" for loop where it works
	ReadyFile      string `json:"ready_file"`
	PasswordFile   string `json:"password_file"`
	TokenLifetime  int    `json:"token_lifetime_s"` // 0 = an hour
}

// Main runs `vmferry-lab openstack`.
func Main(args []string) error {
	flags := flag.NewFlagSet("openstack", flag.ContinueOnError)
	file := flags.String("config", "", "settings as JSON")
	listCalls := flags.Bool("list-calls", false, "print the modelled calls as Markdown and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%q is one word too many", flags.Arg(0))
	}
	if *listCalls {
		_, err := os.Stdout.WriteString(ListCalls())
		return err
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
	if config.Dir, err = filepath.Abs(config.Dir); err != nil {
		return config, err
	}
	return config, config.chooseDevices()
}

// chooseDevices settles on loop devices where they work and nothing else was
// asked for.
func (config *Config) chooseDevices() error {
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return err
	}
	// The kernel names a loop device's file by its real path.
	dir, err := filepath.EvalSymlinks(config.Dir)
	if err != nil {
		return err
	}
	config.Dir = dir
	switch config.Devices {
	case "file":
		return nil
	case "loop", "":
		err := devices.UsableLoop(config.Dir)
		if err == nil {
			config.Devices = "loop"
			return nil
		}
		if config.Devices == "loop" {
			return fmt.Errorf("loop devices do not work here, use \"devices\": \"file\": %w", err)
		}
		log.Printf("volumes are attached as plain files, since loop devices do not work here: %v", err)
		config.Devices = "file"
		return nil
	}
	return fmt.Errorf("devices is %q and may be loop or file", config.Devices)
}

// Run serves until the context ends; then every loop device is given back.
func Run(ctx context.Context, config Config) error {
	password, err := os.ReadFile(config.PasswordFile)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(config.Cert, config.Key)
	if err != nil {
		return err
	}
	cloud, err := newCloud(config, strings.TrimRight(string(password), "\r\n"))
	if err != nil {
		return err
	}
	defer cloud.end()
	plain, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return err
	}
	metadata, err := net.Listen("tcp", config.MetadataListen)
	if err != nil {
		plain.Close()
		return err
	}
	control, err := calls.ListenControl(config.ControlSocket)
	if err != nil {
		plain.Close()
		metadata.Close()
		return err
	}
	callLog, faults := &calls.Log{}, calls.NewFaults(1)
	secure := tls.NewListener(plain, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}})
	servers := []struct {
		server *http.Server
		at     net.Listener
	}{
		{calls.Server(cloud.scriptable(callLog, faults)), secure},
		{calls.Server(http.HandlerFunc(cloud.metadata)), metadata},
		{calls.Server(cloud.control(callLog, faults)), control},
	}
	failed := make(chan error, len(servers))
	for _, s := range servers {
		s := s
		go func() { failed <- s.server.Serve(s.at) }()
	}
	err = calls.WriteReady(config.ReadyFile, cloud.ready(portOf(plain), portOf(metadata)))
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	for _, s := range servers {
		ending, cancel := context.WithTimeout(context.Background(), time.Second)
		if s.server.Shutdown(ending) != nil {
			s.server.Close()
		}
		cancel()
	}
	os.Remove(config.ReadyFile)
	return err
}

// scriptable puts the call log and the scripted faults in front of the cloud.
func (c *Cloud) scriptable(callLog *calls.Log, faults *calls.Faults) http.Handler {
	return &calls.Middleware{
		Log: callLog, Faults: faults, Next: c, Expire: c.expire, Answer: c.scripted,
		Name: func(r *http.Request) (service, method, object string) {
			service, _ = splitService(r.URL.Path)
			if service == "" {
				service = "unknown"
			}
			object = r.URL.Path
			if r.URL.RawQuery != "" {
				object += "?" + r.URL.RawQuery
			}
			return service, r.Method, object
		},
	}
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// end waits for what is under way and gives every device back.
func (c *Cloud) end() {
	close(c.done)
	c.pending.Wait()
	c.locked(func() {
		for _, v := range c.volumes {
			if v.attachment != nil && v.attachment.block != nil {
				v.attachment.block.Detach()
				v.attachment.block = nil
			}
		}
	})
}

const metadataPath = "/openstack/latest/meta_data.json"

// metadata answers as the metadata service does inside the conversion host.
func (c *Cloud) metadata(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Path != metadataPath {
		message := "lab/openstack does not model " + r.Method + " " + r.URL.Path + " of the metadata service"
		log.Print(message)
		calls.Refuse(w, http.StatusNotFound, message)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	calls.Reply(w, http.StatusOK, obj{
		"uuid": c.ids.instance, "name": hostName, "hostname": hostName + ".novalocal", "launch_index": 0,
		"availability_zone": zoneName, "project_id": c.ids.project, "devices": []obj{}, "meta": obj{}, "dedicated_cpus": []int{},
	})
}
