"""vmferry against the real OpenStack services: the contract suites that the stand-in passes, and whole migrations while tokens
end and calls fail. Needs root and the packages of `tools/setup openstack`."""

import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest
from xml.etree import ElementTree

import openstack

from brick import Brick
from ferry import BIN, MigrationTest, Result
from gateways import NAME, ForwardProxy, Gatehouse
from journey import slice_of
from test_host import KEY, Greeter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import guest_proof  # noqa: E402

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
# Disks by way of images, see docs/image-upload.md: formats, and how they are sent.
IMAGES = {"qcow2 images, imported": ("--image-format", "qcow2", "--image-upload", "import"),
          "raw images, uploaded": ("--image-format", "raw", "--image-upload", "direct")}
# A point of a cutover at which both images are there and their volumes are on their way.
IMAGES_THERE = "bring the disks to the cloud|before VolumeDelivered"
BRICK = "volumes connected by os-brick"
# What the BIOS of the server runs: the first sector of the machine's first disk says so, see lab/guest/bootsector.go.
BOOTED = "vmferry guest: web01 booted from its first disk"
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
        # The adapters' order is the machine's, and not that of the flags.
        for mac, (network, addresses) in reversed(self.adapters()):
            flags += ["--network-mapping", ",".join([f"mac={mac}", network, *(f"ip={address}" for address in addresses)])]
        return flags

    def adapters(self):
        """What each gets. The second is on a network of both families."""
        cloud = self.lab.openstack
        return list(zip((mac.lower() for mac in self.lab.vcenter["macs"]),
                        ((f"network-id={cloud['network_id']},subnet-id={cloud['subnet_id']}", ["192.0.2.77"]),
                         ("network-id=dual", ["198.18.1.78", "2001:db8:1::78"])), strict=True))

    def cut_over(self):
        self.ferry("cutover", *self.flags(), timeout=900)

    def by(self, way):
        """`ferry` with what each command of that way needs: BRICK, one of IMAGES, or else volumes that Nova attaches."""
        if way == BRICK:
            return self.brick
        if way in IMAGES:
            folder = self.state / "images"
            folder.mkdir(exist_ok=True)
            return functools.partial(self.by_images, ("--target", f"image:{folder}"), IMAGES[way])
        return self.ferry

    def by_images(self, target, sending, verb, *flags, **more):
        return self.ferry(verb, *target, *(sending if verb != "abort" else ()), *flags, **more)

    def every_call_fails_once(self, calls, name, run, *commands):
        """The first of each of `calls` goes wrong in the way of that name while the commands run; all of them are met."""
        began, rules, stopped = time.monotonic(), {}, 0
        for service, method, path in sorted(calls):
            if name == "401" and service == "identity":
                continue  # a wrong password
            # Ends before the query, which differs from run to run.
            where = "^" + re.escape(path).replace(re.escape("{id}"), "[0-9a-f-]+") + r"(\?|$)"
            rule = {"service": service, "method": method, "path_regex": where, "count": 1, **KINDS[name]}
            rules[self.lab.control("openstack", "POST", "/faults", rule)["ids"][0]] = (service, method, path)
        for command in commands:
            stopped += self.until_done(run, *command)
        missed = {rules[f["id"]] for f in self.lab.control("openstack", "GET", "/faults") if f["hits"] == 0}
        self.lab.control("openstack", "DELETE", "/faults")
        print(f"  {name}: {len(rules) - len(missed)} of {len(rules)} calls failed once, {stopped} of them stopped a command, "
              f"{time.monotonic() - began:.0f} s", flush=True)
        return missed

    def until_done(self, run, verb, *flags):
        """A fault that the product gives up on with a sentence is no failure: the same command again is the remedy."""
        for stopped in range(8):
            done = run(verb, *flags, ok=False, timeout=900)
            if done.code == 0:
                return stopped
            self.assertIn("error:", done.err)
            self.assertGreater(done.code, 0, str(done))
        return self.fail(str(done))

    def calls_so_far(self):
        return {(c["service"], c["method"], UUID.sub("{id}", c["path_or_object"].split("?")[0]))
                for c in self.lab.control("openstack", "GET", "/calls")}

    def arrived(self):
        """The server has booted, with the volumes, MACs and addresses that were asked for, every byte is there; then all of it goes."""
        self.assertEqual(self.lab.vm()["power"], "off")
        state = self.lab.control("openstack", "GET", "/state")
        servers = [s for s in state["servers"] if s["name"] == "web01"]
        self.assertEqual([s["status"] for s in servers], ["ACTIVE"])
        # The lab's machine has two processors and 4 GiB; of the two flavors of that size one has a GPU.
        self.assertEqual(servers[0]["flavor"], "m1.medium")
        server = servers[0]
        asked = [(mac, addresses, server["id"]) for mac, (_, addresses) in self.adapters()]
        self.assertEqual(sorted(self.described(state["ports"])), sorted(asked), "the server's own ports, and no others")
        self.assert_adapters(server["id"])
        self.assertEqual(sorted(server["ports"]), sorted(p["id"] for p in state["ports"]))
        volumes = self.volumes_in_order(state, server)
        self.assertEqual(sorted((a["volume_id"], a["instance"], a["status"]) for a in self.attachments()),
                         sorted((v["id"], server["id"], "attached") for v in volumes), "an attachment too many")
        self.assertEqual(self.images_of_jobs(state), [], "an image was left behind")
        self.assertEqual([v["bootable"] for v in volumes], [True, False])
        self.wait_for(lambda: BOOTED in self.console(server["id"]), seconds=300, what=f"{BOOTED!r} on the server's console")
        self.assert_bytes(volumes)
        self.assert_nothing_left()
        self.clear()
        self.power_on()

    @staticmethod
    def described(ports):
        return [(p["mac_address"], sorted(a["ip_address"] for a in p["fixed_ips"]), p["device_id"]) for p in ports]

    def assert_adapters(self, server):
        """As its owner sees them; and in the order of the source machine, which a guest sees by their places on the PCI bus."""
        asked = [(mac, addresses) for mac, (_, addresses) in self.adapters()]
        ports = list(self.cloud.network.ports(device_id=server))
        self.assertEqual(sorted(self.described(ports)), sorted((*one, server) for one in asked))
        shown = self.cloud.compute.get_server(server).addresses
        novas = [(a["OS-EXT-IPS-MAC:mac_addr"], a["addr"], a["version"]) for network in shown.values() for a in network]
        self.assertEqual(sorted(novas), sorted((mac, ip, 6 if ":" in ip else 4) for mac, addresses in asked for ip in addresses))
        libvirt = f"qemu+unix:///system?socket={self.lab.directory}/cloud/libvirt/run/libvirt/libvirt-sock"
        shown = subprocess.run(["virsh", "-c", libvirt, "dumpxml", server], capture_output=True, text=True, timeout=300)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        places = []
        for adapter in ElementTree.fromstring(shown.stdout).findall("./devices/interface"):
            place = adapter.find("./address[@type='pci']")
            places.append(([int(place.get(part), 16) for part in ("domain", "bus", "slot", "function")], adapter.find("mac").get("address")))
        self.assertEqual([mac for _, mac in sorted(places)], [mac for mac, _ in asked])

    def volumes_in_order(self, state, server):
        """As the server has them: Nova names the one with boot index 0 first."""
        self.assertEqual(len(state["volumes"]), 2, "a volume too many")
        self.assertEqual(sorted(server["volumes"]), sorted(v["id"] for v in state["volumes"]))
        holders = [[a["server_id"] for a in v["attachments"]] for v in state["volumes"]]
        self.assertEqual(holders, [[server["id"]]] * 2)
        volumes = sorted(state["volumes"], key=lambda v: v["attachments"][0]["device"])
        self.assertEqual([v["attachments"][0]["device"][-1] for v in volumes], ["a", "b"])
        return volumes

    def attachments(self):
        """Cinder's own, of which a volume shows only those that are complete."""
        answer = self.cloud.block_storage.get("/attachments/detail", microversion="3.44")
        self.assertEqual(answer.status_code, 200, answer.text)
        return answer.json()["attachments"]

    @staticmethod
    def images_of_jobs(state):
        return [i["name"] for i in state["images"] if "vmferry_job" in i]

    def console(self, server):
        return self.cloud.compute.get_server_console_output(server)["output"] or ""

    def assert_bytes(self, volumes):
        """The machine's first disk is on the first volume, its second on the second."""
        frozen = self.lab.control("vcenter", "GET", "/vms/web01/frozen")[-1]["disks"]
        for disk, volume in zip(sorted(frozen, key=lambda d: d["key"]), volumes, strict=True):
            wanted = pathlib.Path(disk["path"]).read_bytes()
            with open(volume["file"], "rb") as file:
                self.assertTrue(file.read(len(wanted)) == wanted, f"disk {disk['key']} differs")

    def clear(self):
        """As the cloud was before, with its owner's own tools."""
        state = self.lab.control("openstack", "GET", "/state")
        host = self.lab.openstack["instance_id"]
        for server in state["servers"]:
            if server["id"] != host:
                self.cloud.compute.delete_server(server["id"])
        self.wait_for(lambda: [s["id"] for s in self.lab.control("openstack", "GET", "/state")["servers"]] == [host], seconds=300,
                      what="servers to go")
        for volume in self.lab.volumes():
            if any(a.get("server_id") == host for a in volume["attachments"]):
                self.cloud.compute.delete_volume_attachment(host, volume["id"])
        self.wait_for(lambda: all(v["status"] in ("available", "error") for v in self.lab.volumes()), seconds=600, what="volumes to be free")
        for volume in self.lab.volumes():
            self.cloud.block_storage.delete_volume(volume["id"])
        for port in self.lab.control("openstack", "GET", "/state")["ports"]:
            self.cloud.network.delete_port(port["id"], ignore_missing=True)
        self.wait_for(lambda: not self.lab.volumes(), seconds=300, what="volumes to go")
        self.assert_empty()

    def assert_empty(self):
        state = self.lab.control("openstack", "GET", "/state")
        self.assertEqual(state["volumes"], [])
        self.assertEqual(state["ports"], [])
        self.assertEqual(self.attachments(), [])
        self.assertEqual(self.images_of_jobs(state), [])
        self.assertEqual([s["id"] for s in state["servers"]], [self.lab.openstack["instance_id"]])

    def power_on(self):
        if self.lab.vm()["power"] == "off":
            self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})


