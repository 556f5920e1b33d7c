// What the cloud holds when it starts: one project with a user, three
// networks, flavors, and the conversion host as a running server.
package openstack

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"vmferry.dev/lab/devices"
)

const (
	projectName = "lab"
	userName    = "lab"
	adminName   = "admin"
	regionName  = "RegionOne"
	zoneName    = "nova"
	hostName    = "conversion-host"
)

// newCloud makes a cloud with everything in it but no listener.
func newCloud(config Config, password string) (*Cloud, error) {
	c := &Cloud{
		config: config, password: password, done: make(chan struct{}), tokens: map[string]*token{}, failedImports: map[string]string{},
		devices: devices.Folder{Dir: config.Dir, Loop: config.Devices == "loop"},
		settings: settings{CreateDelayMS: 200, AttachDelayMS: 300, ServerDelayMS: 600, TokenTTLS: 3600, MaxDiskDevices: -1, IPAvailability: availabilityForbidden,
			ImportMethods: []string{"glance-direct", "web-download", "copy-image"}},
		quota: quota{Gigabytes: 1000, Volumes: 50, Instances: 10, Cores: 20, RAM: 51200, Ports: 500, Groups: 10, Rules: 100, Floating: 50, ImageMiB: -1},
	}
	if config.TokenLifetime > 0 {
		c.settings.TokenTTLS = config.TokenLifetime
	}
	c.ids = identifiers{project: random(16), user: random(16), admin: random(16), role: random(16), otherProject: random(16)}
	if err := c.devices.Prepare(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.volumesDir(), 0o700); err != nil {
		return nil, err
	}
	c.seedNetworks()
	c.flavors = []flavor{
		{id: "1", name: "m1.tiny", vcpus: 1, ram: 512, extra: obj{}},
		{id: "2", name: "m1.small", vcpus: 1, ram: 2048, extra: obj{}},
		{id: "3", name: "m1.medium", vcpus: 2, ram: 4096, extra: obj{}},
		// As large as the one before, but nobody should get it by chance.
		{id: "4", name: "g1.medium", vcpus: 2, ram: 4096, extra: obj{"resources:VGPU": "1"}},
		{id: "5", name: nowhere, vcpus: 1, ram: 512, extra: obj{"capabilities:hypervisor_type": nowhere}, private: true},
	}
	c.seedConversionHost()
	return c, c.seedAppCredential()
}

func (c *Cloud) seedNetworks() {
	now := time.Now().UTC()
	add := func(name, project string, shared bool, prefix string) {
		_, cidr, _ := net.ParseCIDR(prefix + ".0/24")
		c.networks = append(c.networks, &network{id: newUUID(), name: name, projectID: project, shared: shared, created: now,
			subnets: []*subnet{{id: newUUID(), name: strings.Replace(name, "-net", "-subnet", 1), cidr: cidr,
				gateway: prefix + ".1", first: prefix + ".2", last: prefix + ".254"}}})
	}
	// Documentation ranges of RFC 5737. The second network belongs to somebody
	// else: a member may use it but not choose addresses on it.
	add("lab-net", c.ids.project, false, "192.0.2")
	add("shared-net", c.ids.otherProject, true, "198.51.100")
	// Where floating IPs come from; no server may have a port on it.
	add("public", c.ids.otherProject, false, "203.0.113")
	c.networks[2].external = true
	// Of both families, RFC 2544's and RFC 3849's. Where the second derives addresses from MACs, they cannot be chosen.
	for i, name := range []string{"dual", "slaac"} {
		v4, v6 := fmt.Sprintf("198.18.%d", i+1), fmt.Sprintf("2001:db8:%d::", i+1)
		add(name, c.ids.project, false, v4)
		made := c.networks[len(c.networks)-1]
		made.subnets[0].name = name + "-v4"
		_, cidr, _ := net.ParseCIDR(v6 + "/64")
		made.subnets = append(made.subnets, &subnet{id: newUUID(), name: name + "-v6", cidr: cidr, gateway: v6 + "1", first: v6 + "2",
			last: fmt.Sprintf("2001:db8:%d:0:ffff:ffff:ffff:ffff", i+1)})
		if name == "slaac" {
			made.subnets[1].mode = "slaac"
		}
	}
	for _, g := range [][2]string{{"default", "Default security group"}, {"web", "HTTP and HTTPS from anywhere"}} {
		group := &securityGroup{id: newUUID(), name: g[0], description: g[1], rules: []obj{}}
		group.rules = c.firstRules(group)
		if g[0] == "web" {
			group.rules = append(group.rules, c.rule(group, "ingress", "tcp", 80), c.rule(group, "ingress", "tcp", 443))
		}
		c.groups = append(c.groups, group)
	}
}

