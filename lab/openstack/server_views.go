// Nova v2.1: how servers, flavors, limits and quotas are shown.
package openstack

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"
)

func (c *Cloud) serverView(q *request, s *server) obj {
	volumes := []obj{}
	for _, a := range s.attachments {
		entry := obj{"id": a.volume.id}
		if q.at(3) {
			entry["delete_on_termination"] = a.deleteToo
		}
		volumes = append(volumes, entry)
	}
	view := obj{
		"id": s.id, "name": s.name, "status": s.status, "tenant_id": c.ids.project, "user_id": c.ids.user,
		"metadata": copied(s.metadata), "hostId": "", "image": "", "flavor": c.serverFlavor(q, s.flavor),
		"created": novaTime(s.created), "updated": novaTime(s.updated), "addresses": c.addresses(s),
		"accessIPv4": "", "accessIPv6": "", "links": q.computeLinks("servers", s.id), "OS-DCF:diskConfig": "MANUAL",
		"OS-EXT-AZ:availability_zone": s.zone, "config_drive": s.configDrive, "key_name": s.key,
		"OS-SRV-USG:launched_at":   stamp(s.launched, "2006-01-02T15:04:05.000000"),
		"OS-SRV-USG:terminated_at": nil, "OS-EXT-STS:task_state": s.task, "OS-EXT-STS:vm_state": s.vmState,
		"OS-EXT-STS:power_state": s.power, "os-extended-volumes:volumes_attached": volumes,
	}
	if s.image != nil {
		view["image"] = obj{"id": s.image, "links": []obj{q.computeLinks("images", text(s.image))[1]}}
	}
	if s.status == "BUILD" {
		view["OS-EXT-AZ:availability_zone"] = ""
	} else if s.status != "ERROR" {
		view["hostId"] = strings.Repeat("1ab0", 14)
	}
	if s.status == "ACTIVE" || s.status == "BUILD" {
		view["progress"] = 0
	}
	if s.fault != nil && s.status == "ERROR" {
		view["fault"] = obj{"code": s.fault.code, "created": novaTime(s.fault.at), "message": s.fault.message}
	}
	if groups := c.serverGroups(s); len(groups) > 0 {
		view["security_groups"] = groups
	}
	later := []struct {
		minor int
		name  string
		value interface{}
	}{
		{9, "locked", false}, {19, "description", s.description}, {26, "tags", append([]string{}, s.tags...)},
		{63, "trusted_image_certificates", nil}, {71, "server_groups", []string{}}, {73, "locked_reason", nil},
		{90, "OS-EXT-SRV-ATTR:hostname", hostname(s.name)},
	}
	for _, field := range later {
		if q.at(field.minor) {
			view[field.name] = field.value
		}
	}
	return view
}

// hostname is what Nova makes of a display name.
func hostname(name string) string {
	var out strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.':
			out.WriteRune(r)
		case r == ' ' || r == '_':
			out.WriteByte('-')
		}
	}
	return strings.ReplaceAll(strings.Trim(out.String(), ".-"), ".", "-")
}

func (c *Cloud) serverFlavor(q *request, f flavor) obj {
	if q.at(47) {
		return obj{"vcpus": f.vcpus, "ram": f.ram, "disk": f.disk, "ephemeral": 0, "swap": 0, "original_name": f.name,
			"extra_specs": copied(f.extra)}
	}
	return obj{"id": f.id, "links": []obj{q.computeLinks("flavors", f.id)[1]}}
}

func (c *Cloud) addresses(s *server) obj {
	all := obj{}
	for _, p := range s.ports {
		known, _ := all[p.network.name].([]obj)
		for _, ip := range p.fixedIPs {
			known = append(known, obj{"version": p.network.subnet(ip.subnetID).version(), "addr": ip.address, "OS-EXT-IPS:type": "fixed",
				"OS-EXT-IPS-MAC:mac_addr": p.mac})
		}
		for _, f := range c.floating {
			if f.port == p {
				known = append(known, obj{"version": 4, "addr": f.address, "OS-EXT-IPS:type": "floating",
					"OS-EXT-IPS-MAC:mac_addr": p.mac})
			}
		}
		if known != nil {
			all[p.network.name] = known
		}
	}
	return all
}

