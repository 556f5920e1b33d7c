"""What is asked before and beside a migration, what the lab has not, and what a person types."""

import json
import os
import pathlib
import stat
import unittest

from lab import Case, Lab, until  # first: it may change the interpreter
from openstack import exceptions


class Room(Case):
    """What a client asks before it begins: is the address free, is there room for ports, volumes and servers?"""

    def found(self, **filters):
        return sorted(p.id for p in self.cloud.network.ports(**filters))

    def test_ports_by_mac_and_network(self):
        mine = self.make_port(mac_address="00:50:56:00:01:01")
        theirs = self.make_port(network_id=self.lab.ready["shared_network_id"])
        network = self.lab.ready["network_id"]
        self.assertEqual([mine.id], self.found(mac_address="00:50:56:00:01:01", network_id=network))
        self.assertEqual([mine.id], self.found(mac_address="00:50:56:00:01:01".upper(), network_id=network))
        self.assertEqual([], self.found(mac_address="00:50:56:00:01:01", network_id=self.lab.ready["shared_network_id"]))
        self.assertEqual([], self.found(mac_address="00:50:56:00:01:02", network_id=network))
        both = self.cloud.network.get(f"/ports?mac_address={mine.mac_address}&mac_address={theirs.mac_address}").json()["ports"]
        self.assertEqual({mine.id, theirs.id}, {p["id"] for p in both})

    def test_ports_by_address(self):
        one, two = (self.make_port(fixed_ips=[{"ip_address": f"192.0.2.{n}"}]) for n in (60, 61))
        self.assertEqual([one.id], self.found(fixed_ips="ip_address=192.0.2.60"))
        self.assertEqual([], self.found(fixed_ips="ip_address=192.0.2.6"))
        self.assertEqual([], self.found(fixed_ips="ip_address=192.0.2.62"))
        self.assertEqual(sorted([one.id, two.id]), self.found(fixed_ips=["ip_address=192.0.2.60", "ip_address=192.0.2.61"]))
        subnet = f"subnet_id={self.lab.ready['subnet_id']}"
        self.assertEqual([two.id], self.found(fixed_ips=["ip_address=192.0.2.61", subnet]))
        self.assertIn(one.id, self.found(fixed_ips=subnet))
        self.assertEqual([], self.found(fixed_ips=["ip_address=192.0.2.61", "subnet_id=nothing"]))

    def test_subnet(self):
        subnet = self.cloud.network.get_subnet(self.lab.ready["subnet_id"])
        self.assertEqual(("192.0.2.0/24", "192.0.2.1", 4, self.lab.ready["network_id"]),
                         (subnet.cidr, subnet.gateway_ip, subnet.ip_version, subnet.network_id))
        self.assertEqual([{"start": "192.0.2.2", "end": "192.0.2.254"}], subnet.allocation_pools)
        path = f"/subnets/{subnet.id}/pool"
        self.addCleanup(self.lab.control, "POST", path, subnet.allocation_pools[0])
        self.lab.control("POST", path, {"start": "192.0.2.200", "end": "192.0.2.201"})
        self.assertEqual([{"start": "192.0.2.200", "end": "192.0.2.201"}], self.cloud.network.get_subnet(subnet.id).allocation_pools)
        self.assertEqual({"192.0.2.200", "192.0.2.201"}, {self.make_port().fixed_ips[0]["ip_address"] for _ in range(2)})
        self.refused(exceptions.ConflictException, 409, "No more IP addresses available on network", self.make_port)
        self.make_port(fixed_ips=[{"ip_address": "192.0.2.70"}])  # outside of the pool an address may still be asked for
        for wrong in ({"start": "192.0.2.9", "end": "192.0.2.8"}, {"start": "10.0.0.1", "end": "10.0.0.2"}, {}):
            self.assertRaises(AssertionError, self.lab.control, "POST", path, wrong)

    def test_addresses_in_use(self):
        network = self.lab.ready["network_id"]
        self.assertIsNotNone(self.cloud.network.find_extension("network-ip-availability"))
        ask = lambda: self.cloud.network.get_network_ip_availability(network)
        self.refused(exceptions.ForbiddenException, 403, "Forbidden", ask)
        self.assertEqual([], list(self.cloud.network.network_ip_availabilities()))
        self.lab.control("POST", "/settings", {"ip_availability": "hidden"})
        self.refused(exceptions.NotFoundException, 404, "Not Found", ask)
        self.lab.control("POST", "/settings", {"ip_availability": "shown"})
        before = ask()
        self.make_port(fixed_ips=[{"ip_address": "192.0.2.71"}, {"ip_address": "192.0.2.72"}])
        after = ask()
        self.assertEqual((253, 2), (after.total_ips, after.used_ips - before.used_ips))
        self.assertEqual([{"subnet_id": self.lab.ready["subnet_id"], "subnet_name": "lab-subnet", "cidr": "192.0.2.0/24", "ip_version": 4,
                           "total_ips": 253, "used_ips": after.used_ips}], after.subnet_ip_availability)
        self.assertEqual("lab-net", after.network_name)
        self.assertEqual({"lab-net", "shared-net", "public", "dual", "slaac"}, {a.network_name for a in self.cloud.network.network_ip_availabilities()})
        self.assertEqual([after.used_ips], [a.used_ips for a in self.cloud.network.network_ip_availabilities(network_name="lab-net")])
        self.refused(exceptions.NotFoundException, 404, "Network nothing could not be found",
                     lambda: self.cloud.network.get_network_ip_availability("nothing"))
        self.assertRaises(AssertionError, self.lab.control, "POST", "/settings", {"ip_availability": "perhaps"})

    def test_quota_of_ports(self):
        project = self.lab.ready["project_id"]
        before = self.cloud.network.get_quota(project, details=True).ports
        self.assertEqual((500, 0), (before["limit"], before["reserved"]))
        self.make_port()
        answer = self.cloud.network.get(f"/quotas/{project}/details.json").json()["quota"]["port"]
        self.assertEqual({"limit": 500, "used": before["used"] + 1, "reserved": 0}, answer)
        self.lab.control("POST", "/quota", {"ports": before["used"] + 1})
        self.assertEqual(before["used"] + 1, self.cloud.network.get_quota(project).ports)
        self.refused(exceptions.ConflictException, 409, r"Quota exceeded for resources: \['port'\]", self.make_port)
        self.lab.control("POST", "/quota", {"ports": -1})
        self.make_port()
        self.refused(exceptions.ForbiddenException, 403, "Only admin is authorized to access quotas for another tenant",
                     lambda: self.cloud.network.get_quota("0" * 32, details=True))

    def test_limits_of_volumes(self):
        self.lab.control("POST", "/quota", {"gigabytes": 77, "volumes": 7})
        before = self.cloud.block_storage.get("/limits").json()["limits"]["absolute"]
        self.make_volume(size=3)
        after = self.cloud.block_storage.get_limits().absolute
        self.assertEqual((77, 7), (after.max_total_volume_gigabytes, after.max_total_volumes))
        self.assertEqual((before["totalGigabytesUsed"] + 3, before["totalVolumesUsed"] + 1),
                         (after.total_gigabytes_used, after.total_volumes_used))
        endpoint = self.cloud.block_storage.get_endpoint()
        self.assertTrue(endpoint.endswith("/v3/" + self.lab.ready["project_id"]), endpoint)
        self.lab.control("POST", "/quota", {"gigabytes": -1})
        self.assertEqual(-1, self.cloud.block_storage.get_limits().absolute.max_total_volume_gigabytes)

    def test_limits_of_servers(self):
        self.lab.control("POST", "/quota", {"instances": 5, "cores": 9, "ram": 4096})
        answer = self.cloud.compute.get("/limits").json()["limits"]["absolute"]
        self.assertEqual((5, 9, 4096), tuple(answer[name] for name in ("maxTotalInstances", "maxTotalCores", "maxTotalRAMSize")))
        self.assertEqual((1, 1, 512), tuple(answer[name] for name in ("totalInstancesUsed", "totalCoresUsed", "totalRAMUsed")))
        volume = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(volume, True)
        self.make_server([volume], [self.make_port()])
        limits = self.cloud.compute.get_limits().absolute
        self.assertEqual((2, 2, 512 + 2048), (limits.instances_used, limits.total_cores_used, limits.total_ram_used))

    def test_volumes_of_a_server(self):
        host = self.lab.ready["instance_id"]
        self.assertEqual([], list(self.cloud.compute.volume_attachments(host)))
        one, two = self.make_volume(), self.make_volume()
        self.lab.control("POST", "/settings", {"max_disk_devices": 2})  # the root disk is one of them
        attached = self.cloud.compute.create_volume_attachment(host, volume_id=one.id)
        until(lambda: self.status(one) == "in-use")
        self.assertEqual([(one.id, attached.device)], [(a.volume_id, a.device) for a in self.cloud.compute.volume_attachments(host)])
        answer = self.cloud.compute.get(f"/servers/{host}/os-volume_attachments").json()["volumeAttachments"]
        self.assertEqual([(one.id, one.id, host)], [(a["id"], a["volumeId"], a["serverId"]) for a in answer])
        self.refused(exceptions.ForbiddenException, 403, r"The maximum allowed number of disk devices \(2\) to attach to a single "
                     "instance has been exceeded.", lambda: self.cloud.compute.create_volume_attachment(host, volume_id=two.id))
        self.assertEqual("available", self.status(two))
        self.cloud.compute.delete_volume_attachment(host, one.id)
        until(lambda: self.status(one) == "available")
        self.assertEqual([], list(self.cloud.compute.volume_attachments(host)))


