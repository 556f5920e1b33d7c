// Neutron v2.0: networks, subnets, security groups and the addresses of ports.
package openstack

import (
	"bytes"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sort"
	"strings"
	"time"
)

type network struct {
	id, name, projectID string
	shared              bool
	external            bool // router:external
	subnets             []*subnet
	created             time.Time
}

type subnet struct {
	id, name    string
	cidr        *net.IPNet
	gateway     string
	first, last string // the allocation pool
	mode        string // ipv6_address_mode and ipv6_ra_mode; "" = none
}

func (s *subnet) version() int {
	if s.cidr.IP.To4() != nil {
		return 4
	}
	return 6
}

// automatic tells whether a port's address comes from its MAC (is_auto_address_subnet of
// neutron/common/ipv6_utils.py).
func (s *subnet) automatic() bool { return s.mode == "slaac" || s.mode == "dhcpv6-stateless" }

// subnet is the one with that id, nil when it is not of this network.
func (n *network) subnet(id string) *subnet {
	for _, s := range n.subnets {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (n *network) subnetIDs() []string {
	ids := []string{}
	for _, s := range n.subnets {
		ids = append(ids, s.id)
	}
	return ids
}

type securityGroup struct {
	id, name, description string
	rules                 []obj
}

func networkRoot(q *request) reply {
	return ok(obj{"versions": []obj{{"id": "v2.0", "status": "CURRENT",
		"links": []obj{{"rel": "self", "href": q.base + "/network/v2.0/"}}}}})
}

func networkVersion(q *request) reply {
	resources := []obj{}
	for _, name := range []string{"network", "subnet", "port", "security_group", "floatingip", "quota"} {
		resources = append(resources, obj{"name": name, "collection": name + "s",
			"links": []obj{{"rel": "self", "href": q.base + "/network/v2.0/" + name + "s"}}})
	}
	return ok(obj{"resources": resources})
}

// extensions are those whose fields and calls the lab models.
var extensions = []string{"port-security", "security-group", "standard-attr-description", "standard-attr-tag",
	"standard-attr-timestamp", "standard-attr-revisions", "tag-ports-during-bulk-creation", "binding", "quotas",
	"quota_details", "project-id", "availability_zone", "network_availability_zone", "external-net", "net-mtu",
	"allowed-address-pairs", "extra_dhcp_opt", "network-ip-availability", "router"}

func extensionView(alias string) obj {
	return obj{"alias": alias, "name": alias, "description": "", "updated": "2016-01-01T00:00:00-00:00", "links": []obj{}}
}

func listExtensions(q *request) reply {
	views := []obj{}
	for _, alias := range extensions {
		views = append(views, extensionView(alias))
	}
	return ok(obj{"extensions": views})
}

func showExtension(q *request) reply {
	if contains(extensions, q.vars["alias"]) {
		return ok(obj{"extension": extensionView(q.vars["alias"])})
	}
	return neutron(http.StatusNotFound, "HTTPNotFound", "Extension with alias %s does not exist", q.vars["alias"])
}

func (c *Cloud) network(id string) *network {
	for _, n := range c.networks {
		if n.id == id {
			return n
		}
	}
	return nil
}

func (c *Cloud) group(id string) *securityGroup {
	for _, g := range c.groups {
		if g.id == id {
			return g
		}
	}
	return nil
}

func (c *Cloud) groupNamed(nameOrID string) *securityGroup {
	for _, g := range c.groups {
		if g.name == nameOrID || g.id == nameOrID {
			return g
		}
	}
	return nil
}

func networkView(n *network) obj {
	return obj{
		"id": n.id, "name": n.name, "tenant_id": n.projectID, "project_id": n.projectID, "admin_state_up": true, "mtu": 1500,
		"status": "ACTIVE", "subnets": n.subnetIDs(), "shared": n.shared, "availability_zone_hints": []string{},
		"availability_zones": []string{zoneName}, "ipv4_address_scope": nil, "ipv6_address_scope": nil,
		"router:external": n.external, "description": "", "port_security_enabled": true, "tags": []string{},
		"created_at": novaTime(n.created), "updated_at": novaTime(n.created), "revision_number": 2,
	}
}

func subnetView(n *network, s *subnet) obj {
	var mode interface{}
	if s.mode != "" {
		mode = s.mode
	}
	return obj{
		"id": s.id, "name": s.name, "tenant_id": n.projectID, "project_id": n.projectID, "network_id": n.id,
		"ip_version": s.version(), "subnetpool_id": nil, "enable_dhcp": true, "ipv6_ra_mode": mode, "ipv6_address_mode": mode, "gateway_ip": s.gateway,
		"cidr": s.cidr.String(), "allocation_pools": []obj{{"start": s.first, "end": s.last}}, "host_routes": []obj{},
		"dns_nameservers": []string{}, "description": "", "service_types": []string{}, "tags": []string{},
		"created_at": novaTime(n.created), "updated_at": novaTime(n.created), "revision_number": 0,
	}
}

func (c *Cloud) groupView(g *securityGroup) obj {
	// Neutron keeps no order of rules.
	rules := append([]obj{}, g.rules...)
	sort.Slice(rules, func(i, j int) bool { return text(rules[i]["id"]) < text(rules[j]["id"]) })
	return obj{
		"id": g.id, "name": g.name, "tenant_id": c.ids.project, "project_id": c.ids.project, "description": g.description,
		"security_group_rules": rules, "stateful": true, "shared": false, "tags": []string{}, "revision_number": 1,
		"created_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:00:00Z",
	}
}

// Filters: what may be asked of a list of each kind.
var (
	listQuery    = []string{"limit", "marker", "fields", "sort_key", "sort_dir"}
	networkQuery = append([]string{"id", "name", "status", "tenant_id", "project_id", "shared", "router:external",
		"admin_state_up", "description"}, listQuery...)
	subnetQuery = append([]string{"id", "name", "network_id", "tenant_id", "project_id", "cidr", "ip_version",
		"gateway_ip", "enable_dhcp"}, listQuery...)
	groupQuery        = append([]string{"id", "name", "tenant_id", "project_id", "description"}, listQuery...)
	availabilityQuery = []string{"network_id", "network_name", "tenant_id", "project_id"}
	portQuery         = append([]string{"id", "name", "network_id", "mac_address", "device_id", "device_owner", "status", "tenant_id",
		"project_id", "admin_state_up", "description", "fixed_ips", "tags", "tags-any", "not-tags", "not-tags-any",
		"security_groups"}, listQuery...)
)

// neutronList filters, orders, pages and trims views, which is the same for
// every resource of Neutron.
func (q *request) neutronList(collection string, views []obj) reply {
	kept := []obj{}
	for _, view := range views {
		fits, bad := q.neutronFits(view)
		if bad != nil {
			return *bad
		}
		if fits {
			kept = append(kept, view)
		}
	}
	if sortKeys := q.query["sort_key"]; len(sortKeys) > 0 {
		directions := q.query["sort_dir"]
		sort.SliceStable(kept, func(i, j int) bool {
			for n, key := range sortKeys {
				a, b := fmt.Sprint(kept[i][key]), fmt.Sprint(kept[j][key])
				if a != b {
					return (a < b) != (n < len(directions) && directions[n] == "desc")
				}
			}
			return false
		})
	}
	start, end, full, bad := q.page(len(kept), func(i int) string { return text(kept[i]["id"]) }, func(marker string) reply {
		kind := strings.TrimSuffix(collection, "s")
		return q.noResource(kind, marker)
	})
	if bad != nil {
		return *bad
	}
	body := obj{}
	if full && q.query.Get("limit") != "" {
		body[collection+"_links"] = q.nextLink(q.http.URL.Path, text(kept[end-1]["id"]))
	}
	trimmed := []obj{}
	for _, view := range kept[start:end] {
		trimmed = append(trimmed, q.trimmed(view))
	}
	body[collection] = trimmed
	return ok(body)
}

// trimmed keeps the fields asked for.
func (q *request) trimmed(view obj) obj {
	asked := q.query["fields"]
	if len(asked) == 0 {
		return view
	}
	kept := obj{}
	for _, name := range asked {
		if value, known := view[name]; known {
			kept[name] = value
		}
	}
	return kept
}

// neutronFits applies the filters: a value given several times means any of
// them.
func (q *request) neutronFits(view obj) (bool, *reply) {
	for name, wanted := range q.query {
		if contains(listQuery, name) {
			continue
		}
		fits := false
		switch name {
		case "tags", "tags-any", "not-tags", "not-tags-any":
			fits = tagsFit(name, view["tags"].([]string), strings.Split(strings.Join(wanted, ","), ","))
		case "fixed_ips":
			var bad *reply
			if fits, bad = q.fixedIPsFit(view, wanted); bad != nil {
				return false, bad
			}
		case "security_groups":
			have := view["security_groups"].([]string)
			for _, id := range wanted {
				fits = fits || contains(have, id)
			}
		default:
			for _, value := range wanted {
				fits = fits || strings.EqualFold(fmt.Sprint(view[name]), value)
			}
			if name == "name" || name == "description" || name == "device_id" { // these keep their case
				fits = contains(wanted, text(view[name]))
			}
		}
		if !fits {
			return false, nil
		}
	}
	return true, nil
}

func tagsFit(filter string, have, wanted []string) bool {
	hits := 0
	for _, tag := range wanted {
		if contains(have, tag) {
			hits++
		}
	}
	switch filter {
	case "tags":
		return hits == len(wanted)
	case "tags-any":
		return hits > 0
	case "not-tags":
		return hits < len(wanted)
	}
	return hits == 0
}

// fixedIPsFit follows _get_ports_query of neutron/db/db_base_plugin_v2.py: one of
// the addresses and one of the subnets, on the same entry or not.
func (q *request) fixedIPsFit(view obj, wanted []string) (bool, *reply) {
	asked := map[string][]string{}
	for _, condition := range wanted {
		parts := strings.SplitN(condition, "=", 2)
		if len(parts) != 2 || parts[0] != "ip_address" && parts[0] != "subnet_id" {
			bad := q.cloud.unmodelled(q.http, q.service, http.StatusNotImplemented, "the filter fixed_ips="+condition)
			return false, &bad
		}
		asked[parts[0]] = append(asked[parts[0]], parts[1])
	}
	for name, values := range asked {
		found := false
		for _, ip := range view["fixed_ips"].([]obj) {
			found = found || contains(values, text(ip[name]))
		}
		if !found {
			return false, nil
		}
	}
	return true, nil
}

// noResource is the 404 of a kind, in Neutron's words.
func (q *request) noResource(kind, id string) reply {
	switch kind {
	case "network":
		return neutron(404, "NetworkNotFound", "Network %s could not be found.", id)
	case "subnet":
		return neutron(404, "SubnetNotFound", "Subnet %s could not be found.", id)
	case "port":
		return neutron(404, "PortNotFound", "Port %s could not be found.", id)
	case "floatingip":
		return neutron(404, "FloatingIPNotFound", "Floating IP %s could not be found", id)
	case "security_group_rule":
		return neutron(404, "SecurityGroupRuleNotFound", "Security group rule %s does not exist", id)
	}
	return neutron(404, "SecurityGroupNotFound", "Security group %s does not exist", id)
}

func listNetworks(q *request) reply {
	views := []obj{}
	for _, n := range q.cloud.networks {
		views = append(views, networkView(n))
	}
	return q.neutronList("networks", views)
}

func showNetwork(q *request) reply {
	if n := q.cloud.network(q.vars["network"]); n != nil {
		return ok(obj{"network": q.trimmed(networkView(n))})
	}
	return q.noResource("network", q.vars["network"])
}

func listSubnets(q *request) reply {
	views := []obj{}
	for _, n := range q.cloud.networks {
		for _, s := range n.subnets {
			views = append(views, subnetView(n, s))
		}
	}
	return q.neutronList("subnets", views)
}

func showSubnet(q *request) reply {
	for _, n := range q.cloud.networks {
		if s := n.subnet(q.vars["subnet"]); s != nil {
			return ok(obj{"subnet": q.trimmed(subnetView(n, s))})
		}
	}
	return q.noResource("subnet", q.vars["subnet"])
}

func listGroups(q *request) reply {
	views := []obj{}
	for _, g := range q.cloud.groups {
		views = append(views, q.cloud.groupView(g))
	}
	return q.neutronList("security_groups", views)
}

func showGroup(q *request) reply {
	if g := q.cloud.group(q.vars["group"]); g != nil {
		return ok(obj{"security_group": q.trimmed(q.cloud.groupView(g))})
	}
	return q.noResource("security_group", q.vars["group"])
}

func (c *Cloud) networkLimits() map[string]int {
	return map[string]int{"network": 100, "subnet": 100, "port": c.quota.Ports, "security_group": c.quota.Groups,
		"security_group_rule": c.quota.Rules, "router": 10, "floatingip": c.quota.Floating, "subnetpool": -1, "rbac_policy": 10}
}

func networkQuotas(q *request) reply {
	limits := obj{}
	for name, limit := range q.cloud.networkLimits() {
		limits[name] = limit
	}
	return q.ownQuota(limits, "Only admin can view or configure quota")
}

func networkQuotaDetails(q *request) reply {
	c := q.cloud
	networks, subnets := 0, 0
	for _, n := range c.networks {
		if n.projectID == c.ids.project {
			networks, subnets = networks+1, subnets+len(n.subnets)
		}
	}
	used := map[string]int{"network": networks, "subnet": subnets, "port": len(c.ports), "security_group": len(c.groups),
		"security_group_rule": c.ruleCount(), "floatingip": len(c.floating)}
	details := obj{}
	for name, limit := range c.networkLimits() {
		details[name] = obj{"limit": limit, "used": used[name], "reserved": 0}
	}
	return q.ownQuota(details, "Only admin is authorized to access quotas for another tenant")
}

// ownQuota: everybody may see the quota of the own project
// (neutron/extensions/quotasv2.py, quotasv2_detail.py).
func (q *request) ownQuota(quota obj, reason string) reply {
	if q.vars["project"] != q.cloud.ids.project {
		return neutron(http.StatusForbidden, "AdminRequired", "User does not have admin privileges: %s.", reason)
	}
	return ok(obj{"quota": quota})
}

// How the addresses in use answer to an ordinary user.
const (
	availabilityForbidden = "forbidden" // 403: Neutron's default policy, newer releases
	availabilityHidden    = "hidden"    // 404: the same policy, older releases
	availabilityShown     = "shown"     // 200: an operator allowed it
)

// availabilityView counts as neutron/db/network_ip_availability_db.py: every
// address in use, in the pool or not, against the size of the pool. Of a subnet
// of IPv6 that is a number of more than 63 bits.
func (c *Cloud) availabilityView(n *network) obj {
	all, allUsed, allTotal := []obj{}, 0, new(big.Int)
	for _, s := range n.subnets {
		used := 0
		for _, p := range c.ports {
			for _, ip := range p.fixedIPs {
				if ip.subnetID == s.id {
					used++
				}
			}
		}
		total := new(big.Int).Sub(new(big.Int).SetBytes(net.ParseIP(s.last)), new(big.Int).SetBytes(net.ParseIP(s.first)))
		total.Add(total, big.NewInt(1))
		allUsed += used
		allTotal.Add(allTotal, total)
		all = append(all, obj{"subnet_id": s.id, "subnet_name": s.name, "cidr": s.cidr.String(), "ip_version": s.version(),
			"used_ips": used, "total_ips": total})
	}
	return obj{"network_id": n.id, "network_name": n.name, "tenant_id": n.projectID, "project_id": n.projectID,
		"used_ips": allUsed, "total_ips": allTotal, "subnet_ip_availability": all}
}

// showAvailability: the policy is looked at after the answer was made, and sets
// its status only; the body stays (after() of
// neutron/pecan_wsgi/hooks/policy_enforcement.py). A client must not read it.
func showAvailability(q *request) reply {
	n := q.cloud.network(q.vars["network"])
	if n == nil {
		return q.noResource("network", q.vars["network"])
	}
	body := obj{"network_ip_availability": q.cloud.availabilityView(n)}
	switch q.cloud.settings.IPAvailability {
	case availabilityHidden:
		return answered(http.StatusNotFound, body)
	case availabilityShown:
		return ok(body)
	}
	return answered(http.StatusForbidden, body)
}

// listAvailability leaves out what the policy hides, which is everything or nothing.
func listAvailability(q *request) reply {
	views := []obj{}
	if q.cloud.settings.IPAvailability == availabilityShown {
		for _, n := range q.cloud.networks {
			views = append(views, q.cloud.availabilityView(n))
		}
	}
	return q.neutronList("network_ip_availabilities", views)
}

// inOrder compares addresses of one family.
func inOrder(first, last net.IP) bool { return bytes.Compare(first.To16(), last.To16()) <= 0 }

// following is the address after this one.
func following(ip net.IP) net.IP {
	next := append(net.IP{}, ip.To16()...)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			break
		}
	}
	return next
}

