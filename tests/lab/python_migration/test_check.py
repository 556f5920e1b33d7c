"""`vmferry check`: each finding names its object and remedy, and nothing is changed on either side."""

import json
import os
import pathlib
import pwd
import re
import signal
import subprocess
import tempfile

from ferry import BIN, MigrationTest, Result
from journey import JourneyTest

READS_ONLY = {"RetrieveServiceContent", "Login", "Logout", "RetrievePropertiesEx", "ContinueRetrievePropertiesEx", "FindByInventoryPath",
              "FindByUuid", "CreateContainerView", "DestroyView", "HasPrivilegeOnEntities", "CurrentTime"}


class Checks:
    """What both classes ask with."""

    def check(self, *flags, path=None, env=None, target="openstack"):
        arguments = self.command("migrate", *flags, path=path, target=target)
        arguments[1] = "check"
        done = Result(subprocess.run([*arguments, "--json"], capture_output=True, text=True, env={**self.lab.environment(), **(env or {})},
                                     stdin=subprocess.DEVNULL, timeout=300))
        self.assertIn(done.code, (0, 1), str(done))
        report = json.loads(done.out)
        self.assertEqual(done.code, 1 if report["problems"] else 0)
        return report["findings"]

    def facts(self, findings, level=None):
        return " / ".join(f"{f['object']}: {f['fact']}" for f in findings if level in (None, f["level"]))