class Hosts(Case):
    """What a conversion host is made of, by somebody else's client."""

    def test_groups_and_floating_ips(self):
        network = self.cloud.network
        group = network.create_security_group(name="sdk", description="mine")
        self.addCleanup(network.delete_security_group, group)
        rule = dict(security_group_id=group.id, direction="ingress", protocol="tcp", port_range_min=22, port_range_max=22)
        network.create_security_group_rule(remote_ip_prefix="192.0.2.0/24", **rule)
        self.refused(exceptions.ConflictException, 409, "Security group rule already exists",
                     lambda: network.create_security_group_rule(remote_ip_prefix="192.0.2.0/24", **rule))
        made = [r for r in network.security_group_rules(security_group_id=group.id) if r.direction == "ingress"]
        self.assertEqual(["192.0.2.0/24"], [r.remote_ip_prefix for r in made])
        port = self.make_port(security_groups=[group.id])
        self.refused(exceptions.ConflictException, 409, "in use", lambda: network.delete_security_group(group, ignore_missing=False))
        floating = network.create_ip(floating_network_id=network.find_network("public").id, port_id=port.id, description="mine")
        self.assertEqual([floating.id], [f.id for f in network.ips(description="mine")])
        self.assertEqual(("ACTIVE", port.fixed_ips[0]["ip_address"]), (floating.status, floating.fixed_ip_address))
        network.delete_port(port)
        self.assertEqual("DOWN", network.get_ip(floating).status)
        network.delete_ip(floating)
        network.delete_security_group_rule(made[0])

    def test_a_server_from_an_image(self):
        image = self.cloud.image.find_image("conversion-host-image")
        self.cloud.compute.create_keypair(name="sdk", public_key="ssh-rsa YWJj")
        self.addCleanup(self.cloud.compute.delete_keypair, "sdk")
        request = dict(name="sdk-host", flavor_id=self.lab.ready["flavor_id"], networks=[{"uuid": self.lab.ready["network_id"]}], key_name="sdk")
        self.refused(exceptions.ForbiddenException, 403, "zero disk",
                     lambda: self.cloud.compute.create_server(image_id=image.id, **request))
        server = self.cloud.compute.create_server(block_device_mapping_v2=[
            {"uuid": image.id, "source_type": "image", "destination_type": "volume", "boot_index": 0, "volume_size": 2,
             "delete_on_termination": True}], **request)
        server = self.cloud.compute.wait_for_server(server, interval=0.05, wait=120)
        self.assertEqual("sdk", server.key_name)
        volume = self.cloud.block_storage.get_volume(server.attached_volumes[0]["id"])
        self.assertEqual((2, "in-use", True), (volume.size, volume.status, volume.is_bootable))
        self.drop_server(server)
        until(lambda: self.cloud.block_storage.find_volume(volume.id) is None)


