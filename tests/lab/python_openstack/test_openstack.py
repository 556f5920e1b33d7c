"""What a migration needs of each service, by openstacksdk."""

import json
import os
import pathlib
import stat
import time
import unittest
import urllib.request

from lab import Case, until  # first: it may change the interpreter
from openstack import exceptions


class Identity(Case):
    def test_password(self):
        token = self.cloud.authorize()
        self.assertTrue(token)
        self.assertEqual(self.lab.ready["project_id"], self.cloud.current_project_id)
        catalog = {s["type"]: s for s in self.cloud.service_catalog}
        for kind in ("identity", "volumev3", "block-storage", "compute", "network", "image"):
            self.assertEqual({"public", "internal", "admin"}, {e["interface"] for e in catalog[kind]["endpoints"]})

    def test_wrong_password(self):
        with self.lab.connect(password="wrong") as cloud, self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 401)", str(caught.exception))
        self.assertIn("The request you have made requires authentication.", str(caught.exception))

    def test_wrong_project(self):
        with self.lab.connect(project_name="other") as cloud, self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 401)", str(caught.exception))

    def test_application_credential(self):
        path = pathlib.Path(self.lab.ready["appcred_file"])
        self.assertEqual(0o600, stat.S_IMODE(path.stat().st_mode))
        written = json.loads(path.read_text())
        for auth in ({"application_credential_id": written["id"]},
                     {"application_credential_name": written["name"], "username": "lab", "user_domain_name": "Default"}):
            with self.lab.connect(auth_type="v3applicationcredential", application_credential_secret=written["secret"],
                             **auth) as cloud:
                self.assertEqual(self.lab.ready["project_id"], cloud.current_project_id)
                list(cloud.block_storage.volumes())
        with self.lab.connect(auth_type="v3applicationcredential", application_credential_secret="wrong",
                         application_credential_id=written["id"]) as cloud, self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 401)", str(caught.exception))

    def test_application_credential_makes_no_tokens(self):
        written = json.loads(pathlib.Path(self.lab.ready["appcred_file"]).read_text())
        with self.lab.connect(auth_type="v3applicationcredential", application_credential_id=written["id"],
                         application_credential_secret=written["secret"]) as cloud:
            token = cloud.authorize()
        with self.lab.connect(auth_type="token", token=token, project_name="lab", project_domain_name="Default") as cloud, \
                self.assertRaises(Exception) as caught:
            cloud.authorize()
        self.assertIn("(HTTP 403)", str(caught.exception))

    def test_token(self):
        token = self.cloud.authorize()
        with self.lab.connect(auth_type="token", token=token, project_name="lab", project_domain_name="Default") as cloud:
            self.assertEqual(self.lab.ready["project_id"], cloud.current_project_id)
            list(cloud.compute.flavors())

    def test_life_of_application_credentials(self):
        made = self.cloud.identity.create_application_credential(user=self.cloud.current_user_id, name="second")
        self.assertTrue(made.secret)
        with self.lab.connect(auth_type="v3applicationcredential", application_credential_id=made.id,
                         application_credential_secret=made.secret) as cloud:
            list(cloud.compute.servers())
            self.cloud.identity.delete_application_credential(self.cloud.current_user_id, made.id)
            with self.assertRaises(Exception) as caught:
                list(cloud.compute.servers())
            self.assertIn("Could not find Application Credential", str(caught.exception))  # as Keystone has it

    def test_revoked_in_the_middle(self):
        first = self.cloud.authorize()
        list(self.cloud.block_storage.volumes())
        self.lab.control("POST", "/tokens/revoke")
        list(self.cloud.block_storage.volumes())  # the SDK authenticates again by itself
        self.assertNotEqual(first, self.cloud.authorize())

    def test_expiry(self):
        self.lab.control("POST", "/settings", {"token_ttl_s": 15})
        with self.lab.connect() as cloud:
            token = cloud.authorize()
        url = f"https://127.0.0.1:{self.lab.ready['port']}/volume/v3/{self.lab.ready['project_id']}/volumes"
        import requests
        answer = requests.get(url, headers={"X-Auth-Token": token}, verify=str(self.lab.folder / "ca.pem"))
        self.assertEqual(200, answer.status_code)
        time.sleep(15.1)
        answer = requests.get(url, headers={"X-Auth-Token": token}, verify=str(self.lab.folder / "ca.pem"))
        self.assertEqual(401, answer.status_code)
        self.assertEqual({"error": {"code": 401, "title": "Unauthorized",
                                    "message": "The request you have made requires authentication."}}, answer.json())
        self.assertIn("Keystone uri=", answer.headers["WWW-Authenticate"])


