// Up: everything starts or nothing stays.
package environment

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vmferry.dev/lab/devices"
	"vmferry.dev/lab/esxissh"
	"vmferry.dev/lab/guest"
	"vmferry.dev/lab/realcloud"
)

// Options of Up.
type Options struct {
	Dir        string
	ESXi       bool
	Devices    string  // loop or file; "" = loop when this process may make loop devices
	WriterRate float64 // MB/s
	Guest      guest.Personality
	Disks      []int64 // bytes
	SecondVM   string  // the name of another guest like the first; "" = none
	Proxies    int     // VMs that disks of others can be attached to
	OpenStack  string  // stand-in or real
	Executable string  // the program with the subcommands vcenter and openstack
	Deadline   time.Duration
	// TokenLifetime is that of OpenStack's tokens.
	TokenLifetime time.Duration
	Heat          bool // beside the other services; with the real OpenStack only
}

// The settings that the servers read. Each server has a struct of its own with
// the same fields.
type vcenterSettings struct {
	Listen                 string  `json:"listen"`
	Cert                   string  `json:"cert"`
	Key                    string  `json:"key"`
	Username               string  `json:"username"`
	PasswordFile           string  `json:"password_file"`
	RestrictedUsername     string  `json:"restricted_username"`
	RestrictedPasswordFile string  `json:"restricted_password_file"`
	ControlSocket          string  `json:"control_socket"`
	Dir                    string  `json:"dir"`
	FrozenDir              string  `json:"frozen_dir"`
	ESXi                   bool    `json:"esxi"`
	VMName                 string  `json:"vm_name"`
	Guest                  string  `json:"guest"`
	Disks                  []int64 `json:"disks"`
	WriterRate             float64 `json:"writer_rate_mb_s"`
	ReadyFile              string  `json:"ready_file"`
	ESXiSSHDir             string  `json:"esxi_ssh_dir"`
	SecondVM               string  `json:"second_vm"`
	// One folder for each.
	ProxyRoots []string `json:"proxy_roots"`
	Devices    string   `json:"devices"`
}

type openstackSettings struct {
	Listen         string `json:"listen"`
	Cert           string `json:"cert"`
	Key            string `json:"key"`
	ControlSocket  string `json:"control_socket"`
	MetadataListen string `json:"metadata_listen"`
	Dir            string `json:"dir"`
	Devices        string `json:"devices"`
	ReadyFile      string `json:"ready_file"`
	PasswordFile   string `json:"password_file"`
	TokenLifetime  int    `json:"token_lifetime_s"`
	Heat           bool   `json:"heat,omitempty"`
}

