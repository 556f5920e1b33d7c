#!/usr/bin/env python3
"""`vmferry-lab up --openstack real` from nothing to nothing, driven with openstacksdk: what vmferry does to a cloud, on the
lab's real one. One story in order, since the cloud takes a minute to start; each part prints how long it took.

Needs root, the packages of `tools/setup openstack`, and VMFERRY_LAB_BIN (vmferry-lab)."""

import glob
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import openstack
from openstack import exceptions

LAB = os.environ.get("VMFERRY_LAB_BIN", "")
HERE = pathlib.Path(__file__).resolve().parent
GIB = 1 << 30


def until(what, seconds, act, interval=0.2):
    """Waits until act() is true, and gives what it was."""
    end = time.monotonic() + seconds
    while True:
        found = act()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(interval)


def interfaces_of(folder, ports):
    """The bridges that the folder's lab has written down and the taps of its ports: those that are there now. Another lab may run."""
    taps = {f"tap{port.id[:11]}" for port in ports}
    return ({*(folder / "cloud" / "bridges").read_text().split()} | taps) & {*os.listdir("/sys/class/net")}


def loops_below(folder):
    found = []
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            backing = pathlib.Path(path).read_text().strip()
        except OSError:
            continue
        if backing.startswith(str(folder)):
            found.append(backing)
    return found