class Volumes(Case):
    def test_life(self):
        self.lab.control("POST", "/settings", {"create_delay_ms": 1000})
        self.addCleanup(self.lab.control, "POST", "/settings", {"create_delay_ms": 50})
        volume = self.cloud.block_storage.create_volume(size=2, name="web01-2000", description="disk 0", volume_type="fast",
                                                        metadata={"vm": "vm-1"}, availability_zone="nova")
        self.assertEqual("creating", volume.status)
        self.addCleanup(self.drop_volume, volume.id)
        volume = self.cloud.block_storage.wait_for_status(volume, "available", interval=0.05, wait=120)
        self.assertEqual(("web01-2000", "disk 0", "fast", 2, {"vm": "vm-1"}, False),
                         (volume.name, volume.description, volume.volume_type, volume.size, volume.metadata,
                          volume.is_bootable))
        file = self.lab.folder / "volumes" / f"volume-{volume.id}"
        self.assertEqual(2 << 30, file.stat().st_size)
        self.assertLess(file.stat().st_blocks * 512, 1 << 20)
        self.cloud.block_storage.set_volume_metadata(volume, disk="2000")
        self.assertEqual({"vm": "vm-1", "disk": "2000"}, self.cloud.block_storage.get_volume_metadata(volume).metadata)
        self.cloud.block_storage.delete_volume_metadata(volume, ["vm"])
        self.cloud.block_storage.set_volume_bootable_status(volume, True)
        self.cloud.block_storage.set_volume_image_metadata(volume, hw_disk_bus="virtio", os_type="linux")
        self.cloud.block_storage.delete_volume_image_metadata(volume, ["os_type"])
        self.cloud.block_storage.update_volume(volume, name="renamed")
        self.cloud.block_storage.extend_volume(volume, 3)
        until(lambda: self.status(volume) == "available")
        volume = self.cloud.block_storage.get_volume(volume.id)
        self.assertEqual(("renamed", True, {"disk": "2000"}, {"hw_disk_bus": "virtio"}, 3),
                         (volume.name, volume.is_bootable, volume.metadata, volume.volume_image_metadata, volume.size))
        self.assertEqual(3 << 30, file.stat().st_size)
        self.cloud.block_storage.delete_volume(volume)
        until(lambda: not file.exists())
        self.refused(exceptions.NotFoundException, 404, f"Volume {volume.id} could not be found",
                     lambda: self.cloud.block_storage.get_volume(volume.id))

    def test_filters(self):
        one = self.make_volume(name="one", metadata={"migrate_kit": "true", "vm": "it's 1"})
        two = self.make_volume(name="two", metadata={"migrate_kit": "true"})
        self.assertEqual([one.id], [v.id for v in self.cloud.block_storage.volumes(name="one")])

        def ids(**query):  # the SDK would filter by metadata itself
            answer = self.cloud.block_storage.get("/volumes/detail", params=query)
            self.assertEqual(200, answer.status_code, answer.text)
            return {v["id"] for v in answer.json()["volumes"]}

        self.assertEqual({one.id}, ids(name="one"))
        self.assertEqual({one.id, two.id}, ids(metadata="{'migrate_kit': 'true'}"))
        self.assertEqual({one.id}, ids(metadata=str({"migrate_kit": "true", "vm": "it's 1"})))
        self.assertEqual({one.id}, ids(metadata=json.dumps({"vm": "it's 1"})))
        self.assertEqual(set(), ids(metadata="not a dictionary"))
        self.assertEqual({one.id, two.id}, ids(status="available"))
        self.assertEqual(set(), ids(status="error"))

    def test_pages(self):
        made = [self.make_volume(name=f"page-{i}").id for i in range(5)]
        self.assertEqual(made[::-1], [v.id for v in self.cloud.block_storage.volumes(limit=2)])
        answer = self.cloud.block_storage.get("/volumes?limit=2").json()
        self.assertEqual(made[:-3:-1], [v["id"] for v in answer["volumes"]])
        self.assertEqual("next", answer["volumes_links"][0]["rel"])
        self.assertIn("marker=" + made[3], answer["volumes_links"][0]["href"])
        self.lab.control("DELETE", "/calls")
        list(self.cloud.block_storage.volumes(limit=2))
        pages = [c for c in self.lab.control("GET", "/calls") if c["method"] == "GET" and "/volumes" in c["path_or_object"]]
        self.assertGreaterEqual(len(pages), 3)
        self.assertEqual(404, self.cloud.block_storage.get("/volumes?marker=nothing").status_code)

    def test_quota(self):
        self.lab.control("POST", "/quota", {"gigabytes": 5})
        self.make_volume(size=3)
        self.refused(exceptions.HttpException, 413, "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds "
                     "allowed gigabytes quota. Requested 3G, quota is 5G and 3G has been consumed.",
                     lambda: self.cloud.block_storage.create_volume(size=3))
        self.lab.control("POST", "/quota", {"volumes": 1})
        self.refused(exceptions.HttpException, 413, r"VolumeLimitExceeded: Maximum number of volumes allowed \(1\) exceeded "
                     "for quota 'volumes'.", lambda: self.cloud.block_storage.create_volume(size=1))
        limits = self.cloud.block_storage.get_limits().absolute
        self.assertEqual((5, 3, 1, 1), (limits.max_total_volume_gigabytes, limits.total_gigabytes_used,
                                        limits.max_total_volumes, limits.total_volumes_used))
        quota = self.cloud.block_storage.get_quota_set(self.lab.ready["project_id"], usage=True)
        self.assertEqual((5, 3), (quota.gigabytes, quota.usage["gigabytes"]))

    def test_failures_by_script(self):
        self.lab.control("POST", "/faults", {"service": "volume", "method": "POST", "path_regex": "/volumes$", "kind": "fault",
                                        "fault": "no space", "count": 1})
        volume = self.cloud.block_storage.create_volume(size=1)
        self.addCleanup(self.drop_volume, volume.id)
        until(lambda: self.status(volume) == "error")
        self.lab.control("POST", "/faults", {"service": "volume", "method": "POST", "kind": "http", "status": 500, "count": 1,
                                        "message": "broken"})
        self.refused(exceptions.HttpException, 500, "broken", lambda: self.cloud.block_storage.create_volume(size=1))
        self.lab.control("POST", "/faults", {"service": "volume", "method": "POST", "kind": "lost-reply"})
        with self.assertRaises(Exception):
            self.cloud.block_storage.create_volume(size=1, name="lost")
        lost = list(self.cloud.block_storage.volumes(name="lost"))
        self.assertEqual(1, len(lost))
        self.addCleanup(self.drop_volume, lost[0].id)
        until(lambda: self.status(lost[0]) == "available")
        self.lab.control("POST", "/faults", {"service": "volume", "method": "GET", "kind": "expire"})
        list(self.cloud.block_storage.volumes())
        self.lab.control("POST", "/faults", {"service": "volume", "method": "GET", "kind": "http", "status": 503, "retry_after": 7})
        answer = self.cloud.session.request(self.cloud.block_storage.get_endpoint() + "/limits", "GET", raise_exc=False,
                                            connect_retries=0, status_code_retries=0)
        self.assertEqual((503, "7"), (answer.status_code, answer.headers["Retry-After"]))
        self.assertEqual(503, answer.json()["serviceUnavailable"]["code"])

    def test_types_and_zones(self):
        self.assertLessEqual({"lab", "fast"}, {t.name for t in self.cloud.block_storage.types()})
        self.assertEqual("fast", self.cloud.block_storage.find_type("fast").name)
        self.refused(exceptions.NotFoundException, 404, "Volume type with name gold could not be found",
                     lambda: self.cloud.block_storage.create_volume(size=1, volume_type="gold"))
        self.assertEqual(["nova"], [z.name for z in self.cloud.block_storage.availability_zones()])

    def test_microversion_too_high(self):
        answer = self.cloud.block_storage.get("/volumes", microversion="3.99")
        self.assertEqual(406, answer.status_code)
        self.assertIn("Version 3.99 is not supported by the API. Minimum is 3.0 and maximum is 3.70.", answer.text)