class ContractTest(RealCloud):
    """The suites that the stand-in passes. In the order of their names: each leaves the cloud as it found it."""

    def contract(self, program, *flags, timeout=2400):
        done = subprocess.run([BIN.parent / "tests" / program, *flags], capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, "VMFERRY_TEST_LAB": str(self.lab.directory)})
        verdicts = [line for line in done.stdout.splitlines() if re.match(r"\[  (PASSED|SKIPPED|FAILED)", line)]
        print("\n".join(verdicts), flush=True)
        self.assertEqual(done.returncode, 0, done.stdout[-8000:] + done.stderr[-2000:])
        self.assertRegex(done.stdout, r"\[  PASSED  \] [1-9]\d* test", f"{program} {flags} ran nothing")

    EACH_CALL = "OpenStack.TheTokenEndsBetweenAnyTwoCalls"  # minutes: the services need seconds to believe a revocation

    def test_1_the_client(self):
        self.contract("contract_openstack", f"--gtest_filter=OpenStack.*:Logins.*:Attachments.*:Images.*-{self.EACH_CALL}")

    def test_2_the_target(self):
        self.contract("contract_target", "--gtest_filter=CloudContract/2.*:OpenstackTarget.*:DualStack.*:ImageTarget.*")
        self.clear()

    def test_3_a_conversion_host_piece_by_piece(self):
        """What goes wrong between the pieces. All of it makes some forty servers, so a slice has what makes none."""
        if "VMFERRY_SLICE_SEED" in os.environ:
            self.contract("contract_openstack", "--gtest_filter=HostResources.ImagesByIdAndByName")
            self.contract("contract_target", "--gtest_filter=ConversionHost.WhatHasNoRoomIsSaidBeforeAnythingIsMade:Check.OfAnInstanceThatOthersMade")
        else:
            self.contract("contract_openstack", "--gtest_filter=HostResources.*")
            self.contract("contract_target", "--gtest_filter=ConversionHost.*:Check.*", timeout=3600)
        self.assert_empty()

    def test_4_what_takes_minutes(self):
        suites = {"os-brick": ("contract_target", "CloudContract/3.*"), "tokens that end": ("contract_openstack", self.EACH_CALL)}
        for name in slice_of(suites):
            with self.subTest(suite=name):
                program, which = suites[name]
                self.contract(program, f"--gtest_filter={which}")
                self.clear()


