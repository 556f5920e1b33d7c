// Tests of what a conversion host is made from: security groups, floating IPs,
// servers from an image.
package openstack

import (
	"strings"
	"testing"
)

func (b *bench) kindOf(answer obj) string {
	b.Helper()
	return text(object(answer["NeutronError"])["type"])
}

func TestSecurityGroups(t *testing.T) {
	b := newBench(t)
	made := object(b.want(201, "POST", "/network/v2.0/security-groups", "", `{"security_group":{"name":"g","description":"mine"}}`)["security_group"])
	id := text(made["id"])
	if rules := list(made["security_group_rules"]); len(rules) != 2 {
		t.Errorf("a new group lets everything out: %v", rules)
	}
	found := list(b.want(200, "GET", "/network/v2.0/security-groups?project_id="+b.cloud.ids.project+"&description=mine", "", "")["security_groups"])
	if len(found) != 1 {
		t.Error(found)
	}
	rule := func(more string) string {
		return `{"security_group_rule":{"security_group_id":"` + id + `","direction":"ingress","protocol":"tcp","port_range_min":22,"port_range_max":22` + more + `}}`
	}
	const rules = "/network/v2.0/security-group-rules"
	one := object(b.want(201, "POST", rules, "", rule(`,"ethertype":"IPv4","remote_ip_prefix":"0.0.0.0/0","description":"a"`))["security_group_rule"])
	b.want(201, "POST", rules, "", rule(`,"ethertype":"IPv6","remote_ip_prefix":"::/0"`))
	b.want(201, "POST", rules, "", rule(`,"remote_ip_prefix":"192.0.2.1"`))
	spelt := object(b.want(201, "POST", rules, "", rule(`,"ethertype":"IPv6","remote_ip_prefix":"2001:DB8:0::1/64"`))["security_group_rule"])
	if spelt["remote_ip_prefix"] != "2001:db8::1/64" || spelt["normalized_cidr"] != "2001:db8::/64" {
		t.Error(spelt)
	}
	if refused := b.want(409, "POST", rules, "", rule(`,"description":"b"`)); b.kindOf(refused) != "SecurityGroupRuleExists" {
		t.Error(refused)
	}
	if refused := b.want(400, "POST", rules, "", rule(`,"remote_ip_prefix":"::/0"`)); b.kindOf(refused) != "SecurityGroupRuleParameterConflict" {
		t.Error(refused)
	}
	b.want(204, "DELETE", rules+"/"+text(one["id"]), "", "")
	b.want(404, "DELETE", rules+"/"+text(one["id"]), "", "")
	b.want(200, "PUT", "/network/v2.0/security-groups/"+id, "", `{"security_group":{"description":"other"}}`)
	port := object(b.want(201, "POST", "/network/v2.0/ports", "", `{"port":{"network_id":"`+b.cloud.networks[0].id+`","security_groups":["`+id+`"]}}`)["port"])
	if refused := b.want(409, "DELETE", "/network/v2.0/security-groups/"+id, "", ""); b.kindOf(refused) != "SecurityGroupInUse" {
		t.Error(refused)
	}
	b.want(204, "DELETE", "/network/v2.0/ports/"+text(port["id"]), "", "")
	b.want(204, "DELETE", "/network/v2.0/security-groups/"+id, "", "")
	b.want(409, "DELETE", "/network/v2.0/security-groups/"+b.cloud.groupNamed("default").id, "", "")
}

