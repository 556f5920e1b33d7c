// Where everything of a real cloud lies, which ports it listens on, and the
// settings of its services, which are templates beside this file.
package realcloud

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"vmferry.dev/lab/devices"
)

//go:embed etc shim python
var files embed.FS

const (
	// WorkName is the folder below a lab's that holds all of a real cloud. That
	// it exists tells a lab with a real cloud from one with the stand-in.
	WorkName = "cloud"

	ferryHost  = "ferry-host" // compute host of the conversion host
	hypervisor = "hypervisor" // compute host of all other servers
	physnet    = "physnet1"

	ferryProgram = "nova_compute_ferry.py" // nova-compute on ferryHost

	adminPassword = "admin.password" // file below Work
)

// backends of Cinder, each with a volume type of its name. The first is the default.
var backends = []string{"lab", "fast"}

// services with a port of their own, and what the others need to talk to them.
var listening = []string{"keystone", "glance", "cinder", "nova", "placement", "neutron", "heat", "rabbit", "rabbit-dist", "epmd"}

// layout knows the places and names. It is what the templates see.
type layout struct {
	Dir      string // the lab's folder
	Work     string // everything of the cloud, Dir/cloud
	Log      string
	Etc      string
	Unpacked string // the packages that are only unpacked
	Front    string // https://127.0.0.1:PORT, what users of the cloud see
	Bridge   string // of the flat network
	Physnet  string
	NodeName string // RabbitMQ's
	HostUUID string // libvirt's
	Backends []string
	FixedKey string // of encrypted volumes

	TokenLifetime int // seconds

	FerryHost, Hypervisor string

	ports    map[string]int
	claims   []net.Listener // one for each port, see choosePorts
	password string         // of the services' users, and of Keystone's admin
}

func newLayout(dir, unpacked string, frontPort, tokenLifetime int) (*layout, error) {
	l := &layout{Dir: dir, Work: filepath.Join(dir, WorkName), Log: filepath.Join(dir, "log"), Unpacked: unpacked,
		Front: fmt.Sprintf("https://127.0.0.1:%d", frontPort), Physnet: physnet, Backends: backends,
		FerryHost: ferryHost, Hypervisor: hypervisor, ports: map[string]int{}, TokenLifetime: tokenLifetime}
	l.Etc = l.in("etc")
	// Two labs side by side must not share a name on this machine.
	sum := sha256.Sum256([]byte(dir))
	short := hex.EncodeToString(sum[:4])
	l.Bridge, l.NodeName = "vmf"+short, "vmferry-"+short+"@localhost"
	var raw [66]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, err
	}
	l.HostUUID = uuidOf(raw[:16])
	l.password = base64.RawURLEncoding.EncodeToString(raw[16:34])
	l.FixedKey = hex.EncodeToString(raw[34:])
	if longest := l.in("libvirt/run/libvirt/libvirt-admin-sock"); len(longest) > 107 {
		return nil, fmt.Errorf("%s: the path is too long for a unix socket in it (%d of 107 bytes): give a shorter --dir", dir, len(longest))
	}
	return l, l.choosePorts()
}

func uuidOf(raw []byte) string {
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[0:4], raw[4:6], raw[6:8], raw[8:10], raw[10:16])
}

// choosePorts takes ports below those that the kernel gives to outgoing
// connections: nobody gets one by chance between here and the service's start, and
// no other cloud, which looks for the name that is kept until this process ends.
func (l *layout) choosePorts() error {
	var held []net.Listener
	defer func() {
		for _, listener := range held {
			listener.Close()
		}
	}()
	for attempt := 0; len(held) < len(listening); attempt++ {
		if attempt == 1000 {
			return fmt.Errorf("no free ports on 127.0.0.1 between 10000 and 30000")
		}
		number, err := rand.Int(rand.Reader, big.NewInt(20000))
		if err != nil {
			return err
		}
		port := 10000 + int(number.Int64())
		claim, err := net.Listen("unix", fmt.Sprintf("@vmferry-lab-port-%d", port))
		if err != nil {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			claim.Close()
			continue
		}
		l.claims = append(l.claims, claim)
		l.ports[listening[len(held)]] = port
		held = append(held, listener)
	}
	return nil
}

func (l *layout) in(name string) string { return filepath.Join(l.Work, name) }

// Port of a service on 127.0.0.1.
func (l *layout) Port(service string) (int, error) {
	port := l.ports[service]
	if port == 0 {
		return 0, fmt.Errorf("%s has no port", service)
	}
	return port, nil
}

func (l *layout) listens(service string) string { return fmt.Sprintf("127.0.0.1:%d", l.ports[service]) }

// URL of a service for the other services: plain, and not through the front.
func (l *layout) URL(service string) string { return "http://" + l.listens(service) }

// SQL is the address of a database: a socket that only this user can open.
func (l *layout) SQL(database string) string {
	return fmt.Sprintf("mysql+pymysql://root@localhost/%s?unix_socket=%s&charset=utf8", database, l.sqlSocket())
}

func (l *layout) sqlSocket() string { return l.in("mysql.sock") }

// Rabbit is the address of RabbitMQ; its one account may come from 127.0.0.1 only.
func (l *layout) Rabbit() string { return "rabbit://guest:guest@" + l.listens("rabbit") + "/" }

// LibvirtURI of the lab's own libvirtd.
func (l *layout) LibvirtURI() string {
	return "qemu+unix:///system?socket=" + l.in("libvirt/run/libvirt/libvirt-sock")
}