class Unmodelled(Case):
    def test_loud(self):
        for service, path in (("block_storage", "/snapshots"), ("compute", "/os-hypervisors"), ("network", "/routers"),
                              ("image", "/v2/tasks"), ("block_storage", "/volumes?group_id=1"), ("network", "/ports?ip=1")):
            answer = getattr(self.cloud, service).get(path)
            self.assertEqual(501, answer.status_code, path)
            self.assertIn("lab/openstack does not model", json.dumps(answer.json()), path)
        answer = self.cloud.block_storage.post("/volumes", json={"volume": {"size": 1, "colour": "red"}})
        self.assertEqual((501, True), (answer.status_code, 'volume.colour' in answer.text))
        answer = self.cloud.compute.post(f"/servers/{self.lab.ready['instance_id']}/action", json={"rebuild": {}})
        self.assertEqual((501, True), (answer.status_code, "action rebuild" in answer.text))
        self.assertIn("lab/openstack does not model", (self.lab.folder / "log").read_text())


class CommandLine(Case):
    """The same from the outside: what a person types."""

    def test_identity(self):
        self.assertEqual(self.lab.ready["project_id"], self.lab.command("token", "issue")["project_id"])
        self.assertIn("cinderv3", {s["Name"] for s in self.lab.command("catalog", "list")})
        written = json.loads(pathlib.Path(self.lab.ready["appcred_file"]).read_text())
        issued = self.lab.command("token", "issue", OS_AUTH_TYPE="v3applicationcredential", OS_USERNAME=None, OS_PASSWORD=None,
                             OS_PROJECT_NAME=None, OS_USER_DOMAIN_NAME=None, OS_PROJECT_DOMAIN_NAME=None,
                             OS_APPLICATION_CREDENTIAL_ID=written["id"], OS_APPLICATION_CREDENTIAL_SECRET=written["secret"])
        self.assertEqual(self.lab.ready["project_id"], issued["project_id"])
        self.assertEqual(["lab"], [c["Name"] for c in self.lab.command("application", "credential", "list")])

    def test_volumes_and_servers(self):
        volume = self.lab.command("volume", "create", "--size", "1", "--type", "lab", "--property", "vm=vm-1", "--bootable", "cli")
        self.addCleanup(self.drop_volume, volume["id"])
        until(lambda: self.cloud.block_storage.get_volume(volume["id"]).status == "available")
        self.lab.command("volume", "set", "--property", "disk=2000", "--image-property", "hw_disk_bus=virtio", "--bootable",
                    "cli", parse=False)
        shown = self.lab.command("volume", "show", "cli")
        self.assertEqual({"vm": "vm-1", "disk": "2000"}, shown["properties"])
        self.assertEqual({"hw_disk_bus": "virtio"}, shown["volume_image_metadata"])
        self.assertEqual(["cli"], [v["Name"] for v in self.lab.command("volume", "list")])
        self.lab.command("server", "add", "volume", "conversion-host", "cli")
        until(lambda: self.cloud.block_storage.get_volume(volume["id"]).status == "in-use")
        self.assertTrue((self.lab.folder / "by-id" / f"virtio-{volume['id'][:20]}").exists())
        self.assertEqual([volume["id"]], [a["Volume ID"] for a in self.lab.command("server", "volume", "list", "conversion-host")])
        self.lab.command("server", "remove", "volume", "conversion-host", "cli", parse=False)
        until(lambda: self.cloud.block_storage.get_volume(volume["id"]).status == "available")
        port = self.lab.command("port", "create", "--network", "lab-net", "--mac-address", "00:50:56:00:11:22", "--fixed-ip",
                           "ip-address=192.0.2.99", "--security-group", "web", "cli-port")
        self.addCleanup(self.cloud.network.delete_port, port["id"], ignore_missing=True)
        server = self.lab.command("server", "create", "--flavor", "m1.tiny", "--volume", "cli", "--port", "cli-port", "--property",
                             "vm=vm-1", "--wait", "cli-server")
        self.assertEqual("ACTIVE", server["status"])
        self.assertEqual({"lab-net": ["192.0.2.99"]}, server["addresses"])
        self.assertEqual({"cli-server", "conversion-host"}, {s["Name"] for s in self.lab.command("server", "list")})
        self.lab.command("server", "show", "cli-server")
        self.lab.command("server", "delete", "--wait", "cli-server", parse=False)
        self.lab.command("port", "delete", "cli-port", parse=False)
        self.lab.command("volume", "delete", "cli", parse=False)

    def test_lists(self):
        self.assertLessEqual({"lab-net", "shared-net"}, {n["Name"] for n in self.lab.command("network", "list")})
        self.assertEqual("192.0.2.0/24", self.lab.command("subnet", "show", "lab-subnet")["cidr"])
        self.assertEqual({"default", "web"}, {g["Name"] for g in self.lab.command("security", "group", "list")})
        self.lab.command("security", "group", "show", "web")
        self.assertLessEqual({"m1.tiny", "m1.small", "m1.medium", "g1.medium"}, {f["Name"] for f in self.lab.command("flavor", "list")})
        self.lab.command("flavor", "show", "m1.small")
        self.lab.command("volume", "type", "list")
        self.lab.command("availability", "zone", "list")
        self.lab.command("image", "list")
        self.lab.command("port", "list")
        self.lab.command("keypair", "list")
        self.lab.command("limits", "show", "--absolute")
        self.lab.command("quota", "show")
        self.lab.command("network", "show", "lab-net")
        self.lab.command("server", "show", "conversion-host")
        self.lab.command("console", "log", "show", "conversion-host", parse=False)


class Files(unittest.TestCase):
    """Without loop devices, and after an end: nothing stays behind."""

    def test_plain_files(self):
        lab = Lab("file")
        try:
            lab.control("POST", "/settings", {"create_delay_ms": 0, "attach_delay_ms": 0})
            with lab.connect() as cloud:
                volume = cloud.block_storage.create_volume(size=1)
                cloud.block_storage.wait_for_status(volume, "available", interval=0.05, wait=120)
                cloud.compute.create_volume_attachment(lab.ready["instance_id"], volume_id=volume.id)
                until(lambda: cloud.block_storage.get_volume(volume.id).status == "in-use")
            link = lab.folder / "by-id" / f"virtio-{volume.id[:20]}"
            about = os.stat(link)
            self.assertTrue(stat.S_ISREG(about.st_mode))
            identity = lab.folder / "identity" / f"{about.st_dev}-{about.st_ino}"
            self.assertEqual(f"serial={volume.id[:20]}\nbytes={1 << 30}\n", identity.read_text())
        finally:
            code, log = lab.stop()
        self.assertEqual(0, code, log)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
