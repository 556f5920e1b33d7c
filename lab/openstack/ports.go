// Neutron v2.0: ports.
package openstack

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"time"
)

type fixedIP struct{ subnetID, address string }

type port struct {
	id, name, mac, description string
	network                    *network
	fixedIPs                   []fixedIP
	groups                     []string // ids
	security                   bool
	adminUp                    bool
	status                     string
	deviceID, deviceOwner      string
	tags                       []string
	addressPairs               []interface{}
	created, updated           time.Time
	revision                   int
}

func (p *port) touch() {
	p.updated = time.Now().UTC()
	p.revision++
}

func (p *port) fixedView() []obj {
	all := []obj{}
	for _, ip := range p.fixedIPs {
		all = append(all, obj{"subnet_id": ip.subnetID, "ip_address": ip.address})
	}
	return all
}

func (c *Cloud) portView(p *port) obj {
	pairs := p.addressPairs
	if pairs == nil {
		pairs = []interface{}{}
	}
	return obj{
		"id": p.id, "name": p.name, "network_id": p.network.id, "tenant_id": c.ids.project, "project_id": c.ids.project,
		"mac_address": p.mac, "admin_state_up": p.adminUp, "status": p.status, "device_id": p.deviceID,
		"device_owner": p.deviceOwner, "fixed_ips": p.fixedView(), "allowed_address_pairs": pairs, "extra_dhcp_opts": []obj{},
		"security_groups": append([]string{}, p.groups...), "description": p.description, "binding:vnic_type": "normal",
		"port_security_enabled": p.security, "qos_policy_id": nil, "qos_network_policy_id": nil,
		"tags": append([]string{}, p.tags...), "created_at": novaTime(p.created), "updated_at": novaTime(p.updated),
		"revision_number": p.revision,
	}
}

func listPorts(q *request) reply {
	views := []obj{}
	for _, p := range q.cloud.ports {
		views = append(views, q.cloud.portView(p))
	}
	return q.neutronList("ports", views)
}

func (q *request) thisPort() (*port, *reply) {
	if p := q.cloud.port(q.vars["port"]); p != nil {
		return p, nil
	}
	bad := q.noResource("port", q.vars["port"])
	return nil, &bad
}

func showPort(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	return ok(obj{"port": q.trimmed(q.cloud.portView(p))})
}

// portFields are what may be given to make a port; a change takes the same
// without the network.
var portFields = []string{"port.name", "port.mac_address", "port.fixed_ips[].ip_address", "port.fixed_ips[].subnet_id",
	"port.security_groups[]", "port.port_security_enabled", "port.description", "port.admin_state_up", "port.device_id",
	"port.device_owner", "port.allowed_address_pairs[].ip_address", "port.allowed_address_pairs[].mac_address"}

var portCreateFields = append([]string{"port.network_id", "port.tags[]", "port.tenant_id", "port.project_id",
	"port.binding:vnic_type"}, portFields...)

func createPort(q *request) reply {
	c := q.cloud
	asked := object(q.body["port"])
	if asked == nil {
		return neutron(400, "HTTPBadRequest", "Unable to find '%s' in request body", "port")
	}
	id := text(asked["network_id"])
	if id == "" {
		return neutron(400, "HTTPBadRequest", "Failed to parse request. Required attribute 'network_id' not specified")
	}
	n := c.network(id)
	if n == nil {
		return q.noResource("network", id)
	}
	for _, field := range []string{"tenant_id", "project_id"} {
		if other := text(asked[field]); other != "" && other != c.ids.project {
			return forbiddenPort("rule:create_port")
		}
	}
	if kind := text(asked["binding:vnic_type"]); kind != "" && kind != "normal" {
		return c.unmodelled(q.http, q.service, http.StatusNotImplemented, "binding:vnic_type "+kind)
	}
	if n.external {
		return c.unmodelled(q.http, q.service, http.StatusNotImplemented, "ports on an external network")
	}
	// A plain member may choose addresses only on networks of the own project.
	if n.projectID != c.ids.project {
		for _, field := range []string{"mac_address", "fixed_ips", "port_security_enabled"} {
			if _, given := asked[field]; given {
				return forbiddenPort("(rule:create_port and rule:create_port:" + field + ")")
			}
		}
	}
	if over(c.quota.Ports, len(c.ports), 1) {
		return neutron(http.StatusConflict, "OverQuota", "Quota exceeded for resources: ['port'].")
	}
	p := &port{id: newUUID(), network: n, security: true, adminUp: true, status: "DOWN", tags: stringList(asked["tags"]),
		created: time.Now().UTC()}
	if bad := q.applyPort(p, asked, true); bad != nil {
		return *bad
	}
	p.touch()
	c.ports = append(c.ports, p)
	return answered(http.StatusCreated, obj{"port": c.portView(p)})
}

func forbiddenPort(rule string) reply {
	return neutron(http.StatusForbidden, "PolicyNotAuthorized", "%s is disallowed by policy", rule)
}

var macForm = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)