class RealOpenStackTest(RealCloud):
    """Whole journeys. In the order of their names: each leaves the cloud as it found it."""

    calls = ()  # of a journey without faults, as test_1 saw them

    def test_1_behind_a_proxy_and_a_gatehouse(self):
        """Two cycles and a cutover, to a cloud that only a forward proxy reaches, that demands a client certificate and has its
        endpoints below a path. The server's host is chosen, which Nova lets administrators do only."""
        gate = Gatehouse(self.state, self.lab.openstack["auth_url"].removesuffix("/identity/v3"), self.lab.openstack["ca"])
        proxy = ForwardProxy({NAME: "127.0.0.1"})
        self.addCleanup(gate.close)
        self.addCleanup(proxy.close)
        original = pathlib.Path(self.lab.openstack["clouds_yaml"]).read_text()
        way = {"https_proxy": proxy.url, "no_proxy": "", "NO_PROXY": "",
               "OS_CLIENT_CONFIG_FILE": str(gate.clouds_yaml(self.state / "clouds.yaml", original))}
        stranger = str(gate.clouds_yaml(self.state / "stranger.yaml", original, certificate=False))
        refused = self.ferry("migrate", ok=False, env={**way, "OS_CLIENT_CONFIG_FILE": stranger})
        self.assertRegex(refused.err, "error: .*wants a client certificate: .*cert and key in clouds.yaml")
        self.lab.control("openstack", "DELETE", "/calls")
        self.ferry("migrate", env=way)
        self.prove()
        again = self.ferry("migrate", "--json", env=way).events()
        self.assertEqual([e["full"] for e in again if e["event"] == "disk_finished"], [False, False])
        self.prove()
        chosen = [*self.flags(), "--server-host", "hypervisor"]
        refused = self.ferry("cutover", *chosen, ok=False, timeout=900, env=way)
        self.assertRegex(refused.err, "error: .*requested_destination.*roles in this project do not allow it")
        self.ferry("cutover", *chosen, timeout=900, env={**way, "OS_CLOUD": self.lab.openstack["admin_cloud"]})
        self.assertEqual(set(proxy.asked), {f"{NAME}:{gate.port}", self.lab.vcenter["endpoint"]})
        type(self).calls = self.calls_so_far()
        self.arrived()

    def test_2_every_call_fails_once(self):
        """Journeys in which the first of each of the calls of a journey without faults goes wrong in one way."""
        calls = self.calls
        self.assertGreater(len(calls), 20, "test_1 comes before this one")
        for name in slice_of(KINDS):
            with self.subTest(fault=name):
                self.state = self.lab.work / f"fault-{name}"
                self.state.mkdir()
                missed = self.every_call_fails_once(calls, name, self.ferry, ["migrate"], ["cutover", *self.flags()])
                self.arrived()
                self.assertEqual(missed, set(), "calls that no fault struck")

    def test_3_abort_removes_what_a_dead_run_left(self):
        """Killed when volumes, attachments, ports and even the server are there but nothing says so in the journal."""
        points = ("allocate volumes|after", "ensure network ports|after", "copy disks|before", "create the server|before")
        for point in slice_of(points) or points[-1:]:
            with self.subTest(point=point):
                self.state = self.lab.work / ("dead-" + re.sub(r"\W", "-", point))
                self.state.mkdir()
                died = self.ferry("cutover", *self.flags(), ok=False, timeout=900, env={"VMFERRY_CRASH_AT": point})
                self.assertEqual(died.code, -signal.SIGKILL, str(died))
                self.ferry("abort", "--delete-volumes", timeout=900)
                self.assert_nothing_left()
                self.assert_empty()
                self.power_on()

    def test_4_other_ways(self):
        """How bytes come to the cloud without Nova's attaching, one way or stage after the other."""
        ways = {BRICK: self.connected_by_this_host, "killed while os-brick connects": self.killed_while_connected,
                **{way: functools.partial(self.by_way_of_images, way) for way in IMAGES}}
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
        self.brick("migrate", timeout=900)
        self.prove()
        self.assert_not_connected()
        again = self.brick("migrate", "--json", timeout=900).events()
        self.assertEqual([e["full"] for e in again if e["event"] == "disk_finished"], [False, False])
        self.brick("cutover", *self.flags(), timeout=900)
        self.assertFalse(self.volumes_mounted())
        self.assertFalse([c for c in self.lab.control("openstack", "GET", "/calls") if "os-volume_attachments" in c["path_or_object"]])
        self.arrived()

    def killed_while_connected(self):
        for when, number in (("after", 2), ("after", 4)):
            with self.subTest(when=when, number=number):
                self.state = self.lab.work / f"brick-{when}-{number}"
                self.state.mkdir()
                self.dies_at(when, number, "migrate")
                self.brick("abort", "--delete-volumes", timeout=900)
                self.assert_not_connected()
                self.assert_empty()

    def by_way_of_images(self, way):
        """No conversion host: each disk through Glance's staging or store into a volume that Cinder makes of it."""
        run = self.by(way)
        run("migrate")
        self.lab.control("openstack", "DELETE", "/calls")
        # Dies when both images are there and their volumes are on their way, but only the images are in the journal.
        died = run("cutover", *self.flags(), ok=False, timeout=900, env={"VMFERRY_CRASH_AT": IMAGES_THERE})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        self.assertEqual(died.err.count("whose sha512 is right"), 2, str(died))
        self.assertEqual(len(self.uploads()), 2)
        ordered = {v["id"] for v in self.lab.volumes()}
        self.assertEqual(len(ordered), 2)
        self.lab.control("openstack", "DELETE", "/calls")
        run("cutover", *self.flags(), timeout=900)
        self.assertEqual(self.uploads(), [], "sent twice")
        self.assertEqual({v["id"] for v in self.lab.volumes()}, ordered, "made twice")
        self.arrived()

    def test_5_a_conversion_host_from_nothing_to_nothing(self):
        """`vmferry host`, and what it makes as its owner sees it. Nothing runs in the server: what greets is here."""
        key, mute, greeter = self.state / "id.pub", Greeter(b"HTTP/1.1 400\r\n\r\n"), Greeter()
        key.write_text(KEY + "\n")
        for one in (mute, greeter):
            self.addCleanup(one.close)
        before = self.holdings()
        self.addCleanup(self.host, "destroy", "--yes", ok=False)
        deploy = ["deploy", "--image", "conversion-host-image", "--flavor", "m1.small", "--network", "lab-net", "--floating-ip-network", "public",
                  "--public-key", str(key), "--boot-volume", "1", "--ssh-from", "192.0.2.0/24"]
        waited = self.host(*deploy, "--ssh-address", mute.address, "--ssh-timeout", "1", ok=False)
        self.assertEqual(waited.code, 9, str(waited))
        self.assertIn("nothing greets as SSH at " + mute.address, waited.err)
        made = {kind: found - before[kind] for kind, found in self.holdings().items()}
        self.assertEqual({kind: len(ids) for kind, ids in made.items()}, {kind: 1 for kind in before}, "one of each")
        self.assert_a_host(**{kind: next(iter(ids)) for kind, ids in made.items()})
        again = self.host(*deploy, "--ssh-address", greeter.address)
        self.assertNotIn("  made\n", again.out)
        self.assertIn("as it was: ACTIVE, SSH-2.0-Lab_1 answers", again.out)
        self.assertEqual(self.holdings(), {kind: before[kind] | made[kind] for kind in before}, "the same ones")
        checked = self.host("check", "--ssh-address", greeter.address)
        for words in ("deployed by vmferry as 'vmferry-host'", "SSH-2.0-Lab_1 answers", "1 volume is attached", "0 problems"):
            self.assertIn(words, checked.out)
        self.assertIn("is gone", self.host("destroy", "--yes").out)
        self.wait_for(lambda: self.holdings() == before, seconds=300, what="everything to go")
        self.assertIn("nothing in", self.host("destroy", "--yes").out)

    def host(self, *words, ok=True):
        done = Result(subprocess.run([str(BIN / "vmferry"), "host", *words, "--state-dir", str(self.state / "s")], capture_output=True, text=True,
                                     env=self.lab.environment(), timeout=900, stdin=subprocess.DEVNULL))
        if ok:
            self.assertEqual(done.code, 0, str(done))
        return done

    def holdings(self):
        """What the lab's user has, by kind."""
        compute, network = self.cloud.compute, self.cloud.network
        mine = {"project_id": self.cloud.current_project_id}
        return {"server": {s.id for s in compute.servers()}, "key_pair": {k.name for k in compute.keypairs()},
                "group": {g.id for g in network.security_groups(**mine)}, "port": {p.id for p in network.ports(**mine)},
                "address": {f.id for f in network.ips(**mine)}, "volume": {v.id for v in self.cloud.block_storage.volumes()}}

    def assert_a_host(self, server, key_pair, group, port, address, volume):
        compute, network, mark = self.cloud.compute, self.cloud.network, "vmferry host=vmferry-host"
        found = compute.get_server(server)
        self.assertEqual((found.status, found.name, found.key_name), ("ACTIVE", "vmferry-host", "vmferry-host"))
        self.assertEqual(found.metadata["vmferry_host"], "vmferry-host")
        self.assertEqual([(v.id, v.delete_on_termination) for v in found.attached_volumes], [(volume, True)])
        self.assertEqual(compute.get_keypair(key_pair).public_key.split()[:2], KEY.split()[:2])
        found = network.get_security_group(group)
        self.assertEqual(found.description.split(" key-fingerprint=")[0], mark)
        self.assertEqual([(r["protocol"], r["port_range_min"], r["port_range_max"], r["remote_ip_prefix"], r["description"])
                          for r in found.security_group_rules if r["direction"] == "ingress"], [("tcp", 22, 22, "192.0.2.0/24", mark)])
        found = network.get_port(port)
        self.assertEqual((found.device_id, found.description, found.security_group_ids), (server, mark, [group]))
        self.assertRegex(found.fixed_ips[0]["ip_address"], r"^192\.0\.2\.")
        found = network.get_ip(address)
        self.assertEqual((found.port_id, found.description), (port, mark))
        self.assertRegex(found.floating_ip_address, r"^203\.0\.113\.")

    def uploads(self):
        """Of an image's bytes, also those that failed."""
        return [c for c in self.lab.control("openstack", "GET", "/calls")
                if c["method"] == "PUT" and re.search(r"/(file|stage)$", c["path_or_object"].split("?")[0])]


