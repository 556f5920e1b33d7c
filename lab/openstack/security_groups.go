// Neutron v2.0: security groups and their rules, made, changed and deleted.
package openstack

import (
	"net"
	"net/http"
	"strings"
	"time"
)

var (
	groupFields = []string{"security_group.name", "security_group.description"}
	ruleFields  = []string{"security_group_rule.security_group_id", "security_group_rule.direction", "security_group_rule.ethertype",
		"security_group_rule.protocol", "security_group_rule.port_range_min", "security_group_rule.port_range_max",
		"security_group_rule.remote_ip_prefix", "security_group_rule.description"}
	ruleQuery = append([]string{"id", "security_group_id", "direction", "ethertype", "protocol", "remote_ip_prefix",
		"description", "tenant_id", "project_id"}, listQuery...)
)

func (q *request) thisGroup() (*securityGroup, *reply) {
	if g := q.cloud.group(q.vars["group"]); g != nil {
		return g, nil
	}
	bad := q.noResource("security_group", q.vars["group"])
	return nil, &bad
}

// createGroup: a new group lets everything out. Names may repeat.
func createGroup(q *request) reply {
	c := q.cloud
	asked := object(q.body["security_group"])
	if asked == nil {
		return neutron(400, "HTTPBadRequest", "Unable to find '%s' in request body", "security_group")
	}
	if text(asked["name"]) == "default" {
		return neutron(http.StatusConflict, "SecurityGroupDefaultAlreadyExists", "Default security group already exists.")
	}
	if over(c.networkLimits()["security_group"], len(c.groups), 1) {
		return neutron(http.StatusConflict, "OverQuota", "Quota exceeded for resources: ['security_group'].")
	}
	g := &securityGroup{id: newUUID(), name: text(asked["name"]), description: text(asked["description"])}
	g.rules = c.firstRules(g)
	c.groups = append(c.groups, g)
	return answered(http.StatusCreated, obj{"security_group": c.groupView(g)})
}

func updateGroup(q *request) reply {
	g, bad := q.thisGroup()
	if bad != nil {
		return *bad
	}
	asked := object(q.body["security_group"])
	if name, is := asked["name"]; is {
		if g.name == "default" {
			return neutron(http.StatusConflict, "SecurityGroupCannotUpdateDefault", "Updating default security group not allowed.")
		}
		g.name = text(name)
	}
	if description, is := asked["description"]; is {
		g.description = text(description)
	}
	return ok(obj{"security_group": q.cloud.groupView(g)})
}

func deleteGroup(q *request) reply {
	c := q.cloud
	g, bad := q.thisGroup()
	if bad != nil {
		return *bad
	}
	for _, p := range c.ports {
		if contains(p.groups, g.id) {
			return neutron(http.StatusConflict, "SecurityGroupInUse", "Security Group %s in use.", g.id)
		}
	}
	if g.name == "default" {
		return neutron(http.StatusConflict, "SecurityGroupCannotRemoveDefault",
			"Insufficient rights for removing default security group.")
	}
	for i, other := range c.groups {
		if other == g {
			c.groups = append(c.groups[:i:i], c.groups[i+1:]...)
			break
		}
	}
	return answered(http.StatusNoContent, nil)
}

func listRules(q *request) reply {
	views := []obj{}
	for _, g := range q.cloud.groups {
		views = append(views, g.rules...)
	}
	return q.neutronList("security_group_rules", views)
}

