"""vmferry against the real OpenStack services: the contract suites that the stand-in passes, and whole migrations while tokens
end and calls fail. Needs root and the packages of `tools/setup openstack`."""

import os
import pathlib
import re
import signal
import subprocess
import time
import unittest

import openstack

from brick import Brick
from ferry import BIN, MigrationTest
from journey import slice_of

# The ways in which a call may go wrong; the front of the lab's cloud does it, between vmferry and the services.
KINDS = {
    # As of a token that ended. (Tokens that are truly revoked are in the contract suite, which waits for what the services do
    # with them: a revocation in the middle of Nova's own work, not an expiry, leaves volumes "attaching" for good.)
    "401": {"kind": "http", "status": 401},
    "500": {"kind": "http", "status": 500},
    "503": {"kind": "http", "status": 503},
    "429": {"kind": "http", "status": 429, "retry_after": 1},
    "reset": {"kind": "reset"},
    "lost-reply": {"kind": "lost-reply"},
}
UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


class RealCloud(Brick, MigrationTest):
    """A journey to the real services, and how the cloud is left as it was found."""

    lab_flags = ("--openstack", "real", "--disks", "17M+37s,16M+1s", "--writer-rate", "2")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for key, value in cls.lab.environment().items():
            if key.startswith("OS_"):
                os.environ[key] = value
        cls.cloud = openstack.connect(cloud="lab")

    def setUp(self):
        super().setUp()
        self.began = time.monotonic()

    def tearDown(self):
        self.lab.control("openstack", "DELETE", "/faults")
        print(f"  {time.monotonic() - self.began:6.1f} s", flush=True)

    def flags(self):
        flags = ["--run-v2v=false"]
        for number, mac in enumerate(self.lab.vcenter["macs"]):
            flags += ["--network-mapping", f"mac={mac},network-id={self.lab.openstack['network_id']},"
                      f"subnet-id={self.lab.openstack['subnet_id']},ip=192.0.2.{77 + number}"]
        return flags

    def cut_over(self):
        self.ferry("cutover", *self.flags(), timeout=400)

    def until_done(self, verb, *flags):
        """A fault that the product gives up on with a sentence is no failure: the same command again is the remedy."""
        for _ in range(8):
            done = self.ferry(verb, *flags, ok=False, timeout=400)
            if done.code == 0:
                return
            self.assertIn("error:", done.err)
            self.assertGreater(done.code, 0, str(done))
        self.fail(str(done))

    def arrived(self):
        """The server runs with the volumes, MACs and addresses that were asked for, every byte is there; then all of it goes."""
        self.assertEqual(self.lab.vm()["power"], "off")
        state = self.lab.control("openstack", "GET", "/state")
        servers = [s for s in state["servers"] if s["name"] == "web01"]
        self.assertEqual([s["status"] for s in servers], ["ACTIVE"])
        # The lab's machine has two processors and 4 GiB; of the two flavors of that size one has a GPU.
        self.assertEqual(servers[0]["flavor"], "m1.medium")
        self.assertEqual(len(state["volumes"]), 2, "a volume too many")
        ports = {p["mac_address"]: p["fixed_ips"][0]["ip_address"] for p in state["ports"]}
        self.assertEqual(ports, {mac.lower(): f"192.0.2.{77 + n}" for n, mac in enumerate(self.lab.vcenter["macs"])})
        self.assert_bytes(state, servers[0])
        self.assert_nothing_left()
        self.clear()
        self.power_on()

    def assert_bytes(self, state, server):
        frozen = self.lab.control("vcenter", "GET", "/vms/web01/frozen")[-1]["disks"]
        files = {v["id"]: v["file"] for v in state["volumes"]}
        for disk, volume in zip(sorted(frozen, key=lambda d: d["key"]), server["volumes"]):
            wanted = pathlib.Path(disk["path"]).read_bytes()
            with open(files[volume], "rb") as file:
                self.assertTrue(file.read(len(wanted)) == wanted, f"disk {disk['key']} differs")

    def clear(self):
        """As the cloud was before, with its owner's own tools."""
        state = self.lab.control("openstack", "GET", "/state")
        host = self.lab.openstack["instance_id"]
        for server in state["servers"]:
            if server["id"] != host:
                self.cloud.compute.delete_server(server["id"])
        self.wait_for(lambda: [s["id"] for s in self.lab.control("openstack", "GET", "/state")["servers"]] == [host], seconds=90,
                      what="servers to go")
        for volume in self.lab.volumes():
            if any(a.get("server_id") == host for a in volume["attachments"]):
                self.cloud.compute.delete_volume_attachment(host, volume["id"])
        self.wait_for(lambda: all(v["status"] in ("available", "error") for v in self.lab.volumes()), seconds=90, what="volumes to be free")
        for volume in self.lab.volumes():
            self.cloud.block_storage.delete_volume(volume["id"])
        for port in self.lab.control("openstack", "GET", "/state")["ports"]:
            self.cloud.network.delete_port(port["id"], ignore_missing=True)
        self.wait_for(lambda: not self.lab.volumes(), seconds=90, what="volumes to go")
        self.assert_empty()

    def assert_empty(self):
        state = self.lab.control("openstack", "GET", "/state")
        self.assertEqual(state["volumes"], [])
        self.assertEqual(state["ports"], [])
        self.assertEqual([s["id"] for s in state["servers"]], [self.lab.openstack["instance_id"]])

    def power_on(self):
        if self.lab.vm()["power"] == "off":
            self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})