class OtherWaysFailTest(RealCloud):
    """Where Nova attaches nothing: every call of a journey by os-brick or by images fails once in every way, and every call of an
    abort after a dead run."""

    @classmethod
    def setUpClass(cls):
        if "VMFERRY_SLICE_SEED" in os.environ:
            raise unittest.SkipTest("left to ./test --full openstack: each of its journeys takes more than a minute")
        super().setUpClass()

    def test_by_os_brick(self):
        self.strike(BRICK, self.dies_with_volumes_connected)

    def test_qcow2_imported(self):
        self.strike("qcow2 images, imported", self.dies_with_images_there)

    def test_raw_uploaded(self):
        self.strike("raw images, uploaded", self.dies_with_images_there)

    def strike(self, way, dies):
        """Journeys, and aborts of dead runs, that nothing disturbs tell which calls there are; then the same for each kind of fault."""
        run = self.begin(way, "undisturbed")
        run("migrate", timeout=900)
        again = run("migrate", "--json", timeout=900).events()
        self.assertEqual([e["full"] for e in again if e["event"] == "disk_finished"], [False, False])
        run("cutover", *self.flags(), timeout=900)
        of_a_journey = self.calls_so_far()
        self.assertGreater(len(of_a_journey), 20)
        self.arrived()
        run = self.begin(way, "undone")
        dies(run)
        self.lab.control("openstack", "DELETE", "/calls")
        run("abort", "--delete-volumes", timeout=900)
        of_an_abort = self.calls_so_far()
        self.undone()
        for name in KINDS:
            with self.subTest(fault=name):
                run = self.begin(way, name)
                missed = self.every_call_fails_once(of_a_journey, name, run, ["migrate"], ["cutover", *self.flags()])
                self.arrived()
                self.assertEqual(missed, set(), "calls that no fault struck")
            with self.subTest(fault=name, aborted=True):
                run = self.begin(way, f"{name}-undone")
                dies(run)
                missed = self.every_call_fails_once(of_an_abort, name, run, ["abort", "--delete-volumes"])
                self.undone()
                self.assertEqual(missed, set(), "calls that no fault struck")

    def begin(self, way, name):
        self.state = self.lab.work / re.sub(r"\W", "-", f"{way} {name}")
        self.state.mkdir()
        self.lab.control("openstack", "DELETE", "/calls")
        return self.by(way)

    def dies_with_volumes_connected(self, run):
        died = run("migrate", ok=False, timeout=900, more_env={"VMFERRY_CRASH_AT": "copy disks|after"})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        self.assertEqual(len(self.volumes_mounted()), 2)

    def dies_with_images_there(self, run):
        died = run("cutover", *self.flags(), ok=False, timeout=900, env={"VMFERRY_CRASH_AT": IMAGES_THERE})
        self.assertEqual(died.code, -signal.SIGKILL, str(died))
        self.assertEqual(len(self.images_of_jobs(self.lab.control("openstack", "GET", "/state"))), 2)

    def undone(self):
        self.assertFalse(self.volumes_mounted())
        self.assert_nothing_left()
        self.assert_empty()
        self.power_on()


