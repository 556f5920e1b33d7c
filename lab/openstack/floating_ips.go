// Neutron v2.0: floating IPs. The project's own network has a router to the
// external one; routers themselves are not modelled.
package openstack

import (
	"net"
	"net/http"
	"time"
)

type floatingIP struct {
	id, address, description string
	network                  *network
	port                     *port // nil: not associated
	created                  time.Time
}

var (
	floatingCreateFields = []string{"floatingip.floating_network_id", "floatingip.port_id", "floatingip.description"}
	floatingFields       = []string{"floatingip.port_id", "floatingip.description"}
	floatingQuery        = append([]string{"id", "floating_ip_address", "floating_network_id", "fixed_ip_address", "port_id",
		"router_id", "status", "description", "tenant_id", "project_id"}, listQuery...)
)

func (c *Cloud) floatingView(f *floatingIP) obj {
	view := obj{
		"id": f.id, "tenant_id": c.ids.project, "project_id": c.ids.project, "floating_ip_address": f.address,
		"floating_network_id": f.network.id, "router_id": nil, "port_id": nil, "fixed_ip_address": nil, "status": "DOWN",
		"description": f.description, "port_details": nil, "tags": []string{}, "created_at": novaTime(f.created),
		"updated_at": novaTime(f.created), "revision_number": 1,
	}
	if f.port != nil {
		view["port_id"], view["fixed_ip_address"], view["status"] = f.port.id, f.port.fixedIPs[0].address, "ACTIVE"
		view["router_id"] = stableUUID(1)
	}
	return view
}

func (q *request) thisFloating() (*floatingIP, *reply) {
	for _, f := range q.cloud.floating {
		if f.id == q.vars["floatingip"] {
			return f, nil
		}
	}
	bad := q.noResource("floatingip", q.vars["floatingip"])
	return nil, &bad
}

func listFloating(q *request) reply {
	views := []obj{}
	for _, f := range q.cloud.floating {
		views = append(views, q.cloud.floatingView(f))
	}
	return q.neutronList("floatingips", views)
}

func showFloating(q *request) reply {
	f, bad := q.thisFloating()
	if bad != nil {
		return *bad
	}
	return ok(obj{"floatingip": q.trimmed(q.cloud.floatingView(f))})
}

func createFloating(q *request) reply {
	c := q.cloud
	asked := object(q.body["floatingip"])
	id := text(asked["floating_network_id"])
	if id == "" {
		return neutron(400, "HTTPBadRequest", "Failed to parse request. Required attribute 'floating_network_id' not specified")
	}
	n := c.network(id)
	if n == nil {
		return q.noResource("network", id)
	}
	if !n.external {
		return neutron(400, "BadRequest", "Bad floatingip request: Network %s is not a valid external network.", id)
	}
	if over(c.networkLimits()["floatingip"], len(c.floating), 1) {
		return neutron(http.StatusConflict, "OverQuota", "Quota exceeded for resources: ['floatingip'].")
	}
	f := &floatingIP{id: newUUID(), network: n, description: text(asked["description"]), created: time.Now().UTC()}
	if f.address = c.freeFloating(n); f.address == "" {
		return neutron(http.StatusConflict, "IpAddressGenerationFailure", "No more IP addresses available on network %s.", n.id)
	}
	if bad := q.associate(f, asked["port_id"]); bad != nil {
		return *bad
	}
	c.floating = append(c.floating, f)
	return answered(http.StatusCreated, obj{"floatingip": c.floatingView(f)})
}

func updateFloating(q *request) reply {
	f, bad := q.thisFloating()
	if bad != nil {
		return *bad
	}
	asked := object(q.body["floatingip"])
	if port, is := asked["port_id"]; is {
		if bad := q.associate(f, port); bad != nil {
			return *bad
		}
	}
	if description, is := asked["description"]; is {
		f.description = text(description)
	}
	return ok(obj{"floatingip": q.cloud.floatingView(f)})
}

// associate gives the address to a port, or takes it away; nothing is changed
// when it is refused.
func (q *request) associate(f *floatingIP, portID interface{}) *reply {
	id := text(portID)
	if id == "" {
		f.port = nil
		return nil
	}
	refuse := func(bad reply) *reply { return &bad }
	p := q.cloud.port(id)
	if p == nil {
		return refuse(q.noResource("port", id))
	}
	if p.network.projectID != q.cloud.ids.project {
		return refuse(neutron(http.StatusNotFound, "ExternalGatewayForFloatingIPNotFound", "External network %s is not reachable "+
			"from subnet %s.  Therefore, cannot associate Port %s with a Floating IP.", f.network.id, p.network.subnets[0].id, p.id))
	}
	for _, other := range q.cloud.floating {
		if other != f && other.port == p {
			return refuse(neutron(http.StatusConflict, "FloatingIPPortAlreadyAssociated", "Cannot associate floating IP %s (%s) "+
				"with port %s using fixed IP %s, as that fixed IP already has a floating IP on external network %s.",
				f.address, f.id, p.id, p.fixedIPs[0].address, f.network.id))
		}
	}
	f.port = p
	return nil
}

func (c *Cloud) freeFloating(n *network) string {
	taken := map[string]bool{}
	for _, f := range c.floating {
		taken[f.address] = true
	}
	for i, last := net.ParseIP(n.subnets[0].first), net.ParseIP(n.subnets[0].last); inOrder(i, last); i = following(i) {
		if address := i.String(); !taken[address] && c.addressHolder(n, address) == nil {
			return address
		}
	}
	return ""
}

func deleteFloating(q *request) reply {
	f, bad := q.thisFloating()
	if bad != nil {
		return *bad
	}
	for i, other := range q.cloud.floating {
		if other == f {
			q.cloud.floating = append(q.cloud.floating[:i:i], q.cloud.floating[i+1:]...)
			break
		}
	}
	return answered(http.StatusNoContent, nil)
}
