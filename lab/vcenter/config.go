// What a vCenter of the lab is made of, and its command line. It knows no SOAP.
package vcenter

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"vmferry.dev/lab/guest"
)

// Config says what to serve: the JSON file of --config, or flags.
type Config struct {
	Listen       string `json:"listen"`
	Cert         string `json:"cert"` // PEM files
	Key          string `json:"key"`
	Username     string `json:"username"`
	PasswordFile string `json:"password_file"` // its first line counts
	// A second user, whose privileges the control socket changes; without a name
	// there is none.
	RestrictedUsername     string  `json:"restricted_username"`
	RestrictedPasswordFile string  `json:"restricted_password_file"`
	ControlSocket          string  `json:"control_socket"`
	Dir                    string  `json:"dir"`        // of the datastore LocalDS_0
	FrozenDir              string  `json:"frozen_dir"` // "" = Dir with -frozen behind it
	ESXi                   bool    `json:"esxi"`
	VMName                 string  `json:"vm_name"`
	Guest                  string  `json:"guest"` // plain or linux; "" = plain
	Disks                  []int64 `json:"disks"`
	Nics                   int     `json:"nics"`
	WriterRate             float64 `json:"writer_rate_mb_s"` // 0 = the guest starts without load
	Others                 int     `json:"others"`           // small VMs without disk data
	Seed                   int64   `json:"seed"`             // of the guest's content and load
	ReadyFile              string  `json:"ready_file"`       // JSON written when the server answers
	ESXiSSHDir             string  `json:"esxi_ssh_dir"`     // of the host's SSH, see esxissh; "" = the host has none
	SecondVM               string  `json:"second_vm"`        // another VM with the same disks; "" = none
	// VMs that others' disks may be attached to (proxy01...): for each the folder in
	// which its guest's devices appear.
	ProxyRoots []string `json:"proxy_roots"`
	Devices    string   `json:"devices"` // loop or file
}

func defaultConfig() Config {
	return Config{Listen: "127.0.0.1:0", VMName: "web01", Nics: 2, WriterRate: guest.DefaultRate, Others: 60, Seed: 1}
}

func (c *Config) fill() error {
	if c.Dir == "" || c.Cert == "" || c.Key == "" || c.PasswordFile == "" || c.ControlSocket == "" {
		return errors.New("dir, cert, key, password-file and control-socket are needed")
	}
	if c.FrozenDir == "" {
		c.FrozenDir = c.Dir + "-frozen"
	}
	if c.Username == "" {
		c.Username = "administrator@vsphere.local"
		if c.ESXi {
			c.Username = "root"
		}
	}
	if c.RestrictedUsername == c.Username || (c.RestrictedUsername == "") != (c.RestrictedPasswordFile == "") {
		return errors.New("the restricted user needs a name of its own and a password file")
	}
	if c.VMName == "" || strings.ContainsAny(c.VMName+c.SecondVM, "/[]% ") || c.VMName == c.SecondVM {
		return fmt.Errorf("VM names %q and %q: not empty, not the same, and without / [ ] %% and blanks", c.VMName, c.SecondVM)
	}
	personality, err := guest.ParsePersonality(c.Guest)
	if err != nil {
		return err
	}
	c.Guest = string(personality)
	if len(c.Disks) == 0 {
		c.Disks = guest.DefaultDisks()
	}
	if len(c.Disks) > disksPerController {
		return fmt.Errorf("%d disks: the VM's controller takes %d", len(c.Disks), disksPerController)
	}
	if c.Nics < 1 || c.Nics > 10 {
		return fmt.Errorf("%d network cards: 1 to 10", c.Nics)
	}
	if c.WriterRate < 0 || c.Others < 0 {
		return errors.New("writer rate and number of other VMs cannot be negative")
	}
	return nil
}

