// Nova v2.1: server groups, whose members may have to run on hosts of their own.
// This cloud has one host: a group is remembered, and obeyed by nobody.
package openstack

import "net/http"

type serverGroup struct {
	id, name, policy string
	members          []string
}

func (c *Cloud) serverGroupView(g *serverGroup) obj {
	return obj{"id": g.id, "name": g.name, "policies": []string{g.policy}, "members": append([]string{}, g.members...), "metadata": obj{}}
}

func listServerGroups(q *request) reply {
	views := []obj{}
	for _, g := range q.cloud.serverGroupsOfProject {
		views = append(views, q.cloud.serverGroupView(g))
	}
	return ok(obj{"server_groups": views})
}

func createServerGroup(q *request) reply {
	asked := object(q.body["server_group"])
	policy := text(asked["policy"])
	if all := stringList(asked["policies"]); policy == "" && len(all) == 1 {
		policy = all[0]
	}
	name := text(asked["name"])
	if name == "" || !contains([]string{"affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"}, policy) {
		return q.badRequest("Invalid input for field/attribute server_group. Value: %v.", asked)
	}
	made := &serverGroup{id: newUUID(), name: name, policy: policy}
	q.cloud.serverGroupsOfProject = append(q.cloud.serverGroupsOfProject, made)
	return ok(obj{"server_group": q.cloud.serverGroupView(made)})
}

func deleteServerGroup(q *request) reply {
	all := q.cloud.serverGroupsOfProject
	for i, g := range all {
		if g.id == q.vars["group"] {
			q.cloud.serverGroupsOfProject = append(all[:i:i], all[i+1:]...)
			return answered(http.StatusNoContent, nil)
		}
	}
	return q.missing("Instance group " + q.vars["group"] + " could not be found.")
}

// join makes a new server a member of the group that its hints name.
func (c *Cloud) join(q *request, s *server) *reply {
	id := text(object(q.body["os:scheduler_hints"])["group"])
	if id == "" {
		return nil
	}
	for _, g := range c.serverGroupsOfProject {
		if g.id == id {
			g.members = append(g.members, s.id)
			return nil
		}
	}
	bad := q.badRequest("Invalid input received: Instance group %s could not be found.", id)
	return &bad
}