func TestFloatingIPs(t *testing.T) {
	b := newBench(t)
	const path = "/network/v2.0/floatingips"
	port := func(network *network) string {
		return text(object(b.want(201, "POST", "/network/v2.0/ports", "", `{"port":{"network_id":"`+network.id+`"}}`)["port"])["id"])
	}
	own, shared, public := port(b.cloud.networks[0]), port(b.cloud.networks[1]), b.cloud.networks[2].id
	ask := func(network, port string) string {
		return `{"floatingip":{"floating_network_id":"` + network + `","port_id":"` + port + `","description":"mine"}}`
	}
	made := object(b.want(201, "POST", path, "", ask(public, own))["floatingip"])
	if made["status"] != "ACTIVE" || made["port_id"] != own || !strings.HasPrefix(text(made["floating_ip_address"]), "203.0.113.") {
		t.Error(made)
	}
	for kind, body := range map[string]string{"BadRequest": ask(b.cloud.networks[0].id, own), "PortNotFound": ask(public, "none"),
		"ExternalGatewayForFloatingIPNotFound": ask(public, shared), "FloatingIPPortAlreadyAssociated": ask(public, own)} {
		if answer := b.call("POST", path, "", body); !strings.Contains(answer.Body.String(), `"`+kind+`"`) {
			t.Errorf("%s: %d %s", kind, answer.Code, answer.Body)
		}
	}
	b.want(204, "DELETE", "/network/v2.0/ports/"+own, "", "")
	now := object(b.want(200, "GET", path+"/"+text(made["id"]), "", "")["floatingip"])
	if now["status"] != "DOWN" || now["port_id"] != nil {
		t.Error(now)
	}
	other := port(b.cloud.networks[0])
	b.want(200, "PUT", path+"/"+text(made["id"]), "", `{"floatingip":{"port_id":"`+other+`"}}`)
	if found := list(b.want(200, "GET", path+"?port_id="+other, "", "")["floatingips"]); len(found) != 1 {
		t.Error(found)
	}
	b.want(204, "DELETE", path+"/"+text(made["id"]), "", "")
	b.want(404, "DELETE", path+"/"+text(made["id"]), "", "")
}

func TestServersFromImages(t *testing.T) {
	b := newBench(t)
	image := text(b.cloud.images[0]["id"])
	ask := func(flavor, more string) string {
		return `{"server":{"name":"host","flavorRef":"` + flavor + `","networks":"none",` + more + `}}`
	}
	const path = "/compute/v2.1/servers"
	refused := b.want(403, "POST", path, "compute 2.79", ask("1", `"imageRef":"`+image+`"`))
	if !strings.Contains(text(object(refused["forbidden"])["message"]), "zero disk") {
		t.Error(refused)
	}
	b.want(400, "POST", path, "compute 2.79", ask("1", `"imageRef":"none"`))
	if answer := b.onSocket("POST", "/flavors", `{"id":"9","name":"m1.disk","vcpus":1,"ram":512,"disk":10}`); answer.Code != 200 {
		t.Fatal(answer.Body)
	}
	if answer := b.onSocket("POST", "/flavors", `{"id":"9","name":"m1.disk","vcpus":1,"ram":512,"disk":10}`); answer.Code != 409 {
		t.Fatal(answer.Body)
	}
	b.want(202, "POST", path, "compute 2.79", ask("9", `"imageRef":"`+image+`"`))
	mapping := func(size string) string {
		return `"block_device_mapping_v2":[{"boot_index":0,"uuid":"` + image + `","source_type":"image","destination_type":"volume",` +
			`"volume_size":` + size + `,"volume_type":"lab","delete_on_termination":true}]`
	}
	b.want(400, "POST", path, "compute 2.79", ask("1", mapping("0")))
	b.want(400, "POST", path, "compute 2.66", ask("1", mapping("5")))
	id := text(object(b.want(202, "POST", path, "compute 2.79", ask("1", mapping("5")))["server"])["id"])
	b.until(func() bool { return b.cloud.server(id).status == "ACTIVE" })
	if len(b.cloud.volumes) != 1 || b.cloud.volumes[0].size != 5 || b.cloud.volumes[0].status != "in-use" || !b.cloud.volumes[0].bootable {
		t.Fatalf("%+v", b.cloud.volumes)
	}
	b.want(204, "DELETE", path+"/"+id, "", "")
	b.until(func() bool { return len(b.cloud.volumes) == 0 })
}