class CheckTest(Checks, MigrationTest):
    lab_flags = ("--disks", "17M+37s,16M+1s", "--writer-rate", "0")

    def test_a_machine_that_is_fine(self):
        findings = self.check("--volume-type", self.lab.openstack["volume_type"])
        self.assertEqual(self.facts(findings, "problem"), "")
        self.assertIn("changed block tracking is off", self.facts(findings, "note"))

    def test_it_changes_nothing(self):
        before = self.lab.vm(), self.lab.control("openstack", "GET", "/state")
        self.lab.control("vcenter", "DELETE", "/calls")
        self.lab.control("openstack", "DELETE", "/calls")
        self.check(*self.lab.cutover_flags())
        self.assertEqual({c["method"] for c in self.lab.control("vcenter", "GET", "/calls")} - READS_ONLY, set())
        for call in self.lab.control("openstack", "GET", "/calls"):
            self.assertTrue(call["method"] in ("GET", "HEAD") or call["service"] == "identity", call)
        self.assertEqual((self.lab.vm(), self.lab.control("openstack", "GET", "/state")), before)
        self.assertFalse((self.state / "s").exists(), "it made a state folder")

    def test_what_is_wrong_is_named(self):
        added = self.lab.control("vcenter", "POST", "/vms/web01/disks", {"bytes": 16 << 20, "mode": "independent_persistent", "backing": "flat"})
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/web01/disks/{added['key']}")
        self.lab.control("vcenter", "POST", "/settings", {"tools": "notRunning"})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"tools": "running"})
        findings = self.check("--flavor", "no-such-flavor")
        problems = self.facts(findings, "problem")
        self.assertIn("independent disk", problems)
        self.assertIn("no-such-flavor", problems)
        self.assertIn("cannot be asked to shut down", problems)
        for mac in self.lab.vcenter["macs"]:
            self.assertIn(mac, problems)
        self.assertTrue(all(f["remedy"] for f in findings if f["level"] == "problem" and f["object"] != "target"), findings)
        # What is said to help does help.
        self.assertNotIn("independent", self.facts(self.check("--skip-disk", str(added["key"])), "problem"))
        self.assertNotIn("shut down", self.facts(self.check("--flavor", "no-such-flavor", "--force-poweroff"), "problem"))

    def test_a_closed_port_of_the_host_is_a_note(self):
        """Nothing listens on port 902 of the loopback address; a name without a dot is not tried."""
        self.assertNotIn("902", self.facts(self.check(), "note"))
        self.lab.control("vcenter", "POST", "/settings", {"host_name": "127.0.0.1"})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"host_name": ""})
        self.assertIn("port 902 cannot be reached", self.facts(self.check(), "note"))

    def test_a_snapshot_of_somebody_stands_in_the_way_of_reading(self):
        made = self.lab.control("vcenter", "POST", "/vms/web01/snapshots", {"name": "backup"})
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/web01/snapshots/{made['id']}")
        self.assertIn("above somebody's snapshot", self.facts(self.check(), "problem"))

    def test_a_snapshot_that_a_killed_run_left_is_its_jobs(self):
        died = self.ferry("migrate", ok=False, env={"VMFERRY_CRASH_AT": "copy disks|before DiskCopied"})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        snapshot = self.lab.vm()["snapshots"][0]["id"]
        job = json.loads(self.ferry("status", "--json").out)["jobs"][0]["job"][:8]
        findings = self.check(*self.lab.cutover_flags())
        self.assertEqual(self.facts(findings, "problem"), "")
        left = [f for f in findings if f["object"] == f"snapshot {snapshot}"]
        self.assertEqual([(f["level"], job in f["fact"], "abort" in f["remedy"]) for f in left], [("warning", True, True)], findings)
        # A migrate to somewhere else leaves it alone, and could not read the disks.
        elsewhere = self.check(target="local")
        self.assertIn("above somebody's snapshot", self.facts(elsewhere, "problem"))
        self.assertIn(f"a snapshot of job {job}, which moves this machine to OpenStack", self.facts(elsewhere, "warning"))
        # So does a host that knows nothing of the job.
        state, self.state = self.state, self.state / "another"
        self.assertIn(f"a snapshot of job {job}, which this state folder does not know", self.facts(self.check(), "warning"))
        self.state = state
        self.ferry("migrate")
        self.assertNotIn("snapshot", self.facts(self.check(), "warning"))
        self.assert_nothing_left()
        self.forget_volumes()

    def test_ways_to_read_that_cannot_work(self):
        empty = self.state / "empty"
        empty.mkdir()
        says = lambda *flags, level="problem", **more: self.facts(self.check("--transport", *flags, **more), level)
        self.assertEqual(says("file", "--local-disk-path", str(empty)).count("was not found below"), 2)
        self.assertIn("there is no such folder", says("file", "--local-disk-path", "/no/such"))
        self.assertEqual(says("file", "--local-disk-path", f"LocalDS_0={self.lab.vcenter['datastore_dir']}"), "")
        self.assertEqual(says("file", "--local-disk-path", f"LocalDS_0={self.lab.vcenter['datastore_dir']}", "--local-disk-path", "other=/no/such"), "")
        # By another way that was allowed it works.
        self.assertEqual(says("file,https", "--local-disk-path", "/no/such"), "")
        self.assertIn("there is no such folder", says("file,https", "--local-disk-path", "/no/such", level="warning"))
        self.assertIn("no such file to be read", says("ssh", "--esxi-ssh-key", "/no/such"))
        keys = [kind for home in (self.state, pathlib.Path(pwd.getpwuid(os.geteuid()).pw_dir)) for kind in ("ed25519", "ecdsa", "rsa", "dsa")
                if (home / ".ssh" / f"id_{kind}").exists()]
        self.assertEqual("no login on the ESXi host" in says("ssh", env={"HOME": str(self.state)}), not keys)

    def test_names_that_the_machine_does_not_have(self):
        findings = self.check("--skip-disk", "9999", "--existing-volume", "disk=9998,host=h@b#p,source-name=n",
                              "--volume-type-mapping", f"nosuchds={self.lab.openstack['volume_type']}",
                              "--volume-type-mapping", f"LocalDS_0={self.lab.openstack['volume_type']}")
        problems = self.facts(findings, "problem")
        self.assertIn("--skip-disk 9999: web01 has no such disk", problems)
        self.assertIn("--existing-volume 9998: web01 has no such disk", problems)
        self.assertEqual([f["fact"] for f in findings if "nosuchds" in f["object"]], ["web01 has no disk on 'nosuchds' (it has LocalDS_0)"])
        self.assertNotIn("has no disk on 'LocalDS_0'", self.facts(findings))

    def test_every_wrong_setting_is_named_once(self):
        wrong = {"--volume-type": "gold", "--volume-type-mapping": "LocalDS_0=silver", "--availability-zone": "mars", "--volume-availability-zone": "pluto",
                 "--security-groups": "nosg", "--key-pair": "nokp", "--server-group": "nogroup", "--flavor": "99",
                 "--network-mapping": f"mac={self.lab.vcenter['macs'][0]},network-id=nonet"}
        findings = self.check(*[word for flag in wrong.items() for word in flag], "--run-v2v=false")
        problems = [f["fact"] for f in findings if f["level"] == "problem"]
        for name in ("gold", "silver", "mars", "pluto", "nosg", "nokp", "nogroup", "99", "nonet"):
            self.assertEqual(len([fact for fact in problems if f"'{name}'" in fact]), 1, (name, problems))
        self.assertIn("openstack keypair create --public-key FILE nokp", " ".join(problems))

    def test_sides_that_do_not_answer_are_findings(self):
        arguments = ["--os-cloud", "no-such-cloud"]
        self.assertIn("no-such-cloud", self.facts(self.check(*arguments), "problem"))
        findings = self.check(path="/DC0/vm/nobody")
        self.assertIn("nobody", self.facts(findings, "problem"))