// createRule models rules for TCP with a prefix, as they are needed to let SSH
// in; another protocol is refused loudly.
func createRule(q *request) reply {
	c := q.cloud
	asked := object(q.body["security_group_rule"])
	if asked == nil {
		return neutron(400, "HTTPBadRequest", "Unable to find '%s' in request body", "security_group_rule")
	}
	for _, required := range []string{"security_group_id", "direction"} {
		if text(asked[required]) == "" {
			return neutron(400, "HTTPBadRequest", "Failed to parse request. Required attribute '%s' not specified", required)
		}
	}
	g := c.group(text(asked["security_group_id"]))
	if g == nil {
		return q.noResource("security_group", text(asked["security_group_id"]))
	}
	if text(asked["protocol"]) != "tcp" {
		return c.unmodelled(q.http, q.service, http.StatusNotImplemented, "security group rules for the protocol "+text(asked["protocol"]))
	}
	family := text(asked["ethertype"])
	if family == "" {
		family = "IPv4"
	}
	prefix, normal, bad := rulePrefix(asked["remote_ip_prefix"], family)
	if bad != nil {
		return *bad
	}
	low, lowIs := integer(asked["port_range_min"])
	high, highIs := integer(asked["port_range_max"])
	if !lowIs || !highIs || low < 1 || high > 65535 || low > high {
		return neutron(400, "SecurityGroupInvalidPortRange",
			"For TCP/UDP protocols, port_range_min must be <= port_range_max")
	}
	rule := c.rule(g, text(asked["direction"]), "tcp", nil)
	rule["ethertype"], rule["port_range_min"], rule["port_range_max"] = family, low, high
	rule["remote_ip_prefix"], rule["normalized_cidr"], rule["description"] = prefix, normal, text(asked["description"])
	now := novaTime(time.Now().UTC())
	rule["created_at"], rule["updated_at"] = now, now
	for _, other := range g.rules {
		if sameRule(other, rule) {
			return neutron(http.StatusConflict, "SecurityGroupRuleExists",
				"Security group rule already exists. Rule id is %s.", other["id"])
		}
	}
	if over(c.networkLimits()["security_group_rule"], c.ruleCount(), 1) {
		return neutron(http.StatusConflict, "OverQuota", "Quota exceeded for resources: ['security_group_rule'].")
	}
	g.rules = append(g.rules, rule)
	return answered(http.StatusCreated, obj{"security_group_rule": rule})
}

// rulePrefix: an address without a length is one host, and is spelt as netaddr does;
// normal has no bits of the host. The family must fit.
func rulePrefix(given interface{}, family string) (spelt, normal interface{}, bad *reply) {
	prefix := text(given)
	if prefix == "" {
		return nil, nil, nil
	}
	if !strings.Contains(prefix, "/") {
		prefix += map[bool]string{true: "/128", false: "/32"}[strings.Contains(prefix, ":")]
	}
	ip, network, err := net.ParseCIDR(prefix)
	if err != nil {
		bad := neutron(400, "InvalidCIDR", "Invalid CIDR %s given as IP prefix.", prefix)
		return nil, nil, &bad
	}
	if (ip.To4() != nil) != (family == "IPv4") {
		bad := neutron(400, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype %s for CIDR %s", family, prefix)
		return nil, nil, &bad
	}
	return ip.String() + prefix[strings.Index(prefix, "/"):], network.String(), nil
}

// sameRule compares as _check_for_duplicate_rules does: the description does not
// count, and every address is as good as no prefix.
func sameRule(a, b obj) bool {
	for _, name := range []string{"direction", "ethertype", "protocol", "port_range_min", "port_range_max"} {
		if a[name] != b[name] {
			return false
		}
	}
	any := func(prefix interface{}) string {
		if p := text(prefix); p != "0.0.0.0/0" && p != "::/0" {
			return p
		}
		return ""
	}
	return any(a["remote_ip_prefix"]) == any(b["remote_ip_prefix"])
}

func (c *Cloud) ruleCount() int {
	count := 0
	for _, g := range c.groups {
		count += len(g.rules)
	}
	return count
}

func deleteRule(q *request) reply {
	for _, g := range q.cloud.groups {
		for i, rule := range g.rules {
			if rule["id"] == q.vars["rule"] {
				g.rules = append(g.rules[:i:i], g.rules[i+1:]...)
				return answered(http.StatusNoContent, nil)
			}
		}
	}
	return q.noResource("security_group_rule", q.vars["rule"])
}