// serverGroups are the groups of the server's ports, which is where Neutron has
// them.
func (c *Cloud) serverGroups(s *server) []obj {
	groups := []obj{}
	seen := map[string]bool{}
	for _, p := range s.ports {
		for _, id := range p.groups {
			if g := c.group(id); g != nil && !seen[g.name] {
				seen[g.name] = true
				groups = append(groups, obj{"name": g.name})
			}
		}
	}
	return groups
}

func flavorView(q *request, f flavor) obj {
	view := obj{
		"id": f.id, "name": f.name, "ram": f.ram, "disk": f.disk, "swap": "", "OS-FLV-EXT-DATA:ephemeral": 0,
		"OS-FLV-DISABLED:disabled": false, "vcpus": f.vcpus, "os-flavor-access:is_public": !f.private, "rxtx_factor": 1.0,
		"links": q.computeLinks("flavors", f.id),
	}
	if q.at(55) {
		view["description"] = nil
	}
	if q.at(61) {
		view["extra_specs"] = copied(f.extra)
	}
	if q.at(75) {
		view["swap"] = 0
	}
	return view
}

func listFlavors(q *request) reply {
	return q.cloud.flavorList(q, "/flavors", func(f flavor) obj {
		view := obj{"id": f.id, "name": f.name, "links": q.computeLinks("flavors", f.id)}
		if q.at(55) {
			view["description"] = nil
		}
		return view
	})
}

func detailFlavors(q *request) reply {
	return q.cloud.flavorList(q, "/flavors/detail", func(f flavor) obj { return flavorView(q, f) })
}

func (c *Cloud) flavorList(q *request, path string, view func(flavor) obj) reply {
	found := []flavor{}
	for _, f := range c.flavors {
		ram, _ := integer(q.query.Get("minRam"))
		disk, _ := integer(q.query.Get("minDisk"))
		if f.ram >= ram && f.disk >= disk {
			found = append(found, f)
		}
	}
	start, end, full, bad := q.page(len(found), func(i int) string { return found[i].id }, func(marker string) reply {
		return q.badRequest("marker [%s] not found", marker)
	})
	if bad != nil {
		return *bad
	}
	views := []obj{}
	for _, f := range found[start:end] {
		views = append(views, view(f))
	}
	body := obj{"flavors": views}
	if full {
		body["flavors_links"] = q.nextLink("/compute/v2.1"+path, found[end-1].id)
	}
	return ok(body)
}

var flavorFields = []string{"flavor.name", "flavor.vcpus", "flavor.ram", "flavor.disk", "flavor.id"}

func createFlavor(q *request) reply {
	c := q.cloud
	if bad := q.administratorsOnly("os_compute_api:os-flavor-manage:create"); bad != nil {
		return *bad
	}
	asked := object(q.body["flavor"])
	vcpus, cpus := integer(asked["vcpus"])
	ram, memory := integer(asked["ram"])
	disk, _ := integer(asked["disk"])
	name := text(asked["name"])
	if name == "" || !cpus || !memory || vcpus < 1 || ram < 1 {
		return q.badRequest("Invalid input for field/attribute flavor. Value: %v.", asked)
	}
	for _, f := range c.flavors {
		if f.name == name {
			return q.fail(http.StatusConflict, "Flavor with name "+name+" already exists.")
		}
	}
	made := flavor{id: newUUID(), name: name, vcpus: vcpus, ram: ram, disk: disk, extra: obj{}}
	c.flavors = append(c.flavors, made)
	return ok(obj{"flavor": flavorView(q, made)})
}

func deleteFlavor(q *request) reply {
	c := q.cloud
	if bad := q.administratorsOnly("os_compute_api:os-flavor-manage:delete"); bad != nil {
		return *bad
	}
	for i, f := range c.flavors {
		if f.id == q.vars["flavor"] {
			c.flavors = append(c.flavors[:i:i], c.flavors[i+1:]...)
			return answered(http.StatusAccepted, nil)
		}
	}
	return q.missing("Flavor " + q.vars["flavor"] + " could not be found.")
}