class RoomTest(Checks, JourneyTest):
    """What the cloud has no room for is found by check, and by a cutover before the machine is touched."""

    def setUp(self):
        super().setUp()
        self.begin_anew()
        self.quota(gigabytes=1000, volumes=10, ports=500)

    def quota(self, **values):
        self.lab.control("openstack", "POST", "/quota", values)

    def mapping(self, **more):
        """The cutover's flags with something changed in the first mapping."""
        flags = self.cutover_flags()
        first = flags.index("--network-mapping") + 1
        for key, value in more.items():
            flags[first] = re.sub(rf",{key}=[^,]*|$", f",{key}={value}", flags[first], count=1)
        return flags

    def refused(self, *flags, says):
        """By both, with the machine as it was."""
        volumes = self.lab.volumes()
        self.assertIn(says, self.facts(self.check(*flags), "problem"))
        done = self.ferry("cutover", *flags, ok=False)
        self.assertIn(says, done.err)
        self.assertEqual(self.lab.vm()["power"], "on")
        self.assertEqual(self.lab.volumes(), volumes)
        self.assert_nothing_left()
        return done

    def test_too_many_volumes(self):
        self.quota(volumes=1)
        self.assertEqual(self.refused(*self.cutover_flags(), says="no room for 2 more volumes of 2 GiB in all").code, 7)
        self.quota(volumes=10, gigabytes=1)
        self.refused(*self.cutover_flags(), says="no room for 2 more volumes of 2 GiB in all")

    def test_a_machine_that_was_cut_over_is_not_ready_to_be(self):
        self.ferry("cutover", *self.cutover_flags())
        server = next(s["id"] for s in self.lab.control("openstack", "GET", "/state")["servers"] if s["name"] == "web01")
        findings = self.check(*self.cutover_flags())
        self.assertEqual([(f["object"], f["fact"]) for f in findings if f["level"] == "problem"],
                         [("web01", f"it was cut over already and is server {server} now; migrate would refuse it")])
        self.assertEqual(self.ferry("migrate", ok=False).code, 6)

    def test_too_many_ports(self):
        self.quota(ports=len(self.lab.control("openstack", "GET", "/state")["ports"]) + 1)
        self.refused(*self.cutover_flags(), says="2 more ports are needed, and its quota has room for 1")

    def test_an_address_of_somebody_else(self):
        network, subnet = self.lab.openstack["network_id"], self.lab.openstack["subnet_id"]
        port = self.cloud.network.create_port(network_id=network, fixed_ips=[{"subnet_id": subnet}])
        address = port.fixed_ips[0]["ip_address"]
        self.refused(*self.mapping(ip=address), says=f"address {address} is in use by port {port.id}")

    def test_an_address_of_another_network(self):
        self.refused(*self.mapping(ip="203.0.113.5"), says="address 203.0.113.5 is not in its subnet")

    def test_a_mac_of_somebody_elses_server(self):
        mac = self.lab.vcenter["macs"][0]
        port = self.cloud.network.create_port(network_id=self.lab.openstack["network_id"], mac_address=mac.upper())
        disk = self.cloud.block_storage.create_volume(size=1, name="somebody's")
        self.cloud.block_storage.wait_for_status(disk, "available", interval=0.1)
        self.cloud.block_storage.set_volume_bootable_status(disk, True)
        server = self.cloud.compute.create_server(
            name="somebody's", flavor_id=self.lab.openstack["flavor_id"], networks=[{"port": port.id}],
            block_device_mapping=[{"boot_index": 0, "uuid": disk.id, "source_type": "volume", "destination_type": "volume"}])
        self.cloud.compute.wait_for_server(server, interval=0.1)
        self.refused(*self.cutover_flags(), says=f"port {port.id} with MAC {mac.lower()}")

    def test_what_is_there_already_needs_no_room(self):
        self.ferry("migrate")
        self.quota(volumes=2, gigabytes=2)
        self.assertEqual(self.facts(self.check(*self.cutover_flags()), "problem"), "")
        self.ferry("cutover", *self.cutover_flags())
        self.assert_arrived()

    def test_a_subnet_without_a_free_address(self):
        self.lab.control("openstack", "POST", "/settings", {"ip_availability": "shown"})
        self.addCleanup(self.lab.control, "openstack", "POST", "/settings", {"ip_availability": "forbidden"})
        subnet = self.cloud.network.get_subnet(self.lab.openstack["subnet_id"])
        pool = {key: subnet.allocation_pools[0][key] for key in ("start", "end")}
        used = next(f["ip_address"] for p in self.cloud.network.ports() for f in p.fixed_ips)
        self.lab.control("openstack", "POST", f"/subnets/{subnet.id}/pool", {"start": used, "end": used})
        self.addCleanup(self.lab.control, "openstack", "POST", f"/subnets/{subnet.id}/pool", pool)
        self.refused(*self.cutover_flags(), says="has no free address")