class ShortTokensTest(RealCloud):
    """Tokens of two minutes, less than a cycle takes: they end in the middle of it. And Heat, which only this cloud has."""

    lab_flags = (*RealCloud.lab_flags, "--token-lifetime", "2m", "--heat")

    @classmethod
    def setUpClass(cls):
        if 5 not in slice_of(range(6)):
            raise unittest.SkipTest("left to ./test --full openstack: it takes six minutes")
        super().setUpClass()

    def test_cycles_longer_than_tokens(self):
        # Five minutes for both disks.
        logins = self.logins_of("migrate", "--bandwidth", "96K", timeout=1800)
        self.assertGreater(logins, 1, "no token ended in the middle of it")
        self.prove()
        self.ferry("migrate", timeout=900)
        self.cut_over()
        self.refer_to_it_by_heat()
        self.arrived()

    def logins_of(self, *command, timeout):
        """How many tokens it asked for."""
        self.lab.control("openstack", "DELETE", "/calls")
        began = time.monotonic()
        self.ferry(*command, timeout=timeout)
        logins = [c for c in self.lab.control("openstack", "GET", "/calls")
                  if c["method"] == "POST" and c["path_or_object"].split("?")[0].endswith("/auth/tokens") and c["status"] == 201]
        print(f"  {' '.join(command)}: {time.monotonic() - began:.0f} s, {len(logins)} logins", flush=True)
        return len(logins)

    def refer_to_it_by_heat(self):
        """A stack of what was moved: it comes and goes, and touches nothing."""
        state = self.lab.control("openstack", "GET", "/state")
        server = next(s for s in state["servers"] if s["name"] == "web01")
        heat = self.cloud.orchestration
        stack = heat.create_stack(name="web01", template=self.ferry("heat-template").out)
        heat.wait_for_status(stack, "CREATE_COMPLETE", failures=["CREATE_FAILED"], interval=1, wait=600)
        stack = heat.get_stack(stack.id)
        outputs = {o["output_key"]: o["output_value"] for o in stack.outputs}
        self.assertEqual(outputs["server_id"], server["id"])
        self.assertEqual({a["addr"] for network in outputs["addresses"].values() for a in network},
                         {address for _, (_, addresses) in self.adapters() for address in addresses})
        held = {r.physical_resource_id for r in heat.resources(stack)}
        self.assertEqual(held, {server["id"], *server["volumes"], *(p["id"] for p in state["ports"])})
        heat.delete_stack(stack)
        heat.wait_for_delete(stack, interval=1, wait=600)


