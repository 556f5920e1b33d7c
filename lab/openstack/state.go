// The cloud's state: everything the calls read and change, under one lock. It
// lives in memory and ends with the process; only volume bytes are files.
package openstack

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	"sync"
	"time"

	"vmferry.dev/lab/devices"
)

// Cloud is one running stand-in.
type Cloud struct {
	config  Config
	devices devices.Folder

	mu       sync.Mutex
	settings settings
	quota    quota
	ids      identifiers
	password string
	tokens   map[string]*token
	issued   []string // every token ever given out, oldest first
	appCreds []*appCredential
	volumes  []*volume  // oldest first
	messages []*message // newest first
	servers  []*server  // oldest first
	ports    []*port
	networks []*network
	groups   []*securityGroup
	floating []*floatingIP
	flavors  []flavor
	keypairs []*keypair

	serverGroupsOfProject []*serverGroup
	images                []obj
	failedImports         map[string]string // why, by image

	done    chan struct{}  // closed at the end
	pending sync.WaitGroup // acts that were accepted and are not finished
}

// settings are what POST /settings changes.
type settings struct {
	CreateDelayMS int `json:"create_delay_ms"`
	AttachDelayMS int `json:"attach_delay_ms"`
	ServerDelayMS int `json:"server_delay_ms"`
	TokenTTLS     int `json:"token_ttl_s"`
	// MaxDiskDevices is Nova's [compute]max_disk_devices_to_attach; -1 = without limit.
	MaxDiskDevices int `json:"max_disk_devices"`
	// IPAvailability: forbidden, hidden or shown.
	IPAvailability string `json:"ip_availability"`
	// ManageByMembers: by Cinder's default policy only administrators manage volumes that the back end has already.
	ManageByMembers bool `json:"manage_by_members"`
	// ImportMethods is Glance's enabled_import_methods; ImportConverts its plugin image_conversion, to raw.
	ImportMethods  []string `json:"import_methods"`
	ImportConverts bool     `json:"import_converts"`
	// ImageBytesPerS slows the taking of an image's bytes; 0 = not.
	ImageBytesPerS int `json:"image_bytes_per_s"`
}

// quota are the limits of the one project; -1 is without limit.
type quota struct {
	Gigabytes int `json:"gigabytes"`
	Volumes   int `json:"volumes"`
	Instances int `json:"instances"`
	Cores     int `json:"cores"`
	RAM       int `json:"ram"`
	Ports     int `json:"ports"`
	Groups    int `json:"security_groups"`
	Rules     int `json:"security_group_rules"`
	Floating  int `json:"floating_ips"`
	ImageMiB  int `json:"image_mib"` // Glance's image_size_total
}

// identifiers are the ids that are fixed when the cloud is made.
type identifiers struct {
	project, user, admin, role, otherProject, instance string
}

type volume struct {
	id, name      string
	description   interface{} // string or nil
	status        string
	size          int // GiB
	metadata      obj
	imageMetadata obj
	bootable      bool
	volumeType    volumeType
	zone          string
	created       time.Time
	updated       time.Time
	attachment    *attachment
	file          string
	export        string // the folder of file
	token         *token // who made it
}

// attachment joins a volume and a server: Nova's block device mapping and
// Cinder's attachment at once. One that a user made with Cinder has no server.
type attachment struct {
	id, mapping string // Cinder's attachment id, Nova's mapping id
	volume      *volume
	server      *server
	named       interface{} // instance_uuid of one without a server; mostly nil
	device      string      // /dev/vdb
	tag         interface{}
	bootIndex   interface{} // int or nil
	deleteToo   bool        // delete_on_termination
	attached    bool        // Cinder's attach_status is "attached"
	at          time.Time
	block       *devices.Device // only at the conversion host
	connection  obj             // connection_info, of one without a server
}

type server struct {
	id, name    string
	description interface{}
	flavor      flavor
	zone        string
	status      string // ACTIVE BUILD ERROR SHUTOFF
	vmState     string
	task        interface{}
	power       int
	metadata    obj
	tags        []string
	key         interface{}
	configDrive string
	image       interface{}
	userData    string   // as it was sent
	groups      []string // names asked for at creation
	created     time.Time
	updated     time.Time
	launched    time.Time
	fault       *serverFault
	attachments []*attachment // boot order, then in order of attaching
	ports       []*port
	ownPorts    map[string]bool // made by Nova, deleted with the server
	deleted     bool
}

type serverFault struct {
	code    int
	message string
	at      time.Time
}

type flavor struct {
	id, name              string
	vcpus, ram, disk, use int
	extra                 obj
	private               bool
}

type keypair struct {
	name, public, fingerprint string
	created                   time.Time
}

type volumeType struct {
	id, name, description string
	encrypted, shared     bool
}

// later runs an act after a delay unless the cloud has ended. Every act that
// OpenStack answers before it is done goes through here.
func (c *Cloud) later(delayMS int, act func()) {
	c.pending.Add(1)
	go func() {
		defer c.pending.Done()
		if delayMS > 0 {
			timer := time.NewTimer(time.Duration(delayMS) * time.Millisecond)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-c.done:
				return
			}
		}
		select {
		case <-c.done:
		default:
			act()
		}
	}()
}

// locked runs act under the lock.
func (c *Cloud) locked(act func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	act()
}

func (c *Cloud) volume(id string) *volume {
	for _, v := range c.volumes {
		if v.id == id {
			return v
		}
	}
	return nil
}

func (c *Cloud) server(id string) *server {
	for _, s := range c.servers {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (c *Cloud) port(id string) *port {
	for _, p := range c.ports {
		if p.id == id {
			return p
		}
	}
	return nil
}

func (v *volume) touch()                  { v.updated = time.Now().UTC() }
func (v *volume) setStatus(status string) { v.status = status; v.touch() }
func (s *server) touch()                  { s.updated = time.Now().UTC() }

// bytes is the size of a volume's device.
func (v *volume) bytes() int64 { return int64(v.size) << 30 }

// random gives n random bytes in hexadecimal.
func random(n int) string {
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		log.Fatalf("no random numbers: %v", err)
	}
	return hex.EncodeToString(raw)
}

func newUUID() string {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		log.Fatalf("no random numbers: %v", err)
	}
	raw[6], raw[8] = raw[6]&0x0f|0x40, raw[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[0:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}

// The services' ways to write a time.
func cinderTime(t time.Time) interface{} { return stamp(t, "2006-01-02T15:04:05.000000") }
func novaTime(t time.Time) interface{}   { return stamp(t, "2006-01-02T15:04:05Z") }
func keystoneTime(t time.Time) string    { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

func stamp(t time.Time, layout string) interface{} {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(layout)
}