class Attachments(Case):
    def test_device_of_the_conversion_host(self):
        volume = self.make_volume(name="disk")
        host = self.lab.ready["instance_id"]
        link = self.lab.folder / "by-id" / f"virtio-{volume.id[:20]}"
        # Long enough to look at the states in between on a slow machine.
        self.lab.control("POST", "/settings", {"attach_delay_ms": 8000})
        self.addCleanup(self.lab.control, "POST", "/settings", {"attach_delay_ms": 150})
        self.cloud.compute.create_volume_attachment(host, volume_id=volume.id)
        self.assertIn(self.status(volume), ("reserved", "attaching"))
        self.assertFalse(link.exists())
        until(lambda: self.status(volume) == "in-use")
        shown = self.cloud.block_storage.get_volume(volume.id)
        self.assertEqual([host], [a["server_id"] for a in shown.attachments])
        about = os.stat(link)
        if stat.S_ISBLK(about.st_mode):
            identity = self.lab.folder / "identity" / f"{os.major(about.st_rdev)}:{os.minor(about.st_rdev)}"
        else:
            identity = self.lab.folder / "identity" / f"{about.st_dev}-{about.st_ino}"
        self.assertEqual(f"serial={volume.id[:20]}\nbytes={1 << 30}\n", identity.read_text())
        with open(link, "r+b", buffering=0) as device:  # through the device into the file
            device.seek(0, os.SEEK_END)
            self.assertEqual(1 << 30, device.tell())
            device.seek(1 << 20)
            device.write(b"vmferry!" * 512)
            os.fsync(device.fileno())
        with open(self.lab.folder / "volumes" / f"volume-{volume.id}", "rb") as file:
            file.seek(1 << 20)
            self.assertEqual(b"vmferry!" * 512, file.read(4096))
        self.assertEqual(os.path.realpath(link), self.lab.volume(volume.id)["device"])
        listed = list(self.cloud.compute.volume_attachments(host))
        self.assertEqual([volume.id], [a.volume_id for a in listed])
        self.assertRegex(listed[0].device, "^/dev/vd[b-z]$")
        self.refused(exceptions.BadRequestException, 400, "status must be available|already attached",
                     lambda: self.cloud.compute.create_volume_attachment(host, volume_id=volume.id))
        self.refused(exceptions.BadRequestException, 400, "must not be migrating, attached",
                     lambda: self.cloud.block_storage.delete_volume(volume, ignore_missing=False))
        self.cloud.compute.delete_volume_attachment(host, volume.id)
        self.assertEqual("detaching", self.status(volume))
        self.refused(exceptions.BadRequestException, 400, "Unable to detach volume",
                     lambda: self.cloud.compute.delete_volume_attachment(host, volume.id))
        until(lambda: self.status(volume) == "available")
        self.assertFalse(os.path.lexists(link) or identity.exists())
        self.refused(exceptions.NotFoundException, 404, "is not attached to volume",
                     lambda: self.cloud.compute.delete_volume_attachment(host, volume.id, ignore_missing=False))

    def test_extend_in_use(self):
        volume = self.make_volume()
        host = self.lab.ready["instance_id"]
        self.cloud.compute.create_volume_attachment(host, volume_id=volume.id)
        until(lambda: self.status(volume) == "in-use")
        extend = {"os-extend": {"new_size": 2}}
        old = self.cloud.block_storage.post(f"/volumes/{volume.id}/action", json=extend, microversion="3.41")
        self.assertEqual((400, True), (old.status_code, "status must be" in old.text))
        new = self.cloud.block_storage.post(f"/volumes/{volume.id}/action", json=extend, microversion="3.42")
        self.assertEqual(202, new.status_code)
        until(lambda: self.status(volume) == "in-use")
        with open(self.lab.folder / "by-id" / f"virtio-{volume.id[:20]}", "rb") as device:
            self.assertEqual(2 << 30, device.seek(0, os.SEEK_END))
        self.cloud.compute.delete_volume_attachment(host, volume.id)
        until(lambda: self.status(volume) == "available")

    def test_attach_fails_by_script(self):
        volume = self.make_volume()
        self.lab.control("POST", "/faults", {"service": "compute", "method": "POST", "path_regex": "os-volume_attachments",
                                        "kind": "fault", "fault": "DeviceNotFound"})
        self.cloud.compute.create_volume_attachment(self.lab.ready["instance_id"], volume_id=volume.id)
        until(lambda: self.status(volume) == "available")
        self.assertFalse(os.path.lexists(self.lab.folder / "by-id" / f"virtio-{volume.id[:20]}"))
        self.assertEqual([], list(self.cloud.compute.volume_attachments(self.lab.ready["instance_id"])))

    def test_metadata_service(self):
        with urllib.request.urlopen(self.lab.ready["metadata_url"]) as answer:
            self.assertEqual(self.lab.ready["instance_id"], json.load(answer)["uuid"])


