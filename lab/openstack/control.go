// The control socket's own paths: tokens, quota, settings and the state as a
// test wants to see it.
package openstack

import (
	"net"
	"net/http"
	"strings"

	"vmferry.dev/lab/calls"
)

func (c *Cloud) control(log *calls.Log, faults *calls.Faults) http.Handler {
	mux := http.NewServeMux()
	calls.Register(mux, log, faults)
	mux.HandleFunc("/tokens/revoke", only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
		revoked := 0
		c.locked(func() {
			revoked = len(c.tokens)
			c.tokens = map[string]*token{}
		})
		calls.Reply(w, http.StatusOK, obj{"revoked": revoked})
	}))
	mux.HandleFunc("/secrets", only(http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		calls.Reply(w, http.StatusOK, append([]string{}, c.issued...))
	}))
	mux.HandleFunc("/volumes/", only(http.MethodPost, c.controlVolume))
	mux.HandleFunc("/flavors", only(http.MethodPost, c.controlFlavor))
	mux.HandleFunc("/subnets/", only(http.MethodPost, c.controlSubnet))
	mux.HandleFunc("/quota", only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		next := c.quota // fields left out keep their value
		if err := calls.Decode(r, &next); err != nil {
			calls.Refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		c.quota = next
		calls.Reply(w, http.StatusOK, c.quota)
	}))
	mux.HandleFunc("/settings", only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		next := c.settings
		if err := calls.Decode(r, &next); err != nil {
			calls.Refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		if next.CreateDelayMS < 0 || next.AttachDelayMS < 0 || next.ServerDelayMS < 0 || next.TokenTTLS < 0 {
			calls.Refuse(w, http.StatusBadRequest, "settings cannot be negative")
			return
		}
		if next.MaxDiskDevices < -1 || next.MaxDiskDevices == 0 {
			calls.Refuse(w, http.StatusBadRequest, "max_disk_devices is at least 1, or -1 for no limit")
			return
		}
		if !contains([]string{availabilityForbidden, availabilityHidden, availabilityShown}, next.IPAvailability) {
			calls.Refuse(w, http.StatusBadRequest, "ip_availability is forbidden, hidden or shown")
			return
		}
		c.settings = next
		calls.Reply(w, http.StatusOK, c.settings)
	}))
	mux.HandleFunc("/state", only(http.MethodGet, func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		calls.Reply(w, http.StatusOK, c.state())
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		calls.Refuse(w, http.StatusNotFound, "the control socket knows /calls /faults /secrets /tokens/revoke /quota /settings /state /flavors /subnets/ID/pool /volumes/ID/metadata")
	})
	return mux
}

