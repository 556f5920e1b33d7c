"""Each flag of migratekit by its effect: what went over the wire, or what is on the target. One row a flag."""

import base64
import json
import pathlib
import signal
import ssl
import subprocess
import urllib.request

from pyVim import connect

from ferry import BIN, Result
from journey import JourneyTest, slice_of


def bodies(record, wanted):
    """Request bodies of recorded exchanges whose URL ends in `wanted`."""
    found = []
    for file in sorted(pathlib.Path(record).rglob("*.json")):
        exchange = json.loads(file.read_text())
        if exchange["method"] == "POST" and exchange["path"].split("?")[0].endswith(wanted):
            found.append(json.loads(exchange["request"]["body"]))
    return found


class FlagsTest(JourneyTest):
    def setUp(self):
        super().setUp()
        self.begin_anew()
        self.record = self.state / "record"

    def cutover(self, *more, without=()):
        flags, skip = [], False
        for flag in [*self.cutover_flags(), "--run-v2v=false"]:
            if skip:
                skip = False
            elif flag in without:
                skip = True
            else:
                flags.append(flag)
        self.ferry("cutover", *flags, *more, "--record", str(self.record))
        state = self.lab.control("openstack", "GET", "/state")
        server = next(s for s in state["servers"] if s["name"] == "web01")
        volumes = {v["id"]: v for v in state["volumes"]}
        ports = {p["id"]: p for p in state["ports"]}
        return server, [volumes[v] for v in server["volumes"]], [ports[p] for p in server["ports"]]

    def mappings(self, ip):
        """One flag for each adapter: the first has an address, and its MAC in upper case; the second says nothing but its network."""
        flags = []
        for index, mac in enumerate(self.lab.vcenter["macs"]):
            parts = {"mac": mac, "network-id": "dual"}
            if index == 0:
                parts = {"mac": mac.upper(), "network-id": self.openstack["network_id"], "subnet-id": self.openstack["subnet_id"], "ip": ip}
            flags += ["--network-mapping", ",".join(f"{key}={value}" for key, value in parts.items())]
        return flags

    @property
    def openstack(self):
        return self.lab.openstack

    # ---- the table: flags, and what they must have done to server, volumes (boot first) and ports

    def rows(self):
        yield ("--flavor", ["--flavor", "m1.medium"], ["--flavor"], lambda s, v, p: self.assertEqual(s["flavor"], "m1.medium"))
        # Two flavors are exactly as large as the machine, and one of them is kept for machines that want a GPU.
        yield ("no --flavor", [], ["--flavor"], lambda s, v, p: self.assertEqual(s["flavor"], "m1.medium"))
        yield ("--allow-flavors", ["--allow-flavors", "gpu"], ["--flavor"], lambda s, v, p: self.assertEqual(s["flavor"], "g1.medium"))
        yield ("--volume-type-mapping", ["--volume-type-mapping", "LocalDS_0=fast", "--volume-type", "lab"], [],
               lambda s, v, p: self.assertEqual([x["volume_type"] for x in v], ["fast"] * 2))
        yield ("--availability-zone", ["--availability-zone", "nova"], [], self.check_zone)
        yield ("--volume-type", ["--volume-type", self.openstack["volume_type"]], [],
               lambda s, v, p: self.assertEqual([x["volume_type"] for x in v], [self.openstack["volume_type"]] * 2))
        yield ("--security-groups", ["--security-groups", "web,default"], [],
               lambda s, v, p: self.assertEqual({len(x["security_groups"]) for x in p}, {2}))
        yield ("--disk-bus-type", ["--disk-bus-type", "scsi"], [], self.check_bus)
        yield ("--os-type", ["--os-type", "auto"], [], lambda s, v, p: self.assertEqual(v[0]["image_metadata"]["os_type"], "linux"))
        yield ("--os-type VALUE", ["--os-type", "windows"], [],
               lambda s, v, p: self.assertEqual(v[0]["image_metadata"]["os_type"], "windows"))
        yield ("--os-distro", ["--os-distro", "auto"], [],
               lambda s, v, p: self.assertEqual(v[0]["image_metadata"]["os_distro"], "debian"))
        yield ("--vif-model", ["--vif-model", "source"], [],
               lambda s, v, p: self.assertEqual(v[0]["image_metadata"]["hw_vif_model"], "vmxnet3"))
        yield ("--enable-qemu-guest-agent", ["--enable-qemu-guest-agent"], [],
               lambda s, v, p: self.assertEqual(v[0]["image_metadata"]["hw_qemu_guest_agent"], "yes"))
        yield ("--compression-method", ["--compression-method", "skipz"], [], lambda s, v, p: self.assertEqual(len(v), 2))
        yield ("--network-mapping", self.mappings("192.0.2.77"), ["--network-mapping"], self.check_address)
        yield ("only the boot disk is bootable", [], [],
               lambda s, v, p: self.assertEqual([str(x["bootable"]).lower() for x in v], ["true", "false"]))

    def check_zone(self, server, volumes, ports):
        self.assertEqual({b["volume"]["availability_zone"] for b in bodies(self.record, "/volumes")}, {"nova"})
        self.assertEqual([b["server"]["availability_zone"] for b in bodies(self.record, "/servers")], ["nova"])

    def check_bus(self, server, volumes, ports):
        self.assertEqual(volumes[0]["image_metadata"]["hw_disk_bus"], "scsi")
        self.assertEqual(volumes[0]["image_metadata"]["hw_scsi_model"], "virtio-scsi")
        self.assertEqual(volumes[1]["metadata"]["hw_disk_bus"], "scsi")

    def check_address(self, server, volumes, ports):
        self.assertEqual(ports[0]["fixed_ips"][0]["ip_address"], "192.0.2.77")
        self.assertEqual(ports[0]["fixed_ips"][0]["subnet_id"], self.openstack["subnet_id"])
        self.assertEqual(ports[0]["network_id"], self.openstack["network_id"])
        self.assertEqual(sorted(":" in one["ip_address"] for one in ports[1]["fixed_ips"]), [False, True], "an address of each family")
        self.assertEqual(ports[0]["mac_address"], self.lab.vcenter["macs"][0].lower(), "upper case in the flag is the same address")

    def test_cutover_flags(self):
        for name, flags, replaced, check in slice_of(list(self.rows())):
            with self.subTest(flag=name):
                self.begin_anew()
                self.state = self.lab.work / ("flag-" + "".join(c for c in name if c.isalnum()))
                self.state.mkdir()
                self.record = self.state / "record"
                check(*self.cutover(*flags, without=replaced))

    def test_an_existing_port_is_used(self):
        mac = self.lab.vcenter["macs"][0]
        made = self.cloud.network.create_port(network_id=self.openstack["network_id"], mac_address=mac.upper(), name="kept")
        _, _, ports = self.cutover()
        self.assertEqual(ports[0]["id"], made.id)

    def test_run_v2v(self):
        self.ferry("cutover", *self.cutover_flags(), "--run-v2v=true")
        self.assert_arrived(converted=True)
        self.begin_anew()
        self.state = self.lab.work / "without"
        self.state.mkdir()
        self.ferry("cutover", *self.cutover_flags(), "--run-v2v=false")
        self.assert_arrived(converted=False)

    def label(self, tags, attributes):
        """Writes tags {category: [names]} and custom attributes on the machine, as an administrator's programs do."""
        host, port = self.lab.vcenter["endpoint"].rsplit(":", 1)
        user = self.lab.vcenter["username"]
        password = pathlib.Path(self.lab.vcenter["password_file"]).read_text().strip()
        tls = ssl.create_default_context(cafile=self.lab.vcenter["ca"])
        si = connect.SmartConnect(host=host, port=int(port), user=user, pwd=password, sslContext=tls)
        content = si.RetrieveContent()
        vm = content.searchIndex.FindByInventoryPath(self.lab.vcenter["vm_path"])
        for name, value in attributes.items():
            field = content.customFieldsManager.AddCustomFieldDef(name, type(vm))
            content.customFieldsManager.SetField(vm, field.key, value)

        def rest(method, path, body=None, **headers):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"https://{host}:{port}/rest/com/vmware/cis/{path}", data, headers, method=method)
            return json.loads(urllib.request.urlopen(request, context=tls).read() or b"{}").get("value")

        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        session = {"vmware-api-session-id": rest("POST", "session", Authorization="Basic " + login)}
        for category, names in tags.items():
            spec = {"name": category, "description": "", "cardinality": "MULTIPLE", "associable_types": []}
            category_id = rest("POST", "tagging/category", {"create_spec": spec}, **session)
            for name in names:
                tag = rest("POST", "tagging/tag", {"create_spec": {"name": name, "description": "", "category_id": category_id}}, **session)
                rest("POST", f"tagging/tag-association/id:{tag}?~action=attach",
                     {"object_id": {"id": vm._moId, "type": "VirtualMachine"}}, **session)
        connect.Disconnect(si)

    def test_labels(self):
        """--vmware-labels: what people wrote on the machine in VMware stands on the server; the flags' own word wins."""
        self.label({"backup": ["offsite", "daily"], "tier/1": ["gold"]}, {"owner": "J\u00fcrgen", "cost centre": "4711"})
        server, _, _ = self.cutover("--vmware-labels", "--server-metadata", "vmware_attribute_owner=ops", "--server-metadata", "a=b")
        given = {key: value for key, value in server["metadata"].items() if not key.startswith("vmferry_")}
        self.assertEqual(given, {"vmware_tag_backup": "daily,offsite", "vmware_tag_tier_1": "gold", "vmware_attribute_owner": "ops",
                                 "vmware_attribute_cost centre": "4711", "a": "b"})
        recorded = b"".join(file.read_bytes() for file in pathlib.Path(self.record).rglob("*.json"))
        for secret in self.lab.secrets():
            self.assertNotIn(secret, recorded)

    def test_labels_are_not_asked_for_when_the_server_is_there(self):
        self.label({"tier": ["gold"]}, {})
        died = self.ferry("cutover", "--vmware-labels", *self.cutover_flags(), ok=False,
                          env={"VMFERRY_CRASH_AT": "create the server|before ServerLaunched"})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        server = next(s for s in self.lab.control("openstack", "GET", "/state")["servers"] if s["name"] == "web01")
        self.assertEqual(server["metadata"]["vmware_tag_tier"], "gold")
        self.lab.control("vcenter", "DELETE", "/calls")
        done = self.ferry("cutover", "--vmware-labels", *self.cutover_flags())
        self.assertIn("runs as server", done.out)
        self.assertEqual([c for c in self.lab.control("vcenter", "GET", "/calls") if c["service"] == "rest"], [])

    def test_volume_by_name(self):
        """--vz-unsafe-volume-by-name finds the volume of a machine with another id, which nothing else does."""
        self.ferry("migrate")
        for volume in self.lab.volumes():
            self.lab.control("openstack", "POST", f"/volumes/{volume['id']}/metadata", {})
        self.state = self.lab.work / "by-name"
        self.state.mkdir()
        self.ferry("migrate", "--vz-unsafe-volume-by-name")
        self.assertEqual(len(self.lab.volumes()), 2)

    def test_vmware_flags(self):
        """Endpoint, user, password and path: the login and the machine that the vCenter saw."""
        password = pathlib.Path(self.lab.vcenter["password_file"]).read_text().strip()
        flags = ["--vmware-endpoint", self.lab.vcenter["endpoint"], "--vmware-username", self.lab.vcenter["username"],
                 "--vmware-password", password, "--vmware-path", self.lab.vcenter["vm_path"], "--vmware-ca", self.lab.vcenter["ca"]]
        done = self.run_raw("migrate", *flags, "--debug")
        self.assertEqual(done.code, 0, str(done))
        self.assertTrue("call=CreateSnapshot_Task" in done.err, "--debug shows the calls")
        self.assertFalse(password in done.err, "the password is in the log")
        methods = [c["method"] for c in self.lab.control("vcenter", "GET", "/calls")]
        self.assertIn("Login", methods)
        self.assertIn("CreateSnapshot_Task", methods)

    def run_raw(self, verb, *flags):
        return Result(subprocess.run([str(BIN / "vmferry"), verb, "--state-dir", str(self.state / "s"), *flags], capture_output=True,
                                     text=True, env=self.lab.environment(), stdin=subprocess.DEVNULL, timeout=300))