def processes_of(folder):
    """Processes that name the folder in their command line or have it as working directory, but for this one."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = os.readlink(entry / "cwd")
        except OSError:
            continue
        if str(folder) in line or where.startswith(str(folder)):
            found.append(f"{entry.name} {line}")
    return found


def memory_of(folder):
    """What the processes of the folder's lab use, shared pages counted once (the sum of PSS), in MiB."""
    total = 0
    for line in processes_of(folder):
        try:
            text = pathlib.Path(f"/proc/{line.split()[0]}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
    return total >> 10


class RealOpenStack(unittest.TestCase):
    """Steps in the order of their names; the first that fails ends the story."""

    @classmethod
    def setUpClass(cls):
        if not os.access(LAB, os.X_OK):
            raise RuntimeError("VMFERRY_LAB_BIN must name the vmferry-lab program")
        cls.parent = pathlib.Path(tempfile.mkdtemp(prefix="vmferry-r-", dir="/tmp"))
        cls.folder = cls.parent / "lab"
        cls.broken = False

    @classmethod
    def tearDownClass(cls):
        subprocess.run([LAB, "down", "--dir", str(cls.folder)], capture_output=True, timeout=600)
        shutil.rmtree(cls.parent, ignore_errors=True)

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        type(self).broken |= len(result.failures) + len(result.errors) > before

    def setUp(self):
        if self.broken:
            self.fail("an earlier part failed")
        self.began = time.monotonic()

    def tearDown(self):
        print(f"  {time.monotonic() - self.began:6.1f} s  {self._testMethodName[8:].replace('_', ' ')}", flush=True)

    # helpers

    def lab(self, *words, timeout=960):
        return subprocess.run([LAB, *words], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)

    def ctl(self, method, path, body=None, code=0):
        done = self.lab("ctl", "--dir", str(self.folder), "openstack", method, path, *([json.dumps(body)] if body is not None else []))
        if code == 0 and done.returncode:
            raise AssertionError(f"{method} {path}: {done.stderr}")
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    def connect(self, **auth):
        given = {"auth_url": self.facts["auth_url"], "username": "lab", "project_name": "lab", "user_domain_name": "Default",
                 "project_domain_name": "Default", "password": (self.folder / "openstack.password").read_text()}
        kind = "password"
        if auth:
            given, kind = {"auth_url": self.facts["auth_url"], **auth}, "v3applicationcredential"
        # Nothing here tries again by itself: the faults below must be seen.
        cloud = openstack.connect(auth=given, auth_type=kind, region_name="RegionOne", cacert=self.facts["ca"],
                                  load_yaml_config=False, load_envvars=False)
        self.addCleanup(cloud.close)
        return cloud

    def wait(self, volume, status):
        return self.cloud.block_storage.wait_for_status(self.cloud.block_storage.get_volume(volume.id), status, ["error"], interval=0.2, wait=300)

    def guest_sector(self):
        sector = self.parent / "boot"
        subprocess.run(["as", "--32", str(HERE / "bootsector.s"), "-o", f"{sector}.o"], check=True)
        subprocess.run(["ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-e", "start", f"{sector}.o", "-o", str(sector)], check=True)
        return sector.read_bytes()

    def file_of(self, volume):
        return pathlib.Path(next(v["file"] for v in self.ctl("GET", "/state")["volumes"] if v["id"] == volume.id))

    # the story

    def test_01_up(self):
        done = self.lab("up", "--openstack", "real", "--dir", str(self.folder), "--writer-rate", "0")
        print(re.sub(r"(?m)^(?!lab:).*\n?", "", done.stdout), flush=True)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        facts = json.loads((self.folder / "lab.json").read_text())
        type(self).facts = facts["openstack"]
        self.assertEqual("real", self.facts["kind"])
        print(f"  {memory_of(self.folder)} MiB in {len(processes_of(self.folder))} processes", flush=True)

    def test_02_up_again(self):
        pid = self.facts["pid"]
        done = self.lab("up", "--openstack", "real", "--dir", str(self.folder))
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn("up already", done.stdout)
        self.assertEqual(pid, json.loads((self.folder / "lab.json").read_text())["openstack"]["pid"])
        self.assertEqual(0, self.lab("status", "--dir", str(self.folder)).returncode)

    def test_03_what_everybody_may_not_see(self):
        for path in self.folder.rglob("*.conf"):
            self.assertEqual(0, path.stat().st_mode & 0o077, path)
        secrets = [word.encode() for word in self.ctl("GET", "/secrets")]
        self.assertGreaterEqual(len(secrets), 3)
        for line in processes_of(self.folder):
            pid = line.split()[0]
            for name in ("cmdline", "environ"):
                try:
                    text = pathlib.Path(f"/proc/{pid}/{name}").read_bytes()
                except OSError:
                    continue
                self.assertFalse([s for s in secrets if s in text], f"a secret is in the {name} of {line}")
        listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        ours = {line.split()[0] for line in processes_of(self.folder)}
        for line in listening.splitlines():
            if set(re.findall(r"pid=(\d+)", line)) & ours:
                self.assertRegex(line.split()[3], r"^(127\.0\.0\.1|\[::1\]):", line)

    def test_04_an_ordinary_user(self):
        type(self).cloud = openstack.connect(auth={
            "auth_url": self.facts["auth_url"], "username": "lab", "project_name": "lab", "user_domain_name": "Default",
            "project_domain_name": "Default", "password": (self.folder / "openstack.password").read_text()}, region_name="RegionOne",
            cacert=self.facts["ca"], load_yaml_config=False, load_envvars=False)
        front = self.facts["auth_url"].removesuffix("/identity/v3")
        for kind in ("identity", "block-storage", "compute", "network", "image", "placement"):
            self.assertTrue(self.cloud.session.get_endpoint(service_type=kind, interface="public").startswith(front), kind)
        # Links lead back through the front.
        for address in ("/identity/", "/volume/", "/compute/", "/network/", "/image/"):
            links = re.findall(r'"href": ?"(http[^"]*:\d+/[^"]*)"', self.cloud.session.get(front + address, raise_exc=False).text)
            self.assertTrue(links and all(link.startswith(front + address) for link in links), f"{address}: {links}")
        page = self.cloud.session.get(front + "/compute/v2.1/flavors?limit=1").json()
        seen = [f["id"] for f in page["flavors"]]
        while "flavors_links" in page:
            page = self.cloud.session.get(page["flavors_links"][0]["href"]).json()
            seen += [f["id"] for f in page["flavors"]]
        self.assertEqual(["1", "2", "3", "4", "5"], seen)
        with self.assertRaises(exceptions.ForbiddenException):
            list(self.cloud.compute.hypervisors(details=True))
        host = self.cloud.compute.get_server(self.facts["instance_id"])
        self.assertEqual(("conversion-host", "ACTIVE"), (host.name, host.status))
        credential = json.loads(pathlib.Path(self.facts["appcred_file"]).read_text())
        other = self.connect(application_credential_id=credential["id"], application_credential_secret=credential["secret"])
        self.assertEqual(host.id, other.compute.get_server(host.id).id)

    def test_05_volumes_of_two_back_ends(self):
        make = self.cloud.block_storage.create_volume
        type(self).volumes = [make(size=1, name="first", metadata={"vm": "web01"}), make(size=1, name="second", volume_type="fast")]
        for volume in self.volumes:
            self.wait(volume, "available")
            self.assertEqual(GIB, self.file_of(volume).stat().st_size)
        self.assertNotEqual(*(self.file_of(v).parent for v in self.volumes))
        self.assertEqual(["lab", "fast"], [self.cloud.block_storage.get_volume(v.id).volume_type for v in self.volumes])
        endpoint = self.cloud.session.get_endpoint(service_type="block-storage", interface="public")
        found = self.cloud.session.get(endpoint + "/volumes/detail", params={"metadata": "{'vm': 'web01'}"}).json()["volumes"]
        self.assertEqual([self.volumes[0].id], [v["id"] for v in found])
        self.assertEqual({"a": "b"}, self.ctl("POST", f"/volumes/{self.volumes[0].id}/metadata", {"a": "b"}))
        self.assertEqual({"a": "b"}, self.cloud.block_storage.get_volume(self.volumes[0].id).metadata)

    def test_06_a_device_of_the_conversion_host(self):
        sector = self.guest_sector()
        for volume, content in zip(self.volumes, (sector, b"second disk".ljust(512, b"."))):
            link = pathlib.Path(self.facts["by_id"], "virtio-" + volume.id[:20])
            self.cloud.compute.create_volume_attachment(self.facts["instance_id"], volume_id=volume.id)
            until("the device", 300, link.exists)
            self.wait(volume, "in-use")
            device = link.resolve()
            number = os.stat(device).st_rdev
            identity = pathlib.Path(self.facts["identity_dir"], f"{os.major(number)}:{os.minor(number)}").read_text()
            self.assertEqual(f"serial={volume.id[:20]}\nbytes={GIB}\n", identity)
            with open(device, "r+b") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            state = next(v for v in self.ctl("GET", "/state")["volumes"] if v["id"] == volume.id)
            self.assertEqual((str(device), self.facts["instance_id"]), (state["device"], state["attachments"][0]["server_id"]))
            self.cloud.compute.delete_volume_attachment(self.facts["instance_id"], volume.id)
            self.wait(volume, "available")
            self.assertFalse(link.is_symlink())
            with open(self.file_of(volume), "rb") as opened:
                self.assertEqual(content, opened.read(512))
        self.assertEqual([], os.listdir(self.facts["by_id"]))
        self.assertEqual([], os.listdir(self.facts["identity_dir"]))

    def test_07_a_compute_service_that_starts_again(self):
        volume = self.volumes[0]
        self.cloud.compute.create_volume_attachment(self.facts["instance_id"], volume_id=volume.id)
        self.wait(volume, "in-use")
        devices = os.listdir(self.facts["by_id"])
        self.ctl("POST", "/services/nova-compute-ferry/restart")
        self.assertEqual("ACTIVE", self.cloud.compute.get_server(self.facts["instance_id"]).status)
        self.assertEqual(devices, os.listdir(self.facts["by_id"]))
        # Nova takes the request, and the host acts on it when it is back.
        self.cloud.compute.delete_volume_attachment(self.facts["instance_id"], volume.id)
        self.wait(volume, "available")
        self.assertEqual([], os.listdir(self.facts["by_id"]))

    def test_08_an_attach_that_fails(self):
        volume = self.volumes[1]
        # Cinder looks at the file, too: so the trouble must be the host's own. Its folder of links is not a folder.
        by_id = pathlib.Path(self.facts["by_id"])
        by_id.rename(by_id.with_suffix(".aside"))
        by_id.touch()
        try:
            self.cloud.compute.create_volume_attachment(self.facts["instance_id"], volume_id=volume.id)
            until("the attachment's end", 300, lambda: not list(self.cloud.compute.volume_attachments(self.facts["instance_id"])))
            self.wait(volume, "available")
        finally:
            by_id.unlink()
            by_id.with_suffix(".aside").rename(by_id)
        self.assertEqual([], [b for b in loops_below(self.folder) if volume.id in b])

    def test_09_ports(self):
        def make(network, subnet, mac, address):
            return self.cloud.network.create_port(network_id=network, mac_address=mac, fixed_ips=[{"subnet_id": subnet, "ip_address": address}])
        network, subnet = self.facts["network_id"], self.facts["subnet_id"]
        type(self).ports = [make(network, subnet, "00:50:56:9a:10:01", "192.0.2.31"), make(network, subnet, "00:50:56:9a:10:02", "192.0.2.32")]
        with self.assertRaises(exceptions.ConflictException):
            make(network, subnet, "00:50:56:9a:10:03", "192.0.2.31")
        shared = self.cloud.network.get_network(self.facts["shared_network_id"])
        with self.assertRaises(exceptions.ForbiddenException):
            self.cloud.network.create_port(network_id=shared.id, mac_address="00:50:56:9a:10:04")

    def test_10_a_server_that_boots_from_its_volume(self):
        first, second = self.volumes
        self.cloud.block_storage.set_volume_bootable_status(first, True)
        server = self.cloud.compute.create_server(
            name="web01", flavor_id="1", networks=[{"port": p.id} for p in self.ports],
            block_device_mapping=[{"uuid": first.id, "source_type": "volume", "destination_type": "volume", "boot_index": 0,
                                   "delete_on_termination": False},
                                  {"uuid": second.id, "source_type": "volume", "destination_type": "volume", "boot_index": 1,
                                   "delete_on_termination": False}])
        type(self).server = self.cloud.compute.wait_for_server(server, status="ACTIVE", failures=["ERROR"], interval=0.3, wait=600)
        said = until("the guest's words", 300, lambda: (lambda text: "sector 2" in text and text)(
            self.cloud.compute.get_server_console_output(self.server.id)["output"] or ""))
        self.assertIn("vmferry guest: booted", said)
        self.assertIn("vmferry guest: wrote sector 2", said)
        with open(self.file_of(first), "rb") as opened:
            opened.seek(2 * 512)
            self.assertEqual(b"written by the guest", opened.read(20))
        for volume in self.volumes:
            self.assertEqual("in-use", self.cloud.block_storage.get_volume(volume.id).status)
        self.assertEqual({"192.0.2.31", "192.0.2.32"}, {a["addr"] for all in self.cloud.compute.get_server(self.server.id).addresses.values() for a in all})
        for port in self.ports:
            until("the port", 300, lambda: self.cloud.network.get_port(port.id).status == "ACTIVE")
        state = next(s for s in self.ctl("GET", "/state")["servers"] if s["id"] == self.server.id)
        self.assertEqual("hypervisor", state["host"])
        self.assertEqual({v.id for v in self.volumes}, set(state["volumes"]))
        self.assertEqual({p.id for p in self.ports}, set(state["ports"]))

    def test_11_its_end(self):
        self.cloud.compute.delete_server(self.server.id)
        self.cloud.compute.wait_for_delete(self.server, interval=0.3, wait=300)
        for volume in self.volumes:
            self.wait(volume, "available")

    def test_12_quota(self):
        self.assertEqual(2, self.ctl("POST", "/quota", {"volumes": 2})["volumes"])
        with self.assertRaises(exceptions.HttpException) as caught:
            self.cloud.block_storage.create_volume(size=1, name="third")
        self.assertEqual(413, caught.exception.status_code)
        now = self.ctl("POST", "/quota", {"volumes": 50, "ports": 400, "instances": 9})
        self.assertEqual((50, 400, 9), (now["volumes"], now["ports"], now["instances"]))

    def test_13_revoked_tokens(self):
        token = self.cloud.session.get_token()
        front = self.facts["auth_url"].removesuffix("/identity/v3")
        get = lambda: self.cloud.session.get(front + "/compute/v2.1/servers", headers={"X-Auth-Token": token}, authenticated=False, raise_exc=False).status_code
        self.assertEqual(200, get())
        self.assertGreaterEqual(self.ctl("POST", "/tokens/revoke", {})["revoked"], 1)
        self.assertEqual(401, get())
        self.assertTrue(list(self.cloud.compute.servers()), "the client signs in again by itself")
        self.ctl("POST", "/faults", {"service": "volume", "kind": "expire"})
        self.assertEqual(2, len(list(self.cloud.block_storage.volumes())))

    def test_14_faults_by_script(self):
        self.ctl("DELETE", "/faults")
        self.ctl("DELETE", "/calls")
        front = self.facts["auth_url"].removesuffix("/identity/v3")
        volumes = f"{front}/volume/v3/{self.cloud.current_project_id}/volumes"
        self.ctl("POST", "/faults", {"service": "volume", "method": "GET", "kind": "http", "status": 503, "retry_after": 1, "message": "no"})
        answer = self.cloud.session.get(volumes, raise_exc=False, status_code_retries=0)
        self.assertEqual((503, "1", "no"), (answer.status_code, answer.headers["Retry-After"], answer.json()["serviceUnavailable"]["message"]))
        self.ctl("POST", "/faults", {"service": "volume", "method": "POST", "kind": "lost-reply"})
        with self.assertRaises(Exception):
            self.cloud.session.post(volumes, json={"volume": {"name": "lost", "size": 1}}, connect_retries=0)
        lost = until("the volume whose making was not answered", 120, lambda: list(self.cloud.block_storage.volumes(name="lost")))
        self.assertEqual(1, len(lost))
        self.assertEqual(["http", "lost-reply"], [c["fault"] for c in self.ctl("GET", "/calls") if c.get("fault")])
        self.wait(lost[0], "available")
        self.cloud.block_storage.delete_volume(lost[0])
        self.assertIn("501", self.ctl("POST", "/settings", {"create_delay_ms": 1}, code=1))
        self.assertIn("501", self.ctl("POST", "/faults", {"service": "volume", "kind": "fault", "fault": "x"}, code=1))

    def test_15_down(self):
        # With a device of the conversion host and a guest that run, so that there is something to end.
        self.cloud.compute.create_volume_attachment(self.facts["instance_id"], volume_id=self.volumes[1].id)
        self.wait(self.volumes[1], "in-use")
        server = self.cloud.compute.create_server(
            name="runs", flavor_id="1", networks=[{"port": self.ports[0].id}],
            block_device_mapping=[{"uuid": self.volumes[0].id, "source_type": "volume", "destination_type": "volume", "boot_index": 0}])
        self.cloud.compute.wait_for_server(server, status="ACTIVE", failures=["ERROR"], interval=0.3, wait=600)
        interfaces = interfaces_of(self.folder, self.ports)
        self.assertIn(f"tap{self.ports[0].id[:11]}", interfaces)
        self.assertGreater(len(interfaces), 2)
        began = time.monotonic()
        done = self.lab("down", "--dir", str(self.folder))
        print(f"  {time.monotonic() - began:6.1f} s  of it `down`", flush=True)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual([], processes_of(self.folder))
        self.assertNotIn(str(self.folder), pathlib.Path("/proc/mounts").read_text())
        until("the loop devices' end", 60, lambda: not loops_below(self.folder))
        self.assertEqual(set(), interfaces & {*os.listdir("/sys/class/net")})
        self.assertFalse(self.folder.exists())


if __name__ == "__main__":
    sys.exit(unittest.main(verbosity=2))
