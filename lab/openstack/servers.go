// Nova v2.1: servers, from the request to the answer. Texts and status codes are
// those of Nova 26 (Zed).
package openstack

import (
	"encoding/base64"
	"fmt"
	"log"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"time"
)

func computeRoot(q *request) reply {
	links := func(version string) []obj {
		return []obj{{"rel": "self", "href": q.base + "/compute/" + version + "/"}}
	}
	return ok(obj{"versions": []obj{
		{"id": "v2.0", "status": "SUPPORTED", "version": "", "min_version": "", "updated": "2011-01-21T11:33:21Z", "links": links("v2")},
		{"id": "v2.1", "status": "CURRENT", "version": computeRange[1].String(), "min_version": computeRange[0].String(),
			"updated": "2013-07-23T11:33:21Z", "links": links("v2.1")},
	}})
}

func computeVersion(q *request) reply {
	return ok(obj{"version": obj{
		"id": "v2.1", "status": "CURRENT", "version": computeRange[1].String(), "min_version": computeRange[0].String(),
		"updated": "2013-07-23T11:33:21Z",
		"links": []obj{{"rel": "self", "href": q.base + "/compute/v2.1/"},
			{"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}},
		"media-types": []obj{{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}},
	}})
}

func (q *request) computeLinks(kind, id string) []obj {
	return []obj{
		{"rel": "self", "href": q.base + "/compute/v2.1/" + kind + "/" + id},
		{"rel": "bookmark", "href": q.base + "/compute/" + kind + "/" + id},
	}
}

func (q *request) thisServer() (*server, *reply) {
	if s := q.cloud.server(q.vars["server"]); s != nil {
		return s, nil
	}
	bad := q.missing("Instance " + q.vars["server"] + " could not be found.")
	return nil, &bad
}

// plan is a checked request for a server; nothing is taken until all is checked.
type plan struct {
	server  *server
	volumes []*volume
	boot    *bootVolume // to be made from an image
	nets    []plannedNic
}

type plannedNic struct {
	port    *port    // given by the caller
	network *network // else a port is made here
	address string
}

func createServer(q *request) reply {
	c := q.cloud
	asked := object(q.body["server"])
	if asked == nil {
		return q.badRequest("Invalid input for field/attribute server. 'server' is a required property")
	}
	p := &plan{server: &server{
		id: newUUID(), name: strings.TrimSpace(text(asked["name"])), status: "BUILD", vmState: "building", task: "scheduling",
		metadata: obj{}, tags: stringList(asked["tags"]), created: time.Now().UTC(), ownPorts: map[string]bool{},
	}}
	p.server.touch()
	for _, check := range []func(*request, obj, *plan) *reply{planBasics, planImage, planVolumes, planNetworks, planQuota} {
		if bad := check(q, asked, p); bad != nil {
			return *bad
		}
	}
	c.takeServer(p, q.fate)
	groups := []obj{}
	for _, name := range p.server.groups {
		groups = append(groups, obj{"name": name})
	}
	if len(groups) == 0 {
		groups = append(groups, obj{"name": "default"})
	}
	return answered(http.StatusAccepted, obj{"server": obj{
		"id": p.server.id, "links": q.computeLinks("servers", p.server.id), "OS-DCF:diskConfig": "MANUAL",
		"security_groups": groups, "adminPass": random(6),
	}}).with("Location", q.base+"/compute/v2.1/servers/"+p.server.id)
}

func planBasics(q *request, asked obj, p *plan) *reply {
	c, s := q.cloud, p.server
	refuse := func(format string, a ...interface{}) *reply { bad := q.badRequest(format, a...); return &bad }
	if s.name == "" {
		return refuse("Invalid input for field/attribute name. Value: %v. '' is too short", asked["name"])
	}
	for _, count := range []string{"min_count", "max_count"} {
		if n, valid := integer(asked[count]); asked[count] != nil && (!valid || n != 1) {
			bad := c.unmodelled(q.http, q.service, http.StatusNotImplemented, count+" other than 1")
			return &bad
		}
	}
	reference := text(asked["flavorRef"])
	known := false
	for _, f := range c.flavors {
		if f.id == reference[strings.LastIndex(reference, "/")+1:] {
			s.flavor, known = f, true
		}
	}
	if !known {
		return refuse("Flavor %s could not be found.", reference)
	}
	s.description = asked["description"]
	if !q.at(19) {
		s.description = s.name
	}
	for _, name := range keys(object(asked["metadata"])) {
		value, is := object(asked["metadata"])[name].(string)
		if !is || len(value) > 255 || len(name) > 255 {
			return refuse("Invalid input for field/attribute %s. Value: %v.", name, object(asked["metadata"])[name])
		}
		s.metadata[name] = value
	}
	if key := text(asked["key_name"]); key != "" {
		if c.keypair(key) == nil {
			return refuse("Invalid key_name provided.")
		}
		s.key = key
	}
	if drive, given := asked["config_drive"]; given && drive != nil {
		value, valid := boolean(drive)
		if !valid && text(drive) != "" {
			return refuse("Invalid config_drive provided.")
		}
		if value {
			s.configDrive = "True"
		}
	}
	if bad := c.join(q, s); bad != nil {
		return bad
	}
	if data := text(asked["user_data"]); data != "" {
		if _, err := base64.StdEncoding.DecodeString(data); err != nil {
			return refuse("Invalid input for field/attribute user_data. Value: %s. '%s' is not a 'base64'", data, data)
		}
		s.userData = data
	}
	if s.zone = text(asked["availability_zone"]); s.zone == "" {
		s.zone = zoneName
	}
	if s.zone != zoneName {
		return refuse("The requested availability zone is not available")
	}
	for _, g := range list(asked["security_groups"]) {
		if name := text(object(g)["name"]); name != "" && !contains(s.groups, name) {
			if c.groupNamed(name) == nil {
				return refuse("Security group %s not found.", name)
			}
			s.groups = append(s.groups, name)
		}
	}
	return nil
}

func planVolumes(q *request, asked obj, p *plan) *reply {
	refuse := func(format string, a ...interface{}) *reply { bad := q.badRequest(format, a...); return &bad }
	mappings := list(asked["block_device_mapping_v2"])
	if len(mappings) == 0 && p.server.image != nil {
		return nil
	}
	if len(mappings) == 0 {
		return refuse("Invalid imageRef provided.")
	}
	if boot, bad := planBootVolume(q, mappings); boot != nil || bad != nil {
		p.boot = boot
		return bad
	}
	var indexes []int
	for _, m := range mappings {
		mapping := object(m)
		source, destination := text(mapping["source_type"]), text(mapping["destination_type"])
		if source != "volume" || destination != "volume" && destination != "" {
			bad := q.cloud.unmodelled(q.http, q.service, http.StatusNotImplemented,
				fmt.Sprintf("block devices from %q to %q", source, destination))
			return &bad
		}
		id := text(mapping["uuid"])
		v := q.cloud.volume(id)
		if v == nil {
			return refuse("Block Device Mapping is Invalid: failed to get volume %s.", id)
		}
		a := &attachment{id: newUUID(), mapping: newUUID(), volume: v, server: p.server, tag: mapping["tag"]}
		if mapping["boot_index"] != nil {
			index, valid := integer(mapping["boot_index"])
			if !valid {
				return refuse("Invalid input for field/attribute boot_index. Value: %v.", mapping["boot_index"])
			}
			if index >= 0 {
				a.bootIndex = index
				indexes = append(indexes, index)
			}
		}
		a.deleteToo, _ = boolean(mapping["delete_on_termination"])
		if name := text(mapping["device_name"]); name != "" {
			a.device = name
		}
		p.server.attachments = append(p.server.attachments, a)
		p.volumes = append(p.volumes, v)
	}
	sort.Ints(indexes)
	for i, index := range indexes {
		if i != index {
			indexes = nil
			break
		}
	}
	if len(indexes) == 0 {
		return refuse("Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping " +
			"combination is not valid.")
	}
	all := p.server.attachments
	sort.SliceStable(all, func(i, j int) bool { return bootOrder(all[i]) < bootOrder(all[j]) })
	if root := all[0].volume; !root.bootable {
		return refuse("Block Device %s is not bootable.", root.id)
	}
	taken := map[*volume]bool{}
	for i, a := range all {
		if text := reserveRefusal(a.volume); text != "" || taken[a.volume] {
			return refuse("Invalid volume: Invalid input received: %s (HTTP 400) (Request-ID: %s)", text, requestIDMark)
		}
		taken[a.volume] = true
		a.device = deviceName(i)
	}
	return nil
}

// bootOrder sorts devices that are not for booting behind those that are.
func bootOrder(a *attachment) int {
	if index, is := a.bootIndex.(int); is {
		return index
	}
	return 1 << 30
}

func deviceName(n int) string {
	if n >= 26 {
		return "/dev/vd" + string([]byte{byte('a' + n/26 - 1), byte('a' + n%26)})
	}
	return "/dev/vd" + string([]byte{byte('a' + n)})
}

func planNetworks(q *request, asked obj, p *plan) *reply {
	c := q.cloud
	refuse := func(format string, a ...interface{}) *reply { bad := q.badRequest(format, a...); return &bad }
	given := asked["networks"]
	switch {
	case text(given) == "none":
		return nil
	case text(given) != "":
		bad := c.unmodelled(q.http, q.service, http.StatusNotImplemented, fmt.Sprintf("networks %q", text(given)))
		return &bad
	case given == nil && q.at(37):
		return refuse("Invalid input for field/attribute server. 'networks' is a required property")
	case len(list(given)) == 0:
		bad := q.fail(http.StatusConflict, "Multiple possible networks found, use a Network ID to be more specific.")
		return &bad
	}
	for _, n := range list(given) {
		wanted := object(n)
		if id := text(wanted["port"]); id != "" {
			port := c.port(id)
			if port == nil {
				return refuse("Port id %s could not be found.", id)
			}
			if port.deviceID != "" {
				bad := q.fail(http.StatusConflict, "Port "+id+" is still in use.")
				return &bad
			}
			p.nets = append(p.nets, plannedNic{port: port})
			continue
		}
		id := text(wanted["uuid"])
		network := c.network(id)
		if network == nil {
			return refuse("Network %s could not be found.", id)
		}
		if network.external {
			bad := q.fail(http.StatusForbidden, "It is not allowed to create an interface on external network "+id)
			return &bad
		}
		address := text(wanted["fixed_ip"])
		if address != "" && c.addressHolder(network, address) != nil {
			return refuse("Fixed IP address %s is already in use on instance %s.", address, c.addressHolder(network, address).deviceID)
		}
		p.nets = append(p.nets, plannedNic{network: network, address: address})
	}
	return nil
}

// computeUse is what the quotas count.
func (c *Cloud) computeUse() (instances, cores, ram int) {
	for _, s := range c.servers {
		instances, cores, ram = instances+1, cores+s.flavor.vcpus, ram+s.flavor.ram
	}
	return instances, cores, ram
}

func planQuota(q *request, _ obj, p *plan) *reply {
	instances, cores, ram := q.cloud.computeUse()
	limit := q.cloud.quota
	var names, asked, used, allowed []string
	for _, check := range []struct {
		name               string
		limit, used, asked int
	}{
		{"cores", limit.Cores, cores, p.server.flavor.vcpus},
		{"instances", limit.Instances, instances, 1},
		{"ram", limit.RAM, ram, p.server.flavor.ram},
	} {
		if over(check.limit, check.used, check.asked) {
			names = append(names, check.name)
			asked = append(asked, fmt.Sprint(check.asked))
			used = append(used, fmt.Sprint(check.used))
			allowed = append(allowed, fmt.Sprint(check.limit))
		}
	}
	if len(names) == 0 {
		return nil
	}
	bad := q.fail(http.StatusForbidden, fmt.Sprintf("Quota exceeded for %s: Requested %s, but already used %s of %s %s",
		strings.Join(names, ", "), strings.Join(asked, ", "), strings.Join(used, ", "), strings.Join(allowed, ", "),
		strings.Join(names, ", ")))
	return &bad
}

// takeServer starts the build of a checked plan.
func (c *Cloud) takeServer(p *plan, fails *fate) {
	s := p.server
	c.servers = append(c.servers, s)
	for _, a := range s.attachments {
		a.volume.attachment = a
		a.volume.setStatus("reserved")
	}
	half := c.settings.ServerDelayMS / 2
	c.later(half, func() {
		c.locked(func() {
			if s.deleted {
				return
			}
			if fails == nil && s.flavor.name == nowhere {
				fails = &fate{message: "No valid host was found. There are not enough hosts available."}
			}
			if fails == nil && p.boot != nil {
				fails = c.makeBootVolume(p.boot, s)
			}
			if fails == nil {
				fails = c.plug(p)
			}
			if fails != nil {
				// As for a server that no host takes: its volumes stay reserved until it is deleted.
				s.status, s.vmState, s.task = "ERROR", "error", nil
				s.fault = &serverFault{code: 500, message: fails.message, at: time.Now().UTC()}
				s.touch()
				return
			}
			s.task = "spawning"
			for _, a := range s.attachments {
				a.volume.setStatus("attaching")
			}
			c.later(c.settings.ServerDelayMS-half, func() { c.locked(func() { c.finishServer(s) }) })
		})
	})
}

// plug gives the server its ports.
func (c *Cloud) plug(p *plan) *fate {
	for _, nic := range p.nets {
		port := nic.port
		if port == nil {
			made, err := c.serverPort(nic, p.server)
			if err != nil {
				return &fate{message: "Build of instance " + p.server.id + " aborted: " + err.Error()}
			}
			port = made
			p.server.ownPorts[port.id] = true
		} else if c.port(port.id) == nil || port.deviceID != "" {
			return &fate{message: "Build of instance " + p.server.id + " aborted: Port " + port.id + " is still in use."}
		}
		port.deviceID, port.deviceOwner, port.status = p.server.id, "compute:"+zoneName, "ACTIVE"
		port.touch()
		p.server.ports = append(p.server.ports, port)
	}
	return nil
}

func (c *Cloud) finishServer(s *server) {
	if s.deleted {
		return
	}
	now := time.Now().UTC()
	for _, a := range s.attachments {
		a.attached, a.at = true, now
		a.volume.setStatus("in-use")
	}
	s.status, s.vmState, s.task, s.power, s.launched = "ACTIVE", "active", nil, 1, now
	s.touch()
}

func deleteServer(q *request) reply {
	c := q.cloud
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	if s.deleted {
		return answered(http.StatusNoContent, nil)
	}
	s.deleted, s.task = true, "deleting"
	s.touch()
	c.later(c.settings.ServerDelayMS/2, func() { c.finishDelete(s) })
	return answered(http.StatusNoContent, nil)
}

func (c *Cloud) finishDelete(s *server) {
	c.locked(func() {
		for _, a := range s.attachments {
			c.unplug(a)
			if a.deleteToo {
				c.startDelete(a.volume, nil)
			}
		}
		s.attachments = nil
		for _, p := range s.ports {
			if s.ownPorts[p.id] {
				c.removePort(p)
				continue
			}
			p.deviceID, p.deviceOwner, p.status = "", "", "DOWN"
			p.touch()
		}
		for i, other := range c.servers {
			if other == s {
				c.servers = append(c.servers[:i:i], c.servers[i+1:]...)
				return
			}
		}
	})
}

// unplug ends an attachment: device away, volume available.
func (c *Cloud) unplug(a *attachment) {
	if a.block != nil {
		a.block.Detach()
		a.block = nil
	}
	a.attached = false
	if a.volume.attachment == a {
		a.volume.attachment = nil
		a.volume.setStatus("available")
	}
}

func showServer(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	return ok(obj{"server": q.cloud.serverView(q, s)})
}

var serverQuery = []string{"name", "status", "flavor", "all_tenants", "limit", "marker", "deleted", "sort_key", "sort_dir",
	"tags@2.26", "tags-any@2.26", "not-tags@2.26", "not-tags-any@2.26"}

func listServers(q *request) reply {
	return q.cloud.serverList(q, "/servers", func(s *server) obj {
		return obj{"id": s.id, "name": s.name, "links": q.computeLinks("servers", s.id)}
	})
}

func detailServers(q *request) reply {
	return q.cloud.serverList(q, "/servers/detail", func(s *server) obj { return q.cloud.serverView(q, s) })
}

func (c *Cloud) serverList(q *request, path string, view func(*server) obj) reply {
	// Nova gives name to the database as a regular expression.
	name, err := regexp.Compile("(?i)" + q.query.Get("name"))
	if err != nil {
		return q.badRequest("Invalid input for query parameters name. Value: %s. %s is not a 'regex'",
			q.query.Get("name"), q.query.Get("name"))
	}
	if all, _ := boolean(q.query.Get("all_tenants")); all {
		return q.fail(http.StatusForbidden, "Policy doesn't allow os_compute_api:servers:"+
			strings.Trim(strings.ReplaceAll(path, "/servers", "index"), "/")+":get_all_tenants to be performed.")
	}
	if key := q.query.Get("sort_key"); key != "" && key != "created_at" {
		return c.unmodelled(q.http, q.service, http.StatusNotImplemented, "sorting servers by "+key)
	}
	found := []*server{}
	for _, s := range c.servers {
		if name.MatchString(s.name) && q.serverFits(s) {
			found = append(found, s)
		}
	}
	if q.query.Get("sort_dir") != "asc" { // newest first
		for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
			found[i], found[j] = found[j], found[i]
		}
	}
	start, end, full, bad := q.page(len(found), func(i int) string { return found[i].id }, func(marker string) reply {
		return q.badRequest("marker [%s] not found", marker)
	})
	if bad != nil {
		return *bad
	}
	views := []obj{}
	for _, s := range found[start:end] {
		views = append(views, view(s))
	}
	body := obj{"servers": views}
	if full {
		body["servers_links"] = q.nextLink("/compute/v2.1"+path, found[end-1].id)
	}
	return ok(body)
}

func (q *request) serverFits(s *server) bool {
	if status := q.query.Get("status"); status != "" && !strings.EqualFold(status, s.status) {
		return false
	}
	if wanted := q.query.Get("flavor"); wanted != "" && wanted != s.flavor.id {
		return false
	}
	count := func(name string) (hits, asked int) {
		if q.query.Get(name) == "" {
			return 0, 0
		}
		wanted := strings.Split(q.query.Get(name), ",")
		for _, tag := range wanted {
			if contains(s.tags, tag) {
				hits++
			}
		}
		return hits, len(wanted)
	}
	if hits, asked := count("tags"); hits < asked {
		return false
	}
	if hits, asked := count("tags-any"); asked > 0 && hits == 0 {
		return false
	}
	if hits, asked := count("not-tags"); asked > 0 && hits == asked {
		return false
	}
	hits, _ := count("not-tags-any")
	return hits == 0
}

func startServer(q *request) reply {
	return q.power("start", "stopped", "powering-on", "ACTIVE", "active", 1)
}

func stopServer(q *request) reply {
	return q.power("stop", "active", "powering-off", "SHUTOFF", "stopped", 4)
}

// power moves a server between on and off.
func (q *request) power(action, from, task, status, state string, power int) reply {
	c := q.cloud
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	if bad := q.serverState(s, action, from); bad != nil {
		return *bad
	}
	s.task = task
	s.touch()
	fails := q.fate
	c.later(c.settings.ServerDelayMS/2, func() {
		c.locked(func() {
			if s.deleted {
				return
			}
			if fails == nil {
				s.status, s.vmState, s.power = status, state, power
			} else {
				log.Printf("server %s: %s fails by script", s.id, action)
			}
			s.task = nil
			s.touch()
		})
	})
	return answered(http.StatusAccepted, nil)
}

// serverState refuses an action on a server in another state.
func (q *request) serverState(s *server, action string, states ...string) *reply {
	attr, state := "vm_state", s.vmState
	if contains(states, s.vmState) {
		if s.task == nil {
			return nil
		}
		attr, state = "task_state", text(s.task)
	}
	bad := q.fail(http.StatusConflict, fmt.Sprintf("Cannot '%s' instance %s while it is in %s %s", action, s.id, attr, state))
	return &bad
}

func consoleOutput(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	if s.vmState == "building" {
		return q.fail(http.StatusConflict, "Instance "+s.id+" is not ready")
	}
	return ok(obj{"output": fmt.Sprintf("lab: server %s has no guest running\n", s.name)})
}

func addServerTag(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	if contains(s.tags, q.vars["tag"]) {
		return answered(http.StatusNoContent, nil)
	}
	s.tags = append(s.tags, q.vars["tag"])
	return answered(http.StatusCreated, nil).with("Location", q.base+q.http.URL.Path)
}

func listServerTags(q *request) reply {
	s, bad := q.thisServer()
	if bad != nil {
		return *bad
	}
	return ok(obj{"tags": append([]string{}, s.tags...)})
}