// Parse reads the command line of "vmferry-lab vcenter": a file, and flags that
// stand above it.
func Parse(args []string) (Config, error) {
	c := defaultConfig()
	var disks, file string
	flags := flag.NewFlagSet("vmferry-lab vcenter", flag.ContinueOnError)
	flags.StringVar(&file, "config", "", "JSON file with the settings; the flags stand above it")
	flags.StringVar(&c.Dir, "dir", "", "folder of the datastore")
	flags.StringVar(&c.FrozenDir, "frozen-dir", "", "folder for copies of frozen disks (default DIR-frozen)")
	flags.BoolVar(&c.ESXi, "esxi", false, "be a bare ESXi host instead of a vCenter")
	flags.StringVar(&c.Listen, "listen", c.Listen, "address; port 0 = any free one")
	flags.StringVar(&c.Cert, "cert", "", "server certificate (PEM)")
	flags.StringVar(&c.Key, "key", "", "its private key (PEM)")
	flags.StringVar(&c.Username, "username", "", "user name (default administrator@vsphere.local, with --esxi root)")
	flags.StringVar(&c.PasswordFile, "password-file", "", "file with the password")
	flags.StringVar(&c.RestrictedUsername, "restricted-username", "", "a second user, with few privileges (default none)")
	flags.StringVar(&c.RestrictedPasswordFile, "restricted-password-file", "", "file with its password")
	flags.StringVar(&c.ControlSocket, "control-socket", "", "control socket")
	flags.StringVar(&c.ReadyFile, "ready-file", "", "file to write when the server answers")
	flags.StringVar(&c.VMName, "vm-name", c.VMName, "name of the VM with disks")
	flags.StringVar(&c.Guest, "guest", "", "what is on its first disk: plain files, or a small linux that boots")
	flags.StringVar(&disks, "disks", "", `capacities of its disks, for example "192M+37s,96M+1s"`)
	flags.IntVar(&c.Nics, "nics", c.Nics, "its network cards")
	flags.Float64Var(&c.WriterRate, "writer-rate", c.WriterRate, "load of the guest in MB/s; 0 = none")
	flags.IntVar(&c.Others, "others", c.Others, "small VMs without disk data")
	flags.StringVar(&c.SecondVM, "second-vm", "", "name of another VM with such disks (default none)")
	flags.StringVar(&c.Devices, "devices", "", "how disks attached to a proxy appear: loop or file (default file)")
	flags.Func("proxy-root", "a VM that disks can be attached to, and the folder for its guest's devices; may be repeated", func(root string) error {
		c.ProxyRoots = append(c.ProxyRoots, root)
		return nil
	})
	flags.Int64Var(&c.Seed, "seed", c.Seed, "seed of the guest's content and load")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return c, err
		}
		c = defaultConfig()
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&c); err != nil {
			return c, fmt.Errorf("%s: %w", file, err)
		}
		if err := flags.Parse(args); err != nil { // again, over the file's values
			return c, err
		}
	}
	if disks != "" {
		var err error
		if c.Disks, err = guest.ParseDisks(disks); err != nil {
			return c, err
		}
	}
	return c, c.fill()
}

// settings are what the control socket may change while the server runs.
type settings struct {
	mu sync.Mutex
	v  Settings
}

// Settings in force. A zero rate or idle timeout means none.
type Settings struct {
	TaskDelayMS     int     `json:"task_delay_ms"`
	PageAreas       int     `json:"page_areas"`
	FolderRateMBs   float64 `json:"folder_rate_mb_s"`
	FolderLatencyMS float64 `json:"folder_latency_ms"`
	FolderLocked    bool    `json:"folder_locked"` // a running VM's flat file is refused even when a snapshot froze it
	IdleTimeoutS    float64 `json:"idle_timeout_s"`
	QuiesceFails    bool    `json:"quiesce_fails"`
	Tools           string  `json:"tools"` // running or notRunning
	ShutdownDelayMS int     `json:"shutdown_delay_ms"`
	HostName        string  `json:"host_name"`        // of the machines' host; empty: the simulator's own
	ExportTimeoutS  float64 `json:"export_timeout_s"` // of a lease whose holder says nothing
	// Of disks that are opened by the stand-in for VDDK; rate and latency are those of the folder.
	VDDKOpenMS      float64 `json:"vddk_open_ms"`
	VDDKConnections int     `json:"vddk_connections"`
	VDDKReadBytes   int64   `json:"vddk_read_bytes"` // of one request
}

func defaultSettings() Settings {
	return Settings{TaskDelayMS: 100, PageAreas: 2000, IdleTimeoutS: 1800, Tools: "running", ShutdownDelayMS: 500, ExportTimeoutS: 300,
		// "vCenter Server imposes a limit of 52 connections" (VDDK Programming Guide, NFC Session Limits).
		VDDKConnections: 52, VDDKReadBytes: 2 << 20}
}

func (s *settings) get() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v
}

func (s *settings) set(v Settings) error {
	switch {
	case v.TaskDelayMS < 0 || v.ShutdownDelayMS < 0:
		return errors.New("a delay cannot be negative")
	case v.PageAreas < 1:
		return errors.New("page_areas must be at least 1")
	case v.FolderRateMBs < 0 || v.FolderLatencyMS < 0 || v.IdleTimeoutS < 0:
		return errors.New("folder_rate_mb_s, folder_latency_ms and idle_timeout_s cannot be negative")
	case v.VDDKOpenMS < 0 || v.VDDKConnections < 1 || v.VDDKReadBytes < vddkSector:
		return errors.New("vddk_open_ms cannot be negative, and vddk_connections and vddk_read_bytes must allow one")
	case v.ExportTimeoutS <= 0:
		return errors.New("export_timeout_s must be more than 0")
	case v.Tools != "running" && v.Tools != "notRunning":
		return fmt.Errorf("tools %q: running or notRunning", v.Tools)
	}
	s.mu.Lock()
	s.v = v
	s.mu.Unlock()
	return nil
}

func (v Settings) taskDelay() time.Duration {
	return time.Duration(v.TaskDelayMS) * time.Millisecond
}

func (v Settings) idle() time.Duration {
	return time.Duration(v.IdleTimeoutS * float64(time.Second))
}