// administratorsOnly is Nova's refusal of what its policy lets nobody else do.
func (q *request) administratorsOnly(rule string) *reply {
	if q.token.admin {
		return nil
	}
	bad := q.fail(http.StatusForbidden, "Policy doesn't allow "+rule+" to be performed.")
	return &bad
}

func (q *request) thisFlavor() (flavor, *reply) {
	for _, f := range q.cloud.flavors {
		if f.id == q.vars["flavor"] {
			return f, nil
		}
	}
	bad := q.missing("Flavor " + q.vars["flavor"] + " could not be found.")
	return flavor{}, &bad
}

func showFlavor(q *request) reply {
	f, bad := q.thisFlavor()
	if bad != nil {
		return *bad
	}
	return ok(obj{"flavor": flavorView(q, f)})
}

func flavorSpecs(q *request) reply {
	f, bad := q.thisFlavor()
	if bad != nil {
		return *bad
	}
	return ok(obj{"extra_specs": copied(f.extra)})
}

func computeLimits(q *request) reply {
	c := q.cloud
	instances, cores, ram := c.computeUse()
	absolute := obj{
		"maxTotalInstances": c.quota.Instances, "maxTotalCores": c.quota.Cores, "maxTotalRAMSize": c.quota.RAM,
		"totalInstancesUsed": instances, "totalCoresUsed": cores, "totalRAMUsed": ram, "maxServerMeta": 128,
		"maxTotalKeypairs": 100, "maxServerGroups": 10, "maxServerGroupMembers": 10, "totalServerGroupsUsed": 0,
	}
	if !q.at(57) {
		absolute["maxPersonality"], absolute["maxPersonalitySize"] = 5, 10240
	}
	if !q.at(39) {
		absolute["maxImageMeta"] = 128
	}
	if !q.at(36) {
		absolute["maxTotalFloatingIps"], absolute["totalFloatingIpsUsed"] = -1, 0
		absolute["maxSecurityGroups"], absolute["maxSecurityGroupRules"], absolute["totalSecurityGroupsUsed"] = -1, -1, 0
	}
	return ok(obj{"limits": obj{"rate": []obj{}, "absolute": absolute}})
}

func computeQuotas(q *request) reply      { return q.cloud.computeQuotaSet(q, false) }
func computeQuotaDetail(q *request) reply { return q.cloud.computeQuotaSet(q, true) }
func (c *Cloud) computeQuotaSet(q *request, detail bool) reply {
	if q.vars["project"] != c.ids.project {
		return q.fail(http.StatusForbidden, "Policy doesn't allow os_compute_api:os-quota-sets:show to be performed.")
	}
	instances, cores, ram := c.computeUse()
	set := obj{"id": c.ids.project}
	limits := map[string][2]int{
		"instances": {c.quota.Instances, instances}, "cores": {c.quota.Cores, cores}, "ram": {c.quota.RAM, ram},
		"key_pairs": {100, len(c.keypairs)}, "metadata_items": {128, 0}, "server_groups": {10, 0}, "server_group_members": {10, 0},
	}
	if !q.at(57) {
		limits["injected_files"], limits["injected_file_content_bytes"] = [2]int{5, 0}, [2]int{10240, 0}
		limits["injected_file_path_bytes"] = [2]int{255, 0}
	}
	if !q.at(36) {
		limits["fixed_ips"], limits["floating_ips"] = [2]int{-1, 0}, [2]int{-1, 0}
		limits["security_groups"], limits["security_group_rules"] = [2]int{-1, 0}, [2]int{-1, 0}
	}
	for name, value := range limits {
		if detail {
			set[name] = obj{"limit": value[0], "in_use": value[1], "reserved": 0}
		} else {
			set[name] = value[0]
		}
	}
	return ok(obj{"quota_set": set})
}

func computeZones(q *request) reply {
	return ok(obj{"availabilityZoneInfo": []obj{
		{"zoneName": zoneName, "zoneState": obj{"available": true}, "hosts": nil}}})
}