class BareHostTest(Checks, MigrationTest):
    lab_flags = ("--esxi", "--disks", "17M+37s,16M+1s", "--writer-rate", "0")

    def test_a_machine_that_is_fine(self):
        """A host cannot be asked for privileges: that is no problem of the machine."""
        self.assertEqual(self.facts(self.check(), "problem"), "")


ON_MACHINE = ("VirtualMachine.Config.ChangeTracking", "VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot",
              "VirtualMachine.Provisioning.DiskRandomRead", "VirtualMachine.Interact.PowerOff")
ON_DATASTORE = ("Datastore.Browse", "Datastore.FileManagement")


class RestrictedUserTest(Checks, JourneyTest):
    """A user with the role that `check --print-role` prints, given on the datacenter: it is enough, and each part of it is needed."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.lab.account = "restricted_"

    def setUp(self):
        super().setUp()
        self.lab.control("vcenter", "DELETE", "/privileges")
        self.lab.control("vcenter", "POST", "/settings", {"tools": "running"})

    def take(self, privilege, kind=""):
        self.lab.control("vcenter", "DELETE", "/privileges")
        self.lab.control("vcenter", "POST", "/privileges", {"take": [privilege], "kind": kind})

    def missing(self):
        """The findings about privileges: (object, privilege)."""
        findings = self.check(*self.lab.cutover_flags())
        return {(f["object"], privilege) for f in findings if f["level"] == "problem" for privilege in ON_MACHINE + ON_DATASTORE
                if privilege in f["fact"]}

    def begin_anew(self):
        super().begin_anew()
        self.lab.control("vcenter", "DELETE", "/privileges")
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.lab.work))

    def refused(self):
        return [c for c in self.lab.control("vcenter", "GET", "/calls") if c.get("fault") == "NoPermission" or c["status"] == 403]

    def test_the_lab_has_the_printed_role(self):
        done = subprocess.run([BIN / "vmferry", "check", "--print-role"], capture_output=True, text=True, check=True)
        printed = re.findall(r"^\s+([A-Z]\w+(?:\.\w+)+)", done.stdout, re.MULTILINE)
        self.assertEqual(printed, self.lab.control("vcenter", "GET", "/privileges")["role"])
        self.assertEqual(sorted(printed), sorted(ON_MACHINE + ON_DATASTORE), "a privilege without a test")

    def test_the_role_is_enough(self):
        self.begin_anew()
        findings = self.check(*self.lab.cutover_flags())
        self.assertEqual(self.facts(findings, "problem"), "")
        self.ferry("inventory")
        self.ferry("migrate")
        self.ferry("migrate")
        self.ferry("cutover", *self.lab.cutover_flags())
        self.prove()
        self.assert_nothing_left()
        self.assertEqual(self.refused(), [])

    def test_the_role_is_enough_for_what_is_rare(self):
        """Power off by force, and disks that a removed snapshot left unmerged."""
        self.begin_anew()
        self.lab.control("vcenter", "POST", "/settings", {"tools": "notRunning"})
        self.lab.control("vcenter", "POST", "/faults", {"service": "vsphere", "method": "consolidate:RemoveSnapshot_Task", "kind": "fault",
                                                          "fault": "FileFault"})
        self.ferry("cutover", *self.lab.cutover_flags(), "--force-poweroff")
        self.prove()
        self.assert_nothing_left()
        methods = {c["method"] for c in self.lab.control("vcenter", "GET", "/calls")}
        self.assertLessEqual({"PowerOffVM_Task", "ConsolidateVMDisks_Task"}, methods)
        self.assertEqual(self.refused(), [])

    def test_what_is_missing_on_the_machine_is_named(self):
        self.begin_anew()
        for privilege in ON_MACHINE:
            for kind in ("VirtualMachine", ""):
                with self.subTest(privilege=privilege, kind=kind):
                    self.take(privilege, kind)
                    self.assertEqual(self.missing(), {("web01", privilege)})
            with self.subTest(privilege=privilege, kind="elsewhere"):
                self.take(privilege, "Datacenter")
                self.assertEqual(self.missing(), set())

    def test_what_is_missing_on_the_datacenter_is_named(self):
        self.begin_anew()
        for privilege in ON_DATASTORE:
            with self.subTest(privilege=privilege):
                self.take(privilege, "Datacenter")
                self.assertEqual(self.missing(), {("datacenter DC0", privilege)})
                self.take(privilege, "VirtualMachine")
                self.assertEqual(self.missing(), set())

    def test_what_is_missing_on_the_datastore_is_named(self):
        self.begin_anew()
        for privilege in ON_DATASTORE:
            with self.subTest(privilege=privilege):
                self.take(privilege, "Datastore")
                missing = self.missing()
                self.assertEqual({p for _, p in missing}, {privilege})
                self.assertTrue(all("LocalDS_0" in where for where, _ in missing), missing)

    # ---- nothing in the role is there for nothing: what stops when a privilege is taken, and how it is said

    def stops(self, privilege, *verb, said=None):
        self.take(privilege)
        done = self.ferry(*verb, ok=False)
        self.assertNotEqual(done.code, 0, str(done))
        self.assertIn(said or privilege, done.err)
        self.assertEqual({c["fault"] for c in self.refused() if c["service"] == "vsphere"}, set() if said else {"NoPermission"})

    def test_each_privilege_is_needed(self):
        for privilege in ON_MACHINE[:-1]:
            with self.subTest(privilege=privilege):
                self.begin_anew()
                if privilege.endswith("DiskRandomRead"):
                    self.ferry("migrate")
                self.stops(privilege, "migrate")
        with self.subTest(privilege=ON_MACHINE[-1]):
            self.begin_anew()
            self.stops(ON_MACHINE[-1], "cutover", *self.lab.cutover_flags())
            self.assertEqual(self.lab.vm()["power"], "on")
        for privilege in ON_DATASTORE:
            with self.subTest(privilege=privilege):
                self.begin_anew()
                self.stops(privilege, "migrate", said="Datastore.Browse and Datastore.FileManagement")
                self.assertTrue([c for c in self.refused() if c["service"] == "folder"])