// Up starts a lab. When one part fails, what was started is ended again and the
// folder is removed, but for the logs that the error quotes.
func Up(ctx context.Context, o Options, out io.Writer) (*Lab, error) {
	dir, err := checkDir(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Devices, err = chooseDevices(o.Devices); err != nil {
		return nil, err
	}
	if o.Proxies < 0 || o.Proxies > 9 {
		return nil, usageError("--proxies %d: 0 to 9", o.Proxies)
	}
	if o.WriterRate < 0 {
		return nil, usageError("a writer rate of %v MB/s: it cannot be negative (0 = the guest does not write)", o.WriterRate)
	}
	if len(o.Disks) == 0 {
		return nil, errors.New("the guest needs a disk at least")
	}
	if o.OpenStack != kindStandIn && o.OpenStack != kindReal {
		return nil, usageError("--openstack %s: %s or %s", o.OpenStack, kindStandIn, kindReal)
	}
	if o.Heat && o.OpenStack != kindReal {
		return nil, usageError("--heat: only with --openstack real")
	}
	if o.Deadline == 0 {
		o.Deadline = 60 * time.Second
		if o.OpenStack == kindReal {
			o.Deadline = 900 * time.Second
		}
	}
	if err := guest.CheckDisks(o.Guest, o.Disks); err != nil {
		return nil, usageError("--disks: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, o.Deadline)
	defer cancel()
	if o.OpenStack == kindReal {
		// It takes a minute to start, so who asks for what is there gets it.
		if lab, err := Load(dir); err == nil && lab.OpenStack.Kind == kindReal && Status(ctx, dir, false, io.Discard) == nil {
			fmt.Fprintf(out, "lab: up already in %s\n", dir)
			return lab, nil
		}
	}
	return within(dir, out, func() (*Lab, error) { return raise(ctx, o, dir, out) })
}

// within claims dir for a new lab and lets raise fill it; what a failure leaves
// is cleared.
func within(dir string, out io.Writer, raise func() (*Lab, error)) (*Lab, error) {
	lock, fresh, err := claim(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if !fresh {
		for _, p := range parts(dir) {
			if pid := p.running(); pid != 0 {
				return nil, fmt.Errorf("a lab is up in %s already (%s is pid %d): use it (`vmferry lab status`), "+
					"end it (`vmferry lab down`), or give another folder with --dir", dir, p.name, pid)
			}
		}
		fmt.Fprintf(out, "lab: clearing what a lab that no longer runs left in %s\n", dir)
		if err := clear(dir); err != nil {
			return nil, err
		}
	}
	lab, err := raise()
	if err != nil {
		if clearing := clear(dir); clearing != nil {
			err = fmt.Errorf("%w\n(and clearing up failed: %v)", err, clearing)
		} else {
			os.Remove(filepath.Join(dir, markerName))
			os.Remove(dir)
		}
		return nil, err
	}
	return lab, nil
}

// parts of the lab in dir: two servers, or the one that replays a recording.
func parts(dir string) []part {
	if replaying := replayPart(dir); isThere(replaying.config()) {
		return []part{replaying}
	}
	openstack := part{name: "openstack", command: "openstack", dir: dir, grace: graceToEnd}
	if isThere(filepath.Join(dir, realcloud.WorkName)) {
		openstack.command, openstack.grace = "real-openstack", graceOfRealCloud
	}
	return []part{{name: "vcenter", command: "vcenter", dir: dir, grace: graceToEnd}, openstack}
}

func replayPart(dir string) part {
	return part{name: replayName, command: replayName, dir: dir, grace: graceToEnd}
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// raise does the work of Up inside a claimed, empty folder.
func raise(ctx context.Context, o Options, dir string, out io.Writer) (lab *Lab, err error) {
	folders, progress := []string{"log", "datastore", "frozen"}, io.Discard
	if o.OpenStack == kindReal {
		folders, progress = append(folders, realcloud.WorkName), out
	}
	for _, folder := range folders {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			return nil, err
		}
	}
	lab, err = prepare(o, dir)
	if err != nil {
		return nil, err
	}
	var children []*child
	defer func() {
		if err != nil {
			for _, c := range children {
				c.end()
			}
		}
	}()
	for _, p := range parts(dir) {
		c, err := p.start(o.Executable)
		if err != nil {
			return nil, err
		}
		children = append(children, c)
	}
	lab.VCenter.PID, lab.OpenStack.PID = children[0].pid, children[1].pid
	if err := children[0].awaitReady(ctx, io.Discard, lab.VCenter.takeReady); err != nil {
		return nil, err
	}
	var account account
	if err := children[1].awaitReady(ctx, progress, func(raw []byte) error { return lab.OpenStack.takeReady(raw, &account) }); err != nil {
		return nil, err
	}
	if err := writeClouds(lab, account); err != nil {
		return nil, err
	}
	if err := answers(ctx, lab); err != nil {
		return nil, err
	}
	if err := writePrivate(filepath.Join(dir, "env.sh"), []byte(environmentScript(lab))); err != nil {
		return nil, err
	}
	// Last: whoever sees lab.json sees a whole lab.
	return lab, writeJSON(filepath.Join(dir, labName), lab)
}

// prepare writes certificates, passwords and settings, and fills in what is
// known before the servers run.
func prepare(o Options, dir string) (*Lab, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := writePrivate(in("ca.pem"), ca.pem); err != nil {
		return nil, err
	}
	for _, name := range []string{"vcenter", "vcenter-restricted", "openstack"} {
		password, err := newPassword()
		if err != nil {
			return nil, err
		}
		if err := writePrivate(in(name+".password"), []byte(password)); err != nil {
			return nil, err
		}
	}
	lab := &Lab{Dir: dir, Profile: "vcenter", Guest: string(o.Guest)}
	lab.VCenter = VCenter{Username: "administrator@vsphere.local", PasswordFile: in("vcenter.password"), CA: in("ca.pem"),
		RestrictedUsername: "vmferry@vsphere.local", RestrictedPasswordFile: in("vcenter-restricted.password"),
		Control: in("vcenter.sock"), VMPath: "/DC0/vm/" + vmName, DatastoreDir: in("datastore")}
	lab.OpenStack = OpenStack{Kind: o.OpenStack, Cloud: "lab", CloudsYAML: in("clouds.yaml"), CA: in("ca.pem"), Control: in("openstack.sock"),
		ByID: in("by-id"), IdentityDir: in("identity"), VolumesDir: in("volumes"), VolumeType: "lab"}
	lab.OpenStack.MountDir = in("mount-bin")
	if err := os.Mkdir(lab.OpenStack.MountDir, 0o700); err != nil && !os.IsExist(err) {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(lab.OpenStack.MountDir, "mount"), devices.MountProgram, 0o700); err != nil {
		return nil, err
	}
	if o.ESXi {
		lab.Profile = "esxi"
		lab.VCenter.Username, lab.VCenter.RestrictedUsername = "root", "vmferry"
		lab.VCenter.VMPath = "/ha-datacenter/vm/" + vmName
	}
	var roots []string
	for i := 1; i <= o.Proxies; i++ {
		name := fmt.Sprintf("proxy%02d", i)
		roots = append(roots, filepath.Join(dir, "proxies", name))
		lab.VCenter.Proxies = append(lab.VCenter.Proxies,
			Proxy{VMPath: strings.TrimSuffix(lab.VCenter.VMPath, vmName) + name, Root: roots[i-1]})
	}
	if lab.VCenter.SHA256, err = ca.issue(dir, "vcenter"); err != nil {
		return nil, err
	}
	if _, err := ca.issue(dir, "openstack"); err != nil {
		return nil, err
	}
	err = writeJSON(in("vcenter.json"), vcenterSettings{
		Listen: "127.0.0.1:0", Cert: in("vcenter.crt"), Key: in("vcenter.key"),
		Username: lab.VCenter.Username, PasswordFile: lab.VCenter.PasswordFile,
		RestrictedUsername: lab.VCenter.RestrictedUsername, RestrictedPasswordFile: lab.VCenter.RestrictedPasswordFile, ControlSocket: lab.VCenter.Control,
		Dir: lab.VCenter.DatastoreDir, FrozenDir: in("frozen"), ESXi: o.ESXi, VMName: vmName, Guest: string(o.Guest),
		Disks: o.Disks, WriterRate: o.WriterRate, ReadyFile: in("vcenter.ready"), ESXiSSHDir: in("esxi"), SecondVM: o.SecondVM, ProxyRoots: roots, Devices: o.Devices})
	if err != nil {
		return nil, err
	}
	return lab, writeJSON(in("openstack.json"), openstackSettings{
		Listen: "127.0.0.1:0", Cert: in("openstack.crt"), Key: in("openstack.key"), ControlSocket: lab.OpenStack.Control,
		MetadataListen: "127.0.0.1:0", Dir: dir, Devices: o.Devices, ReadyFile: in("openstack.ready"),
		PasswordFile: in("openstack.password"), TokenLifetime: int(o.TokenLifetime.Seconds()), Heat: o.Heat})
}

// takeReady reads what the vCenter says of itself.
func (v *VCenter) takeReady(raw []byte) error {
	var ready struct {
		Endpoint string          `json:"endpoint"`
		Port     int             `json:"port"`
		VMPath   string          `json:"vm_path"`
		MACs     []string        `json:"macs"`
		ESXiSSH  *esxissh.Access `json:"esxi_ssh"`
	}
	if err := json.Unmarshal(raw, &ready); err != nil {
		return fmt.Errorf("vcenter.ready: %w", err)
	}
	v.Endpoint = ready.Endpoint
	if v.Endpoint == "" && ready.Port > 0 {
		v.Endpoint = "127.0.0.1:" + strconv.Itoa(ready.Port)
	}
	if v.Endpoint == "" {
		return errors.New("vcenter.ready names neither endpoint nor port")
	}
	v.MACs, v.ESXiSSH = ready.MACs, ready.ESXiSSH
	if ready.VMPath != "" {
		v.VMPath = ready.VMPath
	}
	return nil
}

// account is who the lab's user is at OpenStack.
type account struct {
	Username string `json:"username"`
	Project  string `json:"project_name"`
	Domain   string `json:"domain_name"`
	Region   string `json:"region_name"`
	// Of the user admin in the same project; only the real OpenStack has one.
	AdminPasswordFile string `json:"admin_password_file"`
}

// takeReady reads what the OpenStack says of itself: fields as in lab.json.
func (s *OpenStack) takeReady(raw []byte, who *account) error {
	if err := json.Unmarshal(raw, s); err != nil {
		return fmt.Errorf("openstack.ready: %w", err)
	}
	if err := json.Unmarshal(raw, who); err != nil {
		return fmt.Errorf("openstack.ready: %w", err)
	}
	for name, value := range map[string]string{"auth_url": s.AuthURL, "metadata_url": s.MetadataURL, "instance_id": s.InstanceID,
		"network_id": s.NetworkID, "subnet_id": s.SubnetID, "flavor_id": s.FlavorID, "username": who.Username, "project_name": who.Project} {
		if value == "" {
			return fmt.Errorf("openstack.ready does not name %s", name)
		}
	}
	return nil
}

// answers checks both servers over TLS with the lab's CA, the way clients will.
func answers(ctx context.Context, lab *Lab) error {
	ca, err := os.ReadFile(lab.VCenter.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("ca.pem holds no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for _, url := range []string{"https://" + lab.VCenter.Endpoint + "/sdk/vimServiceVersions.xml", lab.OpenStack.AuthURL, lab.OpenStack.MetadataURL} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return fmt.Errorf("the lab came up but does not answer: %w", err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode >= 500 {
			return fmt.Errorf("the lab came up but %s answers %s", url, response.Status)
		}
	}
	// The checks are not calls that a test should find in the log.
	for _, socket := range []string{lab.VCenter.Control, lab.OpenStack.Control} {
		if _, status, err := control(ctx, socket, http.MethodDelete, "/calls", nil); err != nil || status != http.StatusOK {
			return fmt.Errorf("the lab came up but %s does not answer (status %d): %v", socket, status, err)
		}
	}
	return nil
}

// chooseDevices: loop devices are what a real attach gives, but need root and a
// kernel that has them.
func chooseDevices(asked string) (string, error) {
	switch asked {
	case "loop", "file":
		return asked, nil
	case "":
		if file, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); err == nil && os.Geteuid() == 0 {
			file.Close()
			return "loop", nil
		}
		return "file", nil
	}
	return "", usageError("--devices %s: loop or file", asked)
}

func writeClouds(lab *Lab, who account) error {
	var b strings.Builder
	b.WriteString("clouds:\n")
	if err := writeCloud(&b, lab, who, lab.OpenStack.Cloud, filepath.Join(lab.Dir, "openstack.password")); err != nil {
		return err
	}
	if who.AdminPasswordFile != "" {
		lab.OpenStack.AdminCloud = lab.OpenStack.Cloud + "-admin"
		who.Username = "admin"
		if err := writeCloud(&b, lab, who, lab.OpenStack.AdminCloud, who.AdminPasswordFile); err != nil {
			return err
		}
	}
	return writePrivate(lab.OpenStack.CloudsYAML, []byte(b.String()))
}

func writeCloud(b *strings.Builder, lab *Lab, who account, name, passwordFile string) error {
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return err
	}
	domain, region := who.Domain, who.Region
	if domain == "" {
		domain = "Default"
	}
	fmt.Fprintf(b, "  %s:\n    auth_type: password\n    auth:\n", name)
	for _, line := range [][2]string{{"auth_url", lab.OpenStack.AuthURL}, {"username", who.Username}, {"password", strings.TrimSpace(string(password))},
		{"project_name", who.Project}, {"user_domain_name", domain}, {"project_domain_name", domain}} {
		fmt.Fprintf(b, "      %s: \"%s\"\n", line[0], line[1])
	}
	if region != "" {
		fmt.Fprintf(b, "    region_name: \"%s\"\n", region)
	}
	fmt.Fprintf(b, "    interface: public\n    identity_api_version: \"3\"\n    cacert: \"%s\"\n    verify: true\n", lab.OpenStack.CA)
	return nil
}

func environmentScript(lab *Lab) string {
	var b strings.Builder
	b.WriteString("# The environment of the vmferry lab: source this file.\n")
	for _, line := range [][2]string{
		{"OS_CLIENT_CONFIG_FILE", lab.OpenStack.CloudsYAML},
		{"OS_CLOUD", lab.OpenStack.Cloud},
		{"VMFERRY_METADATA_URL", lab.OpenStack.MetadataURL},
		{"VMFERRY_DEVICE_DIR", lab.OpenStack.ByID},
		{"VMFERRY_DEVICE_IDENTITY", lab.OpenStack.IdentityDir},
		{"VMFERRY_VMWARE_CA", lab.VCenter.CA},
		{"VMFERRY_LAB_DIR", lab.Dir},
	} {
		fmt.Fprintf(&b, "export %s=%s\n", line[0], quote(line[1]))
	}
	return b.String()
}

// quote writes a word for the shell.
func quote(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// defaultOptions are what `up` does without flags.
func defaultOptions() Options {
	return Options{Dir: DefaultDir(), WriterRate: guest.DefaultRate, Guest: guest.Plain, Disks: guest.DefaultDisks(), OpenStack: kindStandIn}
}
