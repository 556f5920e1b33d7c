"""The program that runs os-brick, on the installed os-brick with only its last step replaced: what Cinder's drivers are told of
this host, and that each kind of connection_info reaches its connector unchanged. No storage network is needed, and none is shown."""

import importlib.util
import json
import os
import pathlib
import subprocess
import tempfile
import unittest
from unittest import mock

PYTHON = "/usr/bin/python3"
PROGRAM = pathlib.Path(__file__).parents[3] / "src/target/openstack/brick.py"

# Where os-brick would look at this machine's adapters or begin to connect.
PATCHED = """
import json, runpy, sys
from unittest import mock
from os_brick import utils
from os_brick.initiator import connector, linuxfc, linuxscsi
from os_brick.initiator.connectors import iscsi, nvmeof, rbd
from oslo_utils import importutils

program, multipath = sys.argv[1], sys.argv[2] == "multipath"

def connect(self, info):
    print("a library prints")
    found = {"class": type(self).__name__, "info": info, "multipath": getattr(self, "use_multipath", None),
             "local": getattr(self, "do_local_attach", None)}
    if info.get("fails"):
        raise RuntimeError("no route to the target")
    return {"path": json.dumps(found), "scsi_wwn": "3600140500000"}

def disconnect(self, info, device, force=False, ignore_errors=False):
    if force or ignore_errors:
        raise RuntimeError("what cannot be flushed would be thrown away")
    if info.get("fails"):
        raise RuntimeError("device is busy")

patches = [mock.patch.object(linuxscsi.LinuxSCSI, "is_multipath_running", staticmethod(lambda *a, **k: multipath)),
           mock.patch.object(iscsi.ISCSIConnector, "get_initiator", lambda self: "iqn.1993-08.org.debian:01:ferry"),
           mock.patch.object(linuxfc.LinuxFibreChannel, "get_fc_wwpns", lambda self: ["50014380186b3f65"]),
           mock.patch.object(linuxfc.LinuxFibreChannel, "get_fc_wwnns", lambda self: ["50014380186b3f64"]),
           mock.patch.object(nvmeof.NVMeOFConnector, "nvme_present", classmethod(lambda cls: True)),
           mock.patch.object(nvmeof.NVMeOFConnector, "_get_host_uuid", lambda self: "uuid-of-the-host"),
           mock.patch.object(utils, "get_host_nqn", lambda *a: "nqn.2014-08.org.nvmexpress:uuid:ferry")]
if "--device" in sys.argv:  # what the storage would have brought here
    patches.append(mock.patch.object(iscsi.ISCSIConnector, "get_volume_paths", lambda self, info, device=sys.argv[4]: [device]))
for path in set(connector.get_connector_mapping().values()):
    cls = importutils.import_class(path)
    patches += [mock.patch.object(cls, "connect_volume", connect), mock.patch.object(cls, "disconnect_volume", disconnect)]
for patch in patches:
    patch.start()
sys.argv = [program]
runpy.run_path(program, run_name="__main__")
"""

# As the attachments API gives them (the driver's "data" and what is beside it in one object); the drivers' own documentation
# of initialize_connection in cinder/volume/drivers and cinder/volume/targets has these keys.
COMMON = {"qos_specs": None, "access_mode": "rw", "encrypted": False, "cacheable": False, "attachment_id": "77aa"}
KINDS = {
    "ISCSIConnector": {"driver_volume_type": "iscsi", "target_discovered": False, "target_portal": "192.0.2.7:3260",
                       "target_iqn": "iqn.2010-10.org.openstack:volume-5f3a", "target_lun": 1, "volume_id": "5f3a",
                       "auth_method": "CHAP", "auth_username": "user", "auth_password": "chap-secret"},
    "FibreChannelConnector": {"driver_volume_type": "fibre_channel", "target_discovered": True, "target_lun": 3,
                              "target_wwn": ["500a098280feeba5", "500a098290feeba5"],
                              "initiator_target_map": {"50014380186b3f65": ["500a098280feeba5"]}},
    "NVMeOFConnector": {"driver_volume_type": "nvmeof", "target_portal": "192.0.2.7", "target_port": 4420, "transport_type": "tcp",
                        "nqn": "nqn.2014-08.org.nvmexpress:uuid:volume-5f3a", "ns_id": 1, "host_nqn": "nqn.x"},
    "RBDConnector": {"driver_volume_type": "rbd", "name": "volumes/volume-5f3a", "hosts": ["192.0.2.8"], "ports": ["6789"],
                     "cluster_name": "ceph", "auth_enabled": True, "auth_username": "cinder", "secret_type": "ceph",
                     "secret_uuid": "1111", "volume_id": "5f3a", "discard": True, "keyring": "keyring-secret"},
    "RemoteFsConnector": {"driver_volume_type": "nfs", "export": "192.0.2.9:/volumes", "name": "volume-5f3a", "options": "-o vers=4.1",
                          "format": "raw", "mount_point_base": "/var/lib/cinder/mnt"},
}