// controlVolume is an administrator who writes a volume's metadata anew.
func (c *Cloud) controlVolume(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/volumes/"), "/")
	if len(parts) != 2 || parts[1] != "metadata" {
		calls.Refuse(w, http.StatusNotFound, "of a volume the control socket knows POST /volumes/ID/metadata")
		return
	}
	var given map[string]string
	if err := calls.Decode(r, &given); err != nil {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if given == nil {
		calls.Refuse(w, http.StatusBadRequest, "needs the new metadata as a JSON object, {} for none")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.volume(parts[0])
	if v == nil {
		calls.Refuse(w, http.StatusNotFound, "no volume "+parts[0])
		return
	}
	v.metadata = obj{}
	for name, value := range given {
		v.metadata[name] = value
	}
	calls.Reply(w, http.StatusOK, copied(v.metadata))
}

// controlFlavor is an administrator who makes a flavor.
func (c *Cloud) controlFlavor(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		ID    string `json:"id"`
		Name  string `json:"name"`
		VCPUs int    `json:"vcpus"`
		RAM   int    `json:"ram"`
		Disk  int    `json:"disk"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if ask.ID == "" || ask.Name == "" || ask.VCPUs < 1 || ask.RAM < 1 || ask.Disk < 0 {
		calls.Refuse(w, http.StatusBadRequest, "needs id, name, vcpus, ram, and disk of 0 or more")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.flavors {
		if f.id == ask.ID || f.name == ask.Name {
			calls.Refuse(w, http.StatusConflict, "there is such a flavor already")
			return
		}
	}
	c.flavors = append(c.flavors, flavor{id: ask.ID, name: ask.Name, vcpus: ask.VCPUs, ram: ask.RAM, disk: ask.Disk, extra: obj{}})
	calls.Reply(w, http.StatusOK, ask)
}

// controlSubnet is an administrator who gives a subnet another allocation pool.
func (c *Cloud) controlSubnet(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/subnets/"), "/")
	if len(parts) != 2 || parts[1] != "pool" {
		calls.Refuse(w, http.StatusNotFound, "of a subnet the control socket knows POST /subnets/ID/pool")
		return
	}
	var ask struct {
		Start string `json:"start"`
		End   string `json:"end"`
	}
	if err := calls.Decode(r, &ask); err != nil {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.networks {
		s := n.subnet(parts[0])
		if s == nil {
			continue
		}
		start, end := net.ParseIP(ask.Start), net.ParseIP(ask.End)
		if !usableIn(s, start) || !usableIn(s, end) || !inOrder(start, end) {
			calls.Refuse(w, http.StatusBadRequest, "start and end are two addresses of "+s.cidr.String()+", in order")
			return
		}
		s.first, s.last = start.String(), end.String()
		calls.Reply(w, http.StatusOK, subnetView(n, s))
		return
	}
	calls.Refuse(w, http.StatusNotFound, "no subnet "+parts[0])
}

func only(method string, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			calls.Refuse(w, http.StatusMethodNotAllowed, r.URL.Path+" knows "+method)
			return
		}
		handle(w, r)
	}
}

// state shows volumes, servers and ports with what the calls do not show: files
// and devices.
func (c *Cloud) state() obj {
	volumes, servers, ports := []obj{}, []obj{}, []obj{}
	for _, v := range c.volumes {
		attachments, deviceLink := []obj{}, ""
		if a := v.attachment; a != nil {
			attachments = append(attachments, obj{"id": a.id, "server_id": a.instance(), "device": a.device, "attached": a.attached})
			if a.block != nil {
				deviceLink = a.block.Path
			}
		}
		volumes = append(volumes, obj{
			"id": v.id, "name": v.name, "description": v.description, "size": v.size, "status": v.status,
			"metadata": copied(v.metadata), "image_metadata": copied(v.imageMetadata), "bootable": v.bootable,
			"volume_type": v.volumeType.name, "availability_zone": v.zone, "file": v.file, "attachments": attachments,
			"device": deviceLink,
		})
	}
	for _, s := range c.servers {
		boot, nics := []string{}, []string{}
		for _, a := range s.attachments {
			boot = append(boot, a.volume.id)
		}
		for _, p := range s.ports {
			nics = append(nics, p.id)
		}
		groups := []string{}
		for _, g := range c.serverGroups(s) {
			groups = append(groups, text(g["name"]))
		}
		fault := ""
		if s.fault != nil {
			fault = s.fault.message
		}
		servers = append(servers, obj{
			"id": s.id, "name": s.name, "status": s.status, "task_state": s.task, "volumes": boot, "ports": nics,
			"flavor": s.flavor.name, "availability_zone": s.zone, "security_groups": groups, "metadata": copied(s.metadata),
			"tags": append([]string{}, s.tags...), "key_name": s.key, "fault": fault,
			"image": s.image, "user_data": s.userData, "config_drive": s.configDrive,
		})
	}
	for _, p := range c.ports {
		ports = append(ports, c.portView(p))
	}
	groups, floating, keypairs := []obj{}, []obj{}, []obj{}
	for _, g := range c.groups {
		groups = append(groups, c.groupView(g))
	}
	for _, f := range c.floating {
		floating = append(floating, c.floatingView(f))
	}
	for _, k := range c.keypairs {
		keypairs = append(keypairs, obj{"name": k.name, "public_key": k.public, "fingerprint": k.fingerprint})
	}
	images := []obj{}
	for _, image := range c.images {
		shown := copied(image)
		shown["file"] = c.imageFile(text(image["id"]))
		images = append(images, shown)
	}
	return obj{"images": images, "volumes": volumes, "servers": servers, "ports": ports, "security_groups": groups, "floating_ips": floating,
		"keypairs": keypairs, "quota": c.quota, "settings": c.settings}
}