func computeZoneDetail(q *request) reply {
	return q.fail(http.StatusForbidden, "Policy doesn't allow os_compute_api:os-availability-zone:detail to be performed.")
}

func serverInterfaces(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	views := []obj{}
	for _, p := range s.ports {
		view := obj{"port_state": p.status, "fixed_ips": p.fixedView(), "mac_addr": p.mac, "net_id": p.network.id, "port_id": p.id}
		if q.at(70) {
			view["tag"] = nil
		}
		views = append(views, view)
	}
	return ok(obj{"interfaceAttachments": views})
}

func (c *Cloud) keypair(name string) *keypair {
	for _, k := range c.keypairs {
		if k.name == name {
			return k
		}
	}
	return nil
}

func keypairView(q *request, k *keypair) obj {
	view := obj{"name": k.name, "public_key": k.public, "fingerprint": k.fingerprint}
	if q.at(2) {
		view["type"] = "ssh"
	}
	return view
}

func listKeypairs(q *request) reply {
	views := []obj{}
	for _, k := range q.cloud.keypairs {
		views = append(views, obj{"keypair": keypairView(q, k)})
	}
	return ok(obj{"keypairs": views})
}

func (q *request) thisKeypair() (*keypair, *reply) {
	if k := q.cloud.keypair(q.vars["keypair"]); k != nil {
		return k, nil
	}
	bad := q.missing(fmt.Sprintf("Keypair %s not found for user %s", q.vars["keypair"], q.cloud.ids.user))
	return nil, &bad
}

func showKeypair(q *request) reply {
	k, bad := q.thisKeypair()
	if bad != nil {
		return *bad
	}
	view := keypairView(q, k)
	view["user_id"], view["id"], view["deleted"] = q.cloud.ids.user, 1, false
	view["created_at"], view["updated_at"], view["deleted_at"] = stamp(k.created, "2006-01-02T15:04:05.000000"), nil, nil
	return ok(obj{"keypair": view})
}

// createKeypair imports a public key; making one is not modelled.
func createKeypair(q *request) reply {
	asked := object(q.body["keypair"])
	words := strings.Fields(text(asked["public_key"]))
	if len(words) == 0 {
		return q.cloud.unmodelled(q.http, q.service, http.StatusNotImplemented, "key pairs without a public_key")
	}
	if kind := text(asked["type"]); kind != "" && kind != "ssh" {
		return q.cloud.unmodelled(q.http, q.service, http.StatusNotImplemented, "key pairs of type "+kind)
	}
	var raw []byte
	err := fmt.Errorf("no key")
	if len(words) > 1 {
		raw, err = base64.StdEncoding.DecodeString(words[1])
	}
	if err != nil {
		return q.badRequest("Keypair data is invalid: failed to generate fingerprint")
	}
	k := &keypair{name: text(asked["name"]), public: text(asked["public_key"]), created: time.Now().UTC()}
	if q.cloud.keypair(k.name) != nil {
		return q.fail(http.StatusConflict, "Key pair '"+k.name+"' already exists.")
	}
	sum := md5.Sum(raw)
	for i, b := range sum {
		if i > 0 {
			k.fingerprint += ":"
		}
		k.fingerprint += hex.EncodeToString([]byte{b})
	}
	q.cloud.keypairs = append(q.cloud.keypairs, k)
	view := keypairView(q, k)
	view["user_id"] = q.cloud.ids.user
	status := http.StatusOK
	if q.at(2) {
		status = http.StatusCreated
	}
	return answered(status, obj{"keypair": view})
}

func deleteKeypair(q *request) reply {
	k, bad := q.thisKeypair()
	if bad != nil {
		return *bad
	}
	for i, other := range q.cloud.keypairs {
		if other == k {
			q.cloud.keypairs = append(q.cloud.keypairs[:i:i], q.cloud.keypairs[i+1:]...)
			break
		}
	}
	if q.at(2) {
		return answered(http.StatusNoContent, nil)
	}
	return answered(http.StatusAccepted, nil)
}