class BrickProgramTest(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def ask(self, multipath=False, device=None, **request):
        request.update(locks=str(self.work / "locks"), mounts=str(self.work / "mounts"))
        done = subprocess.run([PYTHON, "-I", "-c", PATCHED, PROGRAM, "multipath" if multipath else "single",
                               *(["--device", device] if device else [])], input=json.dumps(request),
                              capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_cinder_is_told_what_its_drivers_ask_for(self):
        told = self.ask(True, do="properties", host="ferry1", address="192.0.2.5", towards="")["done"]
        self.assertLessEqual({
            "host": "ferry1", "ip": "192.0.2.5", "os_type": "linux", "multipath": True, "do_local_attach": True,
            "initiator": "iqn.1993-08.org.debian:01:ferry", "wwpns": ["50014380186b3f65"], "wwnns": ["50014380186b3f64"],
            "nqn": "nqn.2014-08.org.nvmexpress:uuid:ferry", "uuid": "uuid-of-the-host"}.items(), told.items())
        self.assertIn("platform", told)
        told = self.ask(do="properties", host="ferry1", address="", towards="https://127.0.0.1:8776/v3")["done"]
        self.assertEqual((told["ip"], told["multipath"]), ("127.0.0.1", False))

    def test_each_kind_reaches_its_connector_unchanged(self):
        for name, info in KINDS.items():
            with self.subTest(kind=info["driver_volume_type"]):
                info = {**COMMON, **info}
                done = self.ask(True, do="connect", connection_info=info)["done"]
                seen = json.loads(done["path"])
                self.assertEqual(seen["class"], name)
                self.assertEqual(seen["info"], info)
                self.assertEqual(done["wwn"], "3600140500000")
                if name in ("ISCSIConnector", "FibreChannelConnector"):
                    self.assertTrue(seen["multipath"])
                if name == "RBDConnector":
                    self.assertTrue(seen["local"], "a Python object would come instead of a device")
                self.assertEqual(self.ask(do="disconnect", connection_info=info), {"done": {}})

    def test_os_bricks_refusals_are_answers(self):
        info = {**COMMON, **KINDS["ISCSIConnector"], "fails": True}
        self.assertEqual(self.ask(do="connect", connection_info=info), {"failed": "no route to the target"})
        self.assertEqual(self.ask(do="disconnect", connection_info=info), {"failed": "device is busy"})
        unknown = self.ask(do="connect", connection_info={**COMMON, "driver_volume_type": "punchcards"})
        self.assertIn("punchcards", unknown["failed"].lower())

    @unittest.skipIf(os.geteuid() != 0, "loop devices need root")
    def test_what_is_in_use_is_not_disconnected(self):
        backing = self.work / "backing"
        backing.write_bytes(bytes(1 << 20))
        made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(made.stderr)
        loop = made.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", loop], check=True)
        info = {**COMMON, **KINDS["ISCSIConnector"]}
        holder = os.open(loop, os.O_RDONLY | os.O_EXCL)
        try:
            failed = self.ask(device=loop, do="disconnect", connection_info=info)["failed"]
        finally:
            os.close(holder)
        for words in (loop, "in use", "vgchange -an", "global_filter"):
            self.assertIn(words, failed)
        self.assertEqual(self.ask(device=loop, do="disconnect", connection_info=info), {"done": {}})

    def brick(self):
        spec = importlib.util.spec_from_file_location("brick_program", PROGRAM)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.SYS_BLOCK = str(self.work / "sys")
        return module

    def kernel_says(self, device, uuid, name, *above):
        folder = self.work / "sys" / device
        (folder / "holders").mkdir(parents=True)
        for holder in above:
            (folder / "holders" / holder).touch()
        if uuid:
            (folder / "dm").mkdir()
            (folder / "dm/uuid").write_text(uuid + "\n")
            (folder / "dm/name").write_text(name + "\n")

    def flushed(self, brick, path):
        """What flush_device() opened, and whether exclusively."""
        opened = []
        with mock.patch.object(brick.os, "open", lambda name, flags: opened.append((name, bool(flags & os.O_EXCL))) or 99), \
                mock.patch.object(brick.os, "fsync"), mock.patch.object(brick.os, "close"):
            brick.flush_device(path)
        return opened

    def test_the_multipath_map_and_its_partitions_are_flushed(self):
        brick = self.brick()
        self.kernel_says("sdy", "", "", "dm-90")
        self.kernel_says("dm-90", "mpath-3600", "mpatha", "dm-91")
        self.kernel_says("dm-91", "part1-mpath-3600", "mpatha1")
        self.assertEqual(self.flushed(brick, "/dev/sdy"), [("/dev/dm-91", True), ("/dev/dm-90", False)])

    def test_who_is_on_top_is_named(self):
        brick = self.brick()
        self.kernel_says("sdz", "", "")
        (self.work / "sys/sdz/sdz2/holders").mkdir(parents=True)
        (self.work / "sys/sdz/sdz2/holders/dm-95").touch()
        self.kernel_says("dm-95", "LVM-abc", "vg-root")
        with self.assertRaisesRegex(RuntimeError, r"/dev/sdz is in use on this host by dm-95 \(vg-root\).*vgchange"):
            self.flushed(brick, "/dev/sdz")

    def test_a_file_is_flushed_where_it_is_mounted(self):
        brick = self.brick()
        point = self.work / "mounts/share"
        point.mkdir(parents=True)
        (point / "volume-5f3a").write_bytes(b"x")
        with mock.patch.object(brick, "mounted", lambda: ["/", str(point)]), mock.patch.object(brick.os, "fsync") as fsync:
            brick.flush_files(str(self.work / "mounts"), "volume-5f3a")
            brick.flush_files(str(self.work / "mounts"), "volume-of-another")
        self.assertEqual(fsync.call_count, 1)

    def test_without_os_brick(self):
        # -S: not even the installed packages are looked at.
        done = subprocess.run([PYTHON, "-I", "-S", PROGRAM], input=json.dumps({"do": "properties"}), capture_output=True, text=True)
        self.assertIn("os_brick", json.loads(done.stdout)["missing"])


if __name__ == "__main__":
    unittest.main()