// addressHolder is the port that has an address on a network.
func (c *Cloud) addressHolder(n *network, address string) *port {
	for _, p := range c.ports {
		if p.network != n {
			continue
		}
		for _, ip := range p.fixedIPs {
			if ip.address == address {
				return p
			}
		}
	}
	return nil
}

// freeAddress takes the lowest free address of the pool, "" when there is none.
func (c *Cloud) freeAddress(n *network, s *subnet, taken []fixedIP) string {
	for i, last := net.ParseIP(s.first), net.ParseIP(s.last); inOrder(i, last); i = following(i) {
		address := i.String()
		free := c.addressHolder(n, address) == nil
		for _, ip := range taken {
			free = free && ip.address != address
		}
		if free {
			return address
		}
	}
	return ""
}

// automaticAddresses are those that a port gets whatever it asks for: one of
// each subnet that derives them from MACs (RFC 4291).
func automaticAddresses(n *network, mac string) []fixedIP {
	found := []fixedIP{}
	hardware, err := net.ParseMAC(mac)
	for _, s := range n.subnets {
		if !s.automatic() || err != nil {
			continue
		}
		ip := append(append(net.IP{}, s.cidr.IP[:8]...), hardware[0]^2, hardware[1], hardware[2], 0xff, 0xfe, hardware[3], hardware[4], hardware[5])
		found = append(found, fixedIP{s.id, ip.String()})
	}
	return found
}

// anyAddresses gives one of each family, as a port gets that asks for nothing.
func (c *Cloud) anyAddresses(n *network, mac string) ([]fixedIP, *reply) {
	found := []fixedIP{}
	for _, version := range []int{4, 6} {
		exists, address := false, ""
		for _, s := range n.subnets {
			if s.version() != version || s.automatic() {
				continue
			}
			exists = true
			if address = c.freeAddress(n, s, nil); address != "" {
				found = append(found, fixedIP{s.id, address})
				break
			}
		}
		if exists && address == "" {
			return nil, noMoreAddresses(n)
		}
	}
	return append(found, automaticAddresses(n, mac)...), nil
}

func noMoreAddresses(n *network) *reply {
	bad := neutron(http.StatusConflict, "IpAddressGenerationFailure", "No more IP addresses available on network %s.", n.id)
	return &bad
}