class Servers(Case):
    def test_life(self):
        self.lab.control("POST", "/settings", {"server_delay_ms": 8000})  # to see BUILD on a slow machine
        self.addCleanup(self.lab.control, "POST", "/settings", {"server_delay_ms": 200})
        boot, data = self.make_volume(name="boot"), self.make_volume(name="data")
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        port = self.make_port(mac_address="00:50:56:aa:bb:01", fixed_ips=[{"ip_address": "192.0.2.77"}],
                              security_groups=[self.cloud.network.find_security_group("web").id])
        request = {"server": {
            "name": "web01", "flavorRef": self.lab.ready["flavor_id"], "metadata": {"vm": "vm-1"}, "tags": ["moved"],
            "availability_zone": "nova", "networks": [{"port": port.id}], "block_device_mapping_v2": [
                {"uuid": data.id, "source_type": "volume", "destination_type": "volume", "boot_index": 1},
                {"uuid": boot.id, "source_type": "volume", "destination_type": "volume", "boot_index": 0}]}}
        answer = self.cloud.compute.post("/servers", json=request, microversion="2.52")
        self.assertEqual(202, answer.status_code, answer.text)
        server = self.cloud.compute.get_server(answer.json()["server"]["id"])
        self.addCleanup(self.drop_server, server)
        self.assertEqual("BUILD", server.status)
        server = self.cloud.compute.wait_for_server(server, interval=0.05, wait=120)
        self.assertEqual("192.0.2.77", server.addresses["lab-net"][0]["addr"])
        self.assertEqual("00:50:56:aa:bb:01", server.addresses["lab-net"][0]["OS-EXT-IPS-MAC:mac_addr"])
        self.assertEqual([boot.id, data.id], [v["id"] for v in server.attached_volumes])
        self.assertEqual([{"name": "web"}], server.security_groups)
        self.assertEqual(("m1.small", {"vm": "vm-1"}), (server.flavor["original_name"], server.metadata))
        self.assertEqual("in-use", self.status(boot))
        port = self.cloud.network.get_port(port.id)
        self.assertEqual((server.id, "compute:nova"), (port.device_id, port.device_owner))
        state = next(s for s in self.lab.control("GET", "/state")["servers"] if s["id"] == server.id)
        self.assertEqual(([boot.id, data.id], [port.id], ["moved"]), (state["volumes"], state["ports"], state["tags"]))
        self.assertFalse(os.path.lexists(self.lab.folder / "by-id" / f"virtio-{boot.id[:20]}"))
        self.assertEqual([port.id], [i.port_id for i in self.cloud.compute.server_interfaces(server)])
        self.refused(exceptions.BadRequestException, 400, "Cannot detach a root device volume",
                     lambda: self.cloud.compute.delete_volume_attachment(server, boot))
        found = self.cloud.compute.get("/servers?tags=moved", microversion="2.26").json()["servers"]
        self.assertEqual([server.id], [s["id"] for s in found])
        self.cloud.compute.stop_server(server)
        self.cloud.compute.wait_for_server(server, status="SHUTOFF", interval=0.05, wait=120)
        self.refused(exceptions.ConflictException, 409, f"Cannot 'stop' instance {server.id} while it is in vm_state stopped",
                     lambda: self.cloud.compute.stop_server(server))
        self.cloud.compute.start_server(server)
        self.cloud.compute.wait_for_server(server, status="ACTIVE", interval=0.05, wait=120)
        self.assertIn("web01", self.cloud.compute.get_server_console_output(server)["output"])
        self.drop_server(server)
        self.assertEqual(("available", "available"), (self.status(boot), self.status(data)))
        self.assertEqual("", self.cloud.network.get_port(port.id).device_id)

    def test_network_gives_a_port(self):
        boot = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        server = self.make_server([boot], [], networks=[{"uuid": self.lab.ready["network_id"]}])
        ports = list(self.cloud.network.ports(device_id=server.id))
        self.assertEqual(1, len(ports))
        self.drop_server(server)
        self.assertIsNone(self.cloud.network.find_port(ports[0].id))

    def test_network_of_both_families_gives_an_address_of_each(self):
        boot = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        dual = self.cloud.network.find_network("dual")
        subnets = {s.id: (s.name, s.ip_version, s.cidr) for s in self.cloud.network.subnets(network_id=dual.id)}
        self.assertEqual({("dual-v4", 4, "198.18.1.0/24"), ("dual-v6", 6, "2001:db8:1::/64")}, set(subnets.values()))
        self.assertEqual(set(subnets), set(dual.subnet_ids))
        server = self.make_server([boot], [], networks=[{"uuid": dual.id}])
        port, = self.cloud.network.ports(device_id=server.id)
        given = {subnets[f["subnet_id"]][1]: f["ip_address"] for f in port.fixed_ips}
        shown = self.cloud.compute.get_server(server).addresses["dual"]
        self.assertEqual(given, {a["version"]: a["addr"] for a in shown})
        self.assertEqual({4, 6}, set(given))

    def test_refusals(self):
        boot = self.make_volume()
        port = self.make_port()
        self.refused(exceptions.BadRequestException, 400, f"Block Device {boot.id} is not bootable",
                     lambda: self.make_server([boot], [port]))
        self.cloud.block_storage.set_volume_bootable_status(boot, True)
        self.refused(exceptions.BadRequestException, 400, "Flavor none could not be found",
                     lambda: self.make_server([boot], [port], flavor_id="none"))
        server = self.make_server([boot], [port])
        self.refused(exceptions.BadRequestException, 400, "status must be available",
                     lambda: self.make_server([boot], []))
        other = self.make_volume()
        self.cloud.block_storage.set_volume_bootable_status(other, True)
        self.refused(exceptions.ConflictException, 409, f"Port {port.id} is still in use",
                     lambda: self.make_server([other], [port]))
        self.lab.control("POST", "/quota", {"cores": 2, "instances": 2})
        port = self.make_port()
        self.refused(exceptions.ForbiddenException, 403, "Quota exceeded for cores, instances: Requested 1, 1, but already "
                     "used 2, 2 of 2, 2 cores, instances", lambda: self.make_server([other], [port]))
        limits = self.cloud.compute.get_limits().absolute
        self.assertEqual((2, 2), (limits.total_cores, limits.total_cores_used))
        self.lab.control("POST", "/quota", {"cores": 20, "instances": 10})
        self.lab.control("POST", "/faults", {"service": "compute", "method": "POST", "path_regex": "/servers$", "kind": "fault",
                                        "fault": "NoValidHost", "message": "No valid host was found. "})
        server = self.make_server([other], [port], wait=None)
        until(lambda: self.cloud.compute.get_server(server.id).status == "ERROR")
        self.assertEqual({"code": 500, "message": "No valid host was found. "},
                         {k: v for k, v in self.cloud.compute.get_server(server.id).fault.items() if k != "created"})

    def test_microversions(self):
        answer = self.cloud.compute.get("/servers", microversion="2.999")
        self.assertEqual(406, answer.status_code)
        self.assertIn("Minimum is 2.1 and maximum is 2.93", answer.json()["computeFault"]["message"])
        old = self.cloud.compute.get(f"/servers/{self.lab.ready['instance_id']}", microversion="2.1").json()["server"]
        new = self.cloud.compute.get(f"/servers/{self.lab.ready['instance_id']}", microversion="2.93").json()["server"]
        self.assertIn("id", old["flavor"])
        self.assertNotIn("tags", old)
        self.assertIn("original_name", new["flavor"])
        self.assertIn("tags", new)
        tags = {"server": {"name": "x", "flavorRef": "1", "networks": [], "tags": ["a"]}}
        answer = self.cloud.compute.post("/servers", json=tags, microversion="2.51")
        self.assertEqual(400, answer.status_code)
        self.assertIn("'tags' was unexpected", answer.text)

    def test_flavors_and_limits(self):
        self.assertEqual(["m1.tiny", "m1.small", "m1.medium", "g1.medium", "nowhere"], [f.name for f in self.cloud.compute.flavors()])
        self.assertEqual(2048, self.cloud.compute.find_flavor("m1.small").ram)
        quota = self.cloud.compute.get_quota_set(self.lab.ready["project_id"])
        self.assertEqual((20, 10), (quota.cores, quota.instances))
        self.assertEqual(["nova"], [z.name for z in self.cloud.compute.availability_zones()])