class GuestTest(RealCloud):
    """The operating system that was moved and converted by virt-v2v runs from its Cinder volumes."""

    lab_flags = ("--openstack", "real", "--guest", "linux", "--disks", "192M+37s,96M+1s", "--writer-rate", "2")

    @classmethod
    def setUpClass(cls):
        if "VMFERRY_SLICE_SEED" in os.environ:
            raise unittest.SkipTest("left to ./test --full openstack: a conversion without KVM takes minutes")
        super().setUpClass()

    def test_a_converted_guest_runs(self):
        self.ferry("migrate", timeout=900)
        self.prove()
        # /dev/kvm may be there and hang its guests.
        appliance = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
        done = self.ferry("cutover", *(flag for flag in self.flags() if flag != "--run-v2v=false"), "--json", timeout=2400, env=appliance)
        self.assertTrue(any("Converting" in str(event) for event in done.events()), str(done))
        self.assert_nothing_left()
        server = next(s for s in self.lab.control("openstack", "GET", "/state")["servers"] if s["name"] == "web01")
        self.assertEqual((server["status"], server["host"]), ("ACTIVE", "hypervisor"))
        lines = self.wait_for(lambda: self.last_word(server["id"]), seconds=900, what="the guest's last word")
        verdict = guest_proof.judge(lines, "from its volumes")
        print(f"  {verdict.words}", flush=True)
        self.assertTrue(verdict.good, verdict.words)
        # It switches itself off then, and Nova hears of it.
        self.wait_for(lambda: self.cloud.compute.get_server(server["id"]).status == "SHUTOFF", seconds=300, what="the guest's end")
        self.clear()

    def last_word(self, server):
        """The lines of the guest's serial console, once it has said how it found itself."""
        said = self.console(server).splitlines()
        ends = [number for number, line in enumerate(said, 1) if guest_proof.LAST_LINE.search(line)]
        return said[:ends[0]] if ends else None