// applyPort checks everything first and changes the port only if all is right.
func (q *request) applyPort(p *port, asked obj, fresh bool) *reply {
	c := q.cloud
	next := *p
	refuse := func(bad reply) *reply { return &bad }
	if given, is := asked["mac_address"]; is || fresh {
		mac := strings.ToLower(text(given))
		switch {
		case !is:
			mac = c.freeMAC(p.network)
		case !macForm.MatchString(mac):
			return refuse(neutron(400, "HTTPBadRequest", "Invalid input for mac_address. Reason: '%v' is not a valid MAC address.", given))
		}
		for _, other := range c.ports {
			if other != p && other.network == p.network && other.mac == mac {
				return refuse(neutron(http.StatusConflict, "MacAddressInUse",
					"Unable to complete operation for network %s. The mac address %s is in use.", p.network.id, mac))
			}
		}
		if !fresh && mac != p.mac && p.deviceID != "" {
			return refuse(neutron(http.StatusConflict, "PortBound", "Unable to complete operation on port %s, port is already "+
				"bound, port type: %s, old_mac %s, new_mac %s.", p.id, "bridge", p.mac, mac))
		}
		next.mac = mac
	}
	if given, is := asked["fixed_ips"]; is || fresh {
		ips, bad := c.addressesFor(p, next.mac, given, is)
		if bad != nil {
			return bad
		}
		next.fixedIPs = ips
	}
	if given, is := asked["port_security_enabled"]; is {
		next.security, _ = boolean(given)
	}
	if given, is := asked["security_groups"]; is || fresh {
		next.groups = stringList(given)
		if !is && next.security {
			next.groups = []string{c.groupNamed("default").id}
		}
		for _, id := range next.groups {
			if c.group(id) == nil {
				return refuse(q.noResource("security_group", id))
			}
		}
	}
	if !next.security && len(next.groups) > 0 {
		return refuse(neutron(http.StatusConflict, "PortSecurityAndIPRequiredForSecurityGroups",
			"Port security must be enabled and port must have an IP address in order to use security groups."))
	}
	if given, is := asked["allowed_address_pairs"]; is {
		next.addressPairs = list(given)
	}
	for field, target := range map[string]*string{"name": &next.name, "description": &next.description,
		"device_id": &next.deviceID, "device_owner": &next.deviceOwner} {
		if given, is := asked[field]; is {
			*target = text(given)
		}
	}
	if given, is := asked["admin_state_up"]; is {
		next.adminUp, _ = boolean(given)
	}
	*p = next
	return nil
}

// addressesFor gives the addresses a port asks for, or the next free one of each
// family (_test_fixed_ips_for_port of neutron/db/ipam_pluggable_backend.py).
func (c *Cloud) addressesFor(p *port, mac string, given interface{}, asked bool) ([]fixedIP, *reply) {
	n := p.network
	if !asked {
		return c.anyAddresses(n, mac)
	}
	wanted := list(given)
	refuse := func(bad reply) ([]fixedIP, *reply) { return nil, &bad }
	// Those that are named come first, or another entry might be given one of them.
	sort.SliceStable(wanted, func(i, j int) bool {
		return text(object(wanted[i])["ip_address"]) != "" && text(object(wanted[j])["ip_address"]) == ""
	})
	found := []fixedIP{}
	for _, w := range wanted {
		subnetID, address := text(object(w)["subnet_id"]), text(object(w)["ip_address"])
		if subnetID != "" && n.subnet(subnetID) == nil {
			for _, other := range c.networks {
				if other.subnet(subnetID) != nil {
					return refuse(neutron(400, "InvalidInput", "Invalid input for operation: Failed to create port on network %s, "+
						"because fixed_ips included invalid subnet %s.", n.id, subnetID))
				}
			}
			return refuse(neutron(404, "SubnetNotFound", "Subnet %s could not be found.", subnetID))
		}
		if address == "" && subnetID == "" {
			return refuse(neutron(400, "InvalidInput", "Invalid input for operation: IP allocation requires subnet_id or ip_address."))
		}
		if address == "" {
			s := n.subnet(subnetID)
			if s.automatic() {
				continue // it comes below
			}
			if address = c.freeAddress(n, s, found); address == "" {
				return nil, noMoreAddresses(n)
			}
			found = append(found, fixedIP{s.id, address})
			continue
		}
		ip := net.ParseIP(address)
		if ip == nil {
			return refuse(neutron(400, "HTTPBadRequest", "Invalid input for fixed_ips. Reason: '%s' is not a valid IP address.", address))
		}
		var s *subnet
		for _, candidate := range n.subnets {
			if s == nil && (subnetID == "" || candidate.id == subnetID) && usableIn(candidate, ip) {
				s = candidate
			}
		}
		if s == nil {
			if subnetID != "" {
				return refuse(neutron(400, "InvalidIpForSubnet", "IP address %s is not a valid IP for the specified subnet.", address))
			}
			return refuse(neutron(400, "InvalidIpForNetwork",
				"IP address %s is not a valid IP for any of the subnets on the specified network.", address))
		}
		address = ip.String()
		if s.automatic() {
			if c.addressHolder(n, address) == p {
				continue // a client that gives back what it was shown
			}
			return refuse(neutron(400, "AllocationOnAutoAddressSubnet", "IPv6 address %s cannot be directly assigned to a port on "+
				"subnet %s as the subnet is configured for automatic addresses", address, s.id))
		}
		twice := false
		for _, ip := range found {
			twice = twice || ip.address == address
		}
		if holder := c.addressHolder(n, address); twice || holder != nil && holder != p {
			return refuse(neutron(http.StatusConflict, "IpAddressAlreadyAllocated",
				"IP address %s already allocated in subnet %s", address, s.id))
		}
		found = append(found, fixedIP{s.id, address})
	}
	return append(found, automaticAddresses(n, mac)...), nil
}