class Ports(Case):
    def test_life(self):
        port = self.make_port(name="web01-0", description="from vm-1", port_security_enabled=False, security_groups=[])
        self.assertRegex(port.mac_address, "^fa:16:3e:")
        self.assertEqual("192.0.2", port.fixed_ips[0]["ip_address"].rsplit(".", 1)[0])
        self.assertEqual(([], False), (port.security_group_ids, port.is_port_security_enabled))
        port = self.cloud.network.update_port(port, name="renamed")
        self.cloud.network.set_tags(port, ["job-1", "vmferry"])
        self.assertEqual([port.id], [p.id for p in self.cloud.network.ports(tags="job-1,vmferry")])
        self.assertEqual([port.id], [p.id for p in self.cloud.network.ports(mac_address=port.mac_address)])
        address = port.fixed_ips[0]["ip_address"]
        self.assertEqual([port.id], [p.id for p in self.cloud.network.ports(fixed_ips="ip_address=" + address)])
        self.cloud.network.delete_port(port, ignore_missing=False)
        self.refused(exceptions.NotFoundException, 404, f"Port {port.id} could not be found",
                     lambda: self.cloud.network.get_port(port.id))

    def test_conflicts(self):
        port = self.make_port(mac_address="00:50:56:00:00:01", fixed_ips=[{"ip_address": "192.0.2.50"}])
        self.assertEqual("00:50:56:00:00:01", port.mac_address)
        network = self.lab.ready["network_id"]
        self.refused(exceptions.ConflictException, 409, f"Unable to complete operation for network {network}. The mac "
                     "address 00:50:56:00:00:01 is in use.", lambda: self.make_port(mac_address="00:50:56:00:00:01"))
        self.refused(exceptions.ConflictException, 409, "IP address 192.0.2.50 already allocated in subnet",
                     lambda: self.make_port(fixed_ips=[{"ip_address": "192.0.2.50"}]))
        self.refused(exceptions.BadRequestException, 400, "IP address 10.0.0.1 is not a valid IP for any of the subnets on "
                     "the specified network.", lambda: self.make_port(fixed_ips=[{"ip_address": "10.0.0.1"}]))
        self.refused(exceptions.BadRequestException, 400, "is not a valid IP for the specified subnet.", lambda: self.make_port(
            fixed_ips=[{"ip_address": "10.0.0.1", "subnet_id": self.lab.ready["subnet_id"]}]))
        self.refused(exceptions.NotFoundException, 404, "could not be found", lambda: self.make_port(network_id="nothing"))

    def test_somebody_elses_network(self):
        shared = self.lab.ready["shared_network_id"]
        self.assertEqual(shared, self.make_port(network_id=shared).network_id)
        self.refused(exceptions.ForbiddenException, 403, "rule:create_port:mac_address.* is disallowed by policy",
                     lambda: self.make_port(network_id=shared, mac_address="00:50:56:00:00:09"))

    def test_names(self):
        self.assertEqual(self.lab.ready["network_id"], self.cloud.network.find_network("lab-net").id)
        self.assertEqual(self.lab.ready["subnet_id"], self.cloud.network.find_subnet("lab-subnet").id)
        self.assertEqual({"default", "web"}, {g.name for g in self.cloud.network.security_groups()})
        self.assertEqual(500, self.cloud.network.get_quota(self.lab.ready["project_id"]).ports)


if __name__ == "__main__":
    unittest.main(verbosity=2, warnings="ignore")