// Account is who a service of that name is.
func (l *layout) Account(user string) string {
	return strings.Join([]string{"auth_url = " + l.URL("keystone") + "/v3", "auth_type = password", "user_domain_name = Default",
		"username = " + user, "password = " + l.password}, "\n")
}

// Auth is how a service of that name signs in.
func (l *layout) Auth(user string) string {
	return l.Account(user) + "\nproject_domain_name = Default\nproject_name = service\nregion_name = RegionOne"
}

// Middleware is the section by which a service checks its callers' tokens. It
// may believe a token for as long as tokenBelieved says.
func (l *layout) Middleware(user string) string {
	return fmt.Sprintf("[keystone_authtoken]\nwww_authenticate_uri = %s/identity\ninterface = internal\ntoken_cache_time = %d\n"+
		"service_token_roles = service\nservice_token_roles_required = true\n%s\n", l.Front, int(tokenBelieved.Seconds()), l.Auth(user))
}

// export is the folder of a backend's volumes.
func (l *layout) export(backend string) string { return filepath.Join(l.Dir, "volumes", backend) }

// folders that must exist before anything starts.
var folders = []string{"etc", "run", "tmp", "shim", "python", "rabbit", "keystone/fernet", "keystone/credential", "glance/images",
	"glance/staging", "glance/tasks", "glance/work", "glance/lock", "cinder/mnt", "cinder/lock", "cinder/conversion",
	"nova/instances", "nova/ferry", "nova/mnt", "nova/lock", "neutron/lock", "heat/lock", "placement", "empty",
	"libvirt/etc", "libvirt/run", "libvirt/state", "libvirt/cache", "libvirt/log"}

// write fills the folder: settings, shims, keys. Nothing runs yet.
func (l *layout) write() error {
	for _, folder := range folders {
		if err := os.MkdirAll(l.in(folder), 0o700); err != nil {
			return err
		}
	}
	places := map[string]string{"placement.conf": l.in("placement/placement.conf"), "libvirtd.conf": l.in("libvirt/libvirtd.conf"),
		"qemu.conf": l.in("libvirt/etc/qemu.conf"), "rabbitmq.conf": l.in("rabbit/rabbitmq.conf")}
	templates, err := template.New("").ParseFS(files, "etc/*")
	if err != nil {
		return err
	}
	for _, t := range templates.Templates() {
		name := t.Name()
		if !strings.Contains(name, ".") || name == "nova-parts.conf" {
			continue
		}
		place := places[name]
		if place == "" {
			place = filepath.Join(l.Etc, name)
		}
		var text bytes.Buffer
		if err := t.Execute(&text, l); err != nil {
			return err
		}
		if err := os.WriteFile(place, text.Bytes(), 0o600); err != nil {
			return err
		}
	}
	for _, backend := range backends {
		if err := os.WriteFile(filepath.Join(l.Etc, backend+".shares"), []byte("127.0.0.1:"+l.export(backend)+"\n"), 0o600); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"rabbit/enabled_plugins": "[].\n", "rabbit/env.conf": "", adminPassword: l.password + "\n"} {
		if err := os.WriteFile(l.in(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := l.writePrograms(); err != nil {
		return err
	}
	if err := l.writeAccounts(); err != nil {
		return err
	}
	return l.writeKeys()
}

func (l *layout) adminPasswordFile() string { return l.in(adminPassword) }

// writePrograms puts the shims on what will be the services' PATH.
func (l *layout) writePrograms() error {
	for name, as := range map[string][]string{"sudo": {"sudo"}, "rootwrap": {"cinder-rootwrap", "nova-rootwrap", "neutron-rootwrap"},
		"nothing": {"mount.nfs", "ebtables"}, "private-libvirtd": {"private-libvirtd"}} {
		raw, err := files.ReadFile("shim/" + name)
		if err != nil {
			return err
		}
		for _, program := range as {
			if err := os.WriteFile(l.in("shim/"+program), raw, 0o700); err != nil {
				return err
			}
		}
	}
	if err := os.WriteFile(l.in("shim/mount"), devices.MountProgram, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"vmferry_lab_driver.py", "vmferry_lab_storage.py", ferryProgram} {
		raw, err := files.ReadFile("python/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(l.in("python/"+name), raw, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// writeAccounts makes the passwd and group that libvirtd sees.
func (l *layout) writeAccounts() error {
	for name, line := range map[string]string{"passwd": "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n", "group": "libvirt-qemu:x:64055:\n"} {
		raw, err := os.ReadFile("/etc/" + name)
		if err != nil {
			return err
		}
		if !bytes.Contains(raw, []byte("\nlibvirt-qemu:")) {
			raw = append(raw, line...)
		}
		if err := os.WriteFile(l.in("libvirt/"+name), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeKeys makes Keystone's keys as `keystone-manage fernet_setup` and
// credential_setup do: 32 random bytes each, 0 the next one and 1 the first.
func (l *layout) writeKeys() error {
	for _, repository := range []string{"fernet", "credential"} {
		for _, name := range []string{"0", "1"} {
			var raw [32]byte
			if _, err := rand.Read(raw[:]); err != nil {
				return err
			}
			key := base64.URLEncoding.EncodeToString(raw[:])
			if err := os.WriteFile(l.in("keystone/"+repository+"/"+name), []byte(key), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