// usableIn tells whether a host of the subnet may have the address
// (check_subnet_ip of neutron/ipam/utils.py): of IPv6 any one.
func usableIn(s *subnet, ip net.IP) bool {
	if (ip.To4() != nil) != (s.version() == 4) || !s.cidr.Contains(ip) {
		return false
	}
	if s.version() == 6 {
		return true
	}
	broadcast := append(net.IP{}, s.cidr.IP.To4()...)
	for i := range broadcast {
		broadcast[i] |= ^s.cidr.Mask[len(s.cidr.Mask)-len(broadcast)+i]
	}
	return !ip.Equal(s.cidr.IP) && !ip.Equal(broadcast)
}

func (c *Cloud) freeMAC(n *network) string {
	for {
		tail := random(3)
		mac := fmt.Sprintf("fa:16:3e:%s:%s:%s", tail[0:2], tail[2:4], tail[4:6])
		free := true
		for _, p := range c.ports {
			free = free && (p.network != n || p.mac != mac)
		}
		if free {
			return mac
		}
	}
}

// serverPort makes the port of a server that asked for a network.
func (c *Cloud) serverPort(nic plannedNic, s *server) (*port, error) {
	n := nic.network
	p := &port{id: newUUID(), network: n, security: true, adminUp: true, status: "DOWN", mac: c.freeMAC(n), created: time.Now().UTC()}
	// Nova asks Neutron for that one address, or for nothing in particular.
	ips, bad := c.addressesFor(p, p.mac, []interface{}{obj{"ip_address": nic.address}}, nic.address != "")
	if bad != nil && nic.address != "" {
		return nil, fmt.Errorf("IP address %s cannot be used on network %s", nic.address, n.id)
	}
	if bad != nil {
		return nil, errors.New("No more IP addresses available on network " + n.id + ".")
	}
	p.fixedIPs = ips
	groups := s.groups
	if len(groups) == 0 {
		groups = []string{"default"}
	}
	for _, name := range groups {
		p.groups = append(p.groups, c.groupNamed(name).id)
	}
	p.touch()
	c.ports = append(c.ports, p)
	return p, nil
}

func updatePort(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	asked := object(q.body["port"])
	if asked == nil {
		return neutron(400, "HTTPBadRequest", "Unable to find '%s' in request body", "port")
	}
	if p.network.projectID != q.cloud.ids.project {
		for _, field := range []string{"mac_address", "fixed_ips", "port_security_enabled"} {
			if _, given := asked[field]; given {
				return forbiddenPort("(rule:update_port and rule:update_port:" + field + ")")
			}
		}
	}
	if bad := q.applyPort(p, asked, false); bad != nil {
		return *bad
	}
	p.touch()
	return ok(obj{"port": q.cloud.portView(p)})
}

func deletePort(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	q.cloud.removePort(p)
	return answered(http.StatusNoContent, nil)
}

// removePort takes a port away, from its server too: Neutron tells Nova.
func (c *Cloud) removePort(p *port) {
	for i, other := range c.ports {
		if other == p {
			c.ports = append(c.ports[:i:i], c.ports[i+1:]...)
			break
		}
	}
	for _, f := range c.floating {
		if f.port == p {
			f.port = nil
		}
	}
	if s := c.server(p.deviceID); s != nil {
		for i, other := range s.ports {
			if other == p {
				s.ports = append(s.ports[:i:i], s.ports[i+1:]...)
				break
			}
		}
	}
}

func listPortTags(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	return ok(obj{"tags": append([]string{}, p.tags...)})
}

func replacePortTags(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	p.tags = union(nil, stringList(q.body["tags"]))
	p.touch()
	return ok(obj{"tags": append([]string{}, p.tags...)})
}

func addPortTag(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	p.tags = union(p.tags, []string{q.vars["tag"]})
	p.touch()
	return answered(http.StatusCreated, nil)
}

func deletePortTag(q *request) reply {
	p, bad := q.thisPort()
	if bad != nil {
		return *bad
	}
	for i, tag := range p.tags {
		if tag == q.vars["tag"] {
			p.tags = append(p.tags[:i:i], p.tags[i+1:]...)
			p.touch()
			return answered(http.StatusNoContent, nil)
		}
	}
	return neutron(404, "TagNotFound", "Tag %s could not be found.", q.vars["tag"])
}