class RealOpenStackTest(RealCloud):
    """In the order of their names: each leaves the cloud as it found it."""

    def contract(self, program, *flags):
        done = subprocess.run([BIN.parent / "tests" / program, *flags], capture_output=True, text=True, timeout=900,
                              env={**os.environ, "VMFERRY_TEST_LAB": str(self.lab.directory)})
        verdicts = [line for line in done.stdout.splitlines() if re.match(r"\[  (PASSED|SKIPPED|FAILED)", line)]
        print("\n".join(verdicts), flush=True)
        self.assertEqual(done.returncode, 0, done.stdout[-8000:] + done.stderr[-2000:])

    def test_1_the_client(self):
        self.contract("contract_openstack", "--gtest_filter=OpenStack.*:Logins.*:Attachments.*:Images.*")

    def test_2_the_target(self):
        self.contract("contract_target", "--gtest_filter=CloudContract/2.*:OpenstackTarget.*:ImageTarget.*")
        self.clear()

    def test_3_two_cycles_and_a_cutover(self):
        self.ferry("migrate")
        self.prove()
        again = self.ferry("migrate", "--json").events()
        self.assertEqual([e["full"] for e in again if e["event"] == "disk_finished"], [False, False])
        self.prove()
        self.cut_over()
        self.arrived()

    def test_4_every_call_fails_once(self):
        """First the calls of a journey without faults; then journeys in which the first of each goes wrong in one way."""
        self.lab.control("openstack", "DELETE", "/calls")
        self.ferry("migrate")
        self.cut_over()
        calls = {(c["service"], c["method"], UUID.sub("{id}", c["path_or_object"].split("?")[0]))
                 for c in self.lab.control("openstack", "GET", "/calls")}
        self.arrived()
        self.assertGreater(len(calls), 20)
        for name in slice_of(KINDS):
            with self.subTest(fault=name):
                self.state = self.lab.work / f"fault-{name}"
                self.state.mkdir()
                began = time.monotonic()
                for service, method, path in sorted(calls):
                    if name == "401" and service == "identity":
                        continue  # a wrong password
                    where = "^" + re.escape(path).replace(re.escape("{id}"), "[0-9a-f-]+") + "$"
                    self.lab.control("openstack", "POST", "/faults",
                                     {"service": service, "method": method, "path_regex": where, "count": 1, **KINDS[name]})
                self.until_done("migrate")
                self.until_done("cutover", *self.flags())
                struck = sum(f["hits"] for f in self.lab.control("openstack", "GET", "/faults"))
                self.lab.control("openstack", "DELETE", "/faults")
                print(f"  {name}: {struck} of {len(calls)} calls failed once, {time.monotonic() - began:.0f} s", flush=True)
                self.assertGreater(struck, len(calls) // 2)
                self.arrived()

    def test_5_abort_removes_what_a_dead_run_left(self):
        """Killed when volumes, attachments, ports and even the server are there but nothing says so in the journal."""
        for point in ("allocate volumes|after", "ensure network ports|after", "copy disks|before", "create the server|before"):
            with self.subTest(point=point):
                self.state = self.lab.work / ("dead-" + re.sub(r"\W", "-", point))
                self.state.mkdir()
                died = self.ferry("cutover", *self.flags(), ok=False, timeout=300, env={"VMFERRY_CRASH_AT": point})
                self.assertEqual(died.code, -signal.SIGKILL, str(died))
                self.ferry("abort", "--delete-volumes", timeout=300)
                self.assert_nothing_left()
                self.assert_empty()
                self.power_on()

    def test_6_other_ways(self):
        """How bytes come to the cloud without Nova's attaching, one way or stage after the other."""
        ways = {"the contract suite by os-brick": lambda: self.contract("contract_target", "--gtest_filter=CloudContract/3.*"),
                "volumes connected by os-brick": self.connected_by_this_host, "killed while os-brick connects": self.killed_while_connected,
                "qcow2 images, imported": lambda: self.by_way_of_images("qcow2", "import"),
                "raw images, uploaded": lambda: self.by_way_of_images("raw", "direct"),
                "tokens of two minutes": lambda: None}  # ShortTokensTest
        for name in slice_of(ways):
            with self.subTest(way=name):
                print(f"  {name}", flush=True)
                self.state = self.lab.work / re.sub(r"\W", "-", name)
                self.state.mkdir()
                ways[name]()
                self.clear()

    def connected_by_this_host(self):
        """--attach brick: Cinder and os-brick instead of Nova."""
        self.lab.control("openstack", "DELETE", "/calls")
        self.brick("migrate", timeout=300)
        self.prove()
        self.assert_not_connected()
        again = self.brick("migrate", "--json", timeout=300).events()
        self.assertEqual([e["full"] for e in again if e["event"] == "disk_finished"], [False, False])
        self.brick("cutover", *self.flags(), timeout=400)
        self.assertFalse(self.volumes_mounted())
        self.assertFalse([c for c in self.lab.control("openstack", "GET", "/calls") if "os-volume_attachments" in c["path_or_object"]])
        self.arrived()

    def killed_while_connected(self):
        for when, number in (("after", 2), ("after", 4)):
            with self.subTest(when=when, number=number):
                self.state = self.lab.work / f"brick-{when}-{number}"
                self.state.mkdir()
                self.dies_at(when, number, "migrate")
                self.brick("abort", "--delete-volumes", timeout=300)
                self.assert_not_connected()
                self.assert_empty()

    def by_way_of_images(self, image_format, upload):
        """No conversion host: each disk through Glance's staging or store into a volume that Cinder makes of it."""
        folder = self.state / "images"
        folder.mkdir()
        flags = ["--target", f"image:{folder}", "--image-format", image_format, "--image-upload", upload]
        self.ferry("migrate", *flags)
        done = self.ferry("cutover", *flags, *self.flags(), timeout=600)
        self.assertIn("whose sha512 is right", done.err)
        left = [i["name"] for i in self.cloud.image.images() if "vmferry_job" in i.to_dict().get("properties", {})]
        self.assertEqual(left, [])
        self.arrived()


class ShortTokensTest(RealCloud):
    """Tokens of two minutes, less than a cycle takes: they end in the middle of it, several times."""

    lab_flags = (*RealCloud.lab_flags, "--token-lifetime", "2m")

    @classmethod
    def setUpClass(cls):
        if 5 not in slice_of(range(6)):
            raise unittest.SkipTest("left to ./test --full openstack: it takes six minutes")
        super().setUpClass()

    def test_cycles_longer_than_tokens(self):
        self.ferry("migrate", "--bandwidth", "128K", timeout=600)
        self.prove()
        self.ferry("migrate", timeout=300)
        self.cut_over()
        logins = [c for c in self.lab.control("openstack", "GET", "/calls")
                  if c["method"] == "POST" and c["path_or_object"].split("?")[0].endswith("/auth/tokens") and c["status"] == 201]
        print(f"  {len(logins)} logins", flush=True)
        self.assertGreater(len(logins), 4, "no token ended")
        self.arrived()
