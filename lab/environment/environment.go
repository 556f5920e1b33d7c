// Package environment brings the lab up and down: certificates, passwords, the
// two servers as background processes, and the files that tell others where
// everything is. It starts the servers by this program's own subcommands and
// knows of them only their settings and what their ready files say.
package environment

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"vmferry.dev/lab/esxissh"
)

// Lab is DIR/lab.json.
type Lab struct {
	Dir       string    `json:"dir"`
	Profile   string    `json:"profile"`         // vcenter or esxi
	Guest     string    `json:"guest,omitempty"` // plain or linux; absent in a replay
	VCenter   VCenter   `json:"vcenter"`
	OpenStack OpenStack `json:"openstack"`
	// Recording is the folder that a replay answers from; absent in a lab.
	Recording string `json:"recording,omitempty"`
}

// VCenter is the source side of a lab.
type VCenter struct {
	Endpoint     string `json:"endpoint"`
	Username     string `json:"username"`
	PasswordFile string `json:"password_file"`
	CA           string `json:"ca"`
	SHA256       string `json:"sha256"`
	// A second user with the role of `vmferry check --print-role`; absent in a replay.
	RestrictedUsername     string `json:"restricted_username,omitempty"`
	RestrictedPasswordFile string `json:"restricted_password_file,omitempty"`
	Control                string `json:"control"`
	PID                    int    `json:"pid"`
	VMPath                 string `json:"vm_path"`
	DatastoreDir           string `json:"datastore_dir"`
	// The ESXi host's SSH; absent in a replay and where it cannot be (docs/lab.md).
	ESXiSSH *esxissh.Access `json:"esxi_ssh,omitempty"`
	// MACs of the guest's network cards, in their order.
	MACs []string `json:"macs"`
	// VMs that disks of others can be attached to; none unless they were asked for.
	Proxies []Proxy `json:"proxies,omitempty"`
}

// Proxy is a VM and the folder with what its guest sees: dev/disk, sys.
type Proxy struct {
	VMPath string `json:"vm_path"`
	Root   string `json:"root"`
}

// OpenStack is the target side of a lab.
type OpenStack struct {
	Kind        string `json:"kind,omitempty"` // stand-in or real; absent in a replay
	AuthURL     string `json:"auth_url"`
	Cloud       string `json:"cloud"`
	CloudsYAML  string `json:"clouds_yaml"`
	CA          string `json:"ca"`
	Control     string `json:"control"`
	PID         int    `json:"pid"`
	MetadataURL string `json:"metadata_url"`
	InstanceID  string `json:"instance_id"`
	ByID        string `json:"by_id"`
	IdentityDir string `json:"identity_dir"`
	VolumesDir  string `json:"volumes_dir"`
	// A folder for the PATH of whoever connects volumes by os-brick: its mount binds NFS exports of
	// this machine; absent in a replay.
	MountDir   string `json:"mount_dir,omitempty"`
	NetworkID  string `json:"network_id"`
	SubnetID   string `json:"subnet_id"`
	FlavorID   string `json:"flavor_id"`
	VolumeType string `json:"volume_type"`
	// A network of somebody else, and an application credential; absent in a replay.
	SharedNetworkID string `json:"shared_network_id,omitempty"`
	AppCredFile     string `json:"appcred_file,omitempty"`
	// The cloud's administrator in clouds.yaml; only of the real OpenStack.
	AdminCloud string `json:"admin_cloud,omitempty"`
}

// What OpenStack.Kind says.
const (
	kindStandIn = "stand-in"
	kindReal    = "real"
)

const (
	defaultDir = "/var/tmp/vmferry-lab"
	// The marker says that a folder is a lab's: nothing without it is ever
	// removed. It is also what up and down lock.
	markerName = ".vmferry-lab"
	labName    = "lab.json"
	vmName     = "web01"
)

// DefaultDir is $VMFERRY_LAB_DIR or /var/tmp/vmferry-lab.
func DefaultDir() string {
	if dir := os.Getenv("VMFERRY_LAB_DIR"); dir != "" {
		return dir
	}
	return defaultDir
}

// ErrNoLab is what Load says of a folder without a lab.
var ErrNoLab = errors.New("no lab there")

// Load reads DIR/lab.json.
func Load(dir string) (*Lab, error) {
	raw, err := os.ReadFile(filepath.Join(dir, labName))
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("%s: %w: start one with `vmferry lab up`", dir, ErrNoLab)
	}
	if err != nil {
		return nil, err
	}
	lab := &Lab{}
	if err := json.Unmarshal(raw, lab); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, labName), err)
	}
	return lab, nil
}

// claim makes or takes over the folder of a lab and locks it. fresh is true when
// there was no lab in it. The lock ends with the returned file.
func claim(dir string) (lock *os.File, fresh bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, false, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return nil, false, err
	}
	if err := ours(dir); err != nil {
		return nil, false, err
	}
	marker := filepath.Join(dir, markerName)
	if _, err := os.Lstat(marker); os.IsNotExist(err) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, false, err
		}
		if len(entries) > 0 {
			return nil, false, fmt.Errorf("%s has files in it and is not a lab's folder: give another one with --dir", dir)
		}
		fresh = true
	}
	lock, err = lockMarker(marker, os.O_CREATE)
	return lock, fresh, err
}

func lockMarker(marker string, flags int) (*os.File, error) {
	lock, err := os.OpenFile(marker, os.O_RDWR|syscall.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: another up or down is at work there: wait for it to end", filepath.Dir(marker))
	}
	return lock, nil
}

// ours refuses a folder that somebody else could have prepared: /var/tmp is open
// to everyone.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder: give another one with --dir", dir)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user: give another folder with --dir", dir)
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// checkDir refuses paths that the lab's parts could not use.
func checkDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if dir == "/" {
		return "", errors.New("/ cannot be a lab's folder")
	}
	// sun_path has 108 bytes with the closing zero, see unix(7).
	if longest := filepath.Join(dir, "openstack.sock"); len(longest) > 107 {
		return "", fmt.Errorf("%s: the path is too long for a unix socket in it (%d of 107 bytes): give a shorter --dir", dir, len(longest))
	}
	if strings.ContainsAny(dir, "\n\r\"\\") {
		return "", fmt.Errorf("%q: the path has characters that would need quoting in clouds.yaml: give another --dir", dir)
	}
	return dir, nil
}

func writeJSON(path string, value interface{}) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(path, append(raw, '\n'))
}

// writePrivate writes a 0600 file whole or not at all.
func writePrivate(path string, content []byte) error {
	temporary := path + ".new"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
	}
	return err
}