// firstRules are those that a group is made with: it lets everything out, and the
// default one its own members in (_create_default_rules of neutron/db/securitygroups_db.py).
func (c *Cloud) firstRules(g *securityGroup) []obj {
	var rules []obj
	for _, family := range []string{"IPv4", "IPv6"} {
		if g.name == "default" {
			in := c.rule(g, "ingress", nil, nil)
			in["ethertype"], in["remote_group_id"] = family, g.id
			rules = append(rules, in)
		}
		out := c.rule(g, "egress", nil, nil)
		out["ethertype"] = family
		rules = append(rules, out)
	}
	return rules
}

func (c *Cloud) rule(g *securityGroup, direction string, protocol, portNumber interface{}) obj {
	return obj{
		"id": newUUID(), "security_group_id": g.id, "direction": direction, "ethertype": "IPv4", "protocol": protocol,
		"port_range_min": portNumber, "port_range_max": portNumber, "remote_ip_prefix": nil, "remote_group_id": nil,
		"remote_address_group_id": nil, "normalized_cidr": nil, "description": "", "tenant_id": c.ids.project,
		"project_id": c.ids.project, "created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z",
		"revision_number": 0, "tags": []string{},
	}
}

// seedConversionHost puts this machine into the cloud as a server that was
// booted from an image.
func (c *Cloud) seedConversionHost() {
	now := time.Now().UTC()
	image := newUUID()
	c.images = []obj{c.newImage(image, obj{"name": "conversion-host-image", "status": "active", "visibility": "private",
		"disk_format": "qcow2", "container_format": "bare", "size": 0})}
	s := &server{id: newUUID(), name: hostName, flavor: c.flavors[0], zone: zoneName, status: "ACTIVE", vmState: "active",
		power: 1, metadata: obj{}, image: image, created: now, updated: now, launched: now, ownPorts: map[string]bool{}}
	p, err := c.serverPort(plannedNic{network: c.networks[0]}, s)
	if err != nil {
		panic(err) // an empty network has a free address
	}
	p.deviceID, p.deviceOwner, p.status = s.id, "compute:"+zoneName, "ACTIVE"
	s.ports, s.ownPorts[p.id] = []*port{p}, true
	c.servers = append(c.servers, s)
	c.ids.instance = s.id
}

// seedAppCredential makes an application credential and writes it down.
func (c *Cloud) seedAppCredential() error {
	made := &appCredential{id: random(16), name: "lab", secret: random(32)}
	c.appCreds = append(c.appCreds, made)
	raw, err := json.MarshalIndent(obj{"id": made.id, "name": made.name, "secret": made.secret, "user_id": c.ids.user}, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(c.config.Dir, "appcred.json")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o600)
}

// ready is what the ready file says.
func (c *Cloud) ready(port, metadataPort int) obj {
	return obj{
		"port": port, "metadata_port": metadataPort,
		"auth_url":     fmt.Sprintf("https://127.0.0.1:%d/identity/v3", port),
		"metadata_url": fmt.Sprintf("http://127.0.0.1:%d%s", metadataPort, metadataPath),
		"username":     userName, "project_name": projectName, "domain_name": "Default", "region_name": regionName,
		"project_id": c.ids.project, "user_id": c.ids.user, "instance_id": c.ids.instance,
		"network_id": c.networks[0].id, "subnet_id": c.networks[0].subnets[0].id, "shared_network_id": c.networks[1].id,
		"external_network_id": c.networks[2].id, "image_id": text(c.images[0]["id"]),
		"flavor_id": c.flavors[1].id, "volume_type": volumeTypes[0].name, "availability_zone": zoneName,
		"appcred_file": filepath.Join(c.config.Dir, "appcred.json"),
	}
}

// stableUUID is an id that is the same in every run.
func stableUUID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

var uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$`)

func looksLikeUUID(s string) bool { return uuidForm.MatchString(s) }

func encodeQuery(query map[string][]string) string { return url.Values(query).Encode() }
