"""Disks read with VDDK: our nbdkit plugin on the lab's stand-in for the library. What the stand-in refuses, the product must say."""

import os
import pathlib
import re
import signal

from ferry import BIN, MigrationTest

LIBRARY = (BIN / "../lib/lab-vddk").resolve()
VDDK = ("--transport", "vddk", "--vddk-libdir", str(LIBRARY))
# With its nbdkit in front, nbdkit has a plugin that goes by the word "vddk".
WORD = (BIN / "../lib/vmferry/nbdkit").resolve()
# What an open disk is told whatever the flags say: docs/transports-vddk.md.
BUFFERS = {"vixDiskLib.nfcAio.Session.BufSizeIn64KB": "16", "vixDiskLib.nfcAio.Session.BufCount": "4"}


def calls(lab, service):
    return [call for call in lab.control("vcenter", "GET", "/calls") if call["service"] == service]


class WholeMigrationTest(MigrationTest):
    lab_flags = ("--devices", "file", "--writer-rate", "5")

    def test_migrate_migrate_cutover(self):
        for _ in range(2):
            self.ferry("migrate", *VDDK)
            self.prove()
        self.ferry("cutover", *VDDK, *self.lab.cutover_flags())
        self.prove()
        self.assert_nothing_left()
        self.assertEqual(calls(self.lab, "folder"), [], "every byte came by VDDK")
        opened = [call for call in calls(self.lab, "vddk") if call["method"] == "Open"]
        self.assertTrue(opened and all(call["status"] == 101 for call in opened), opened)


class VddkTest(MigrationTest):
    lab_flags = ("--devices", "file", "--writer-rate", "5")

    def setUp(self):
        super().setUp()
        self.lab.control("vcenter", "DELETE", "/faults")
        self.lab.control("vcenter", "DELETE", "/calls")

    def tearDown(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0, "folder_latency_ms": 0, "vddk_open_ms": 0, "vddk_connections": 52})
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})
        if self.lab.volumes():
            self.forget_volumes()

    def fault(self, **rule):
        self.lab.control("vcenter", "POST", "/faults", {"service": "vddk", **rule})

    def test_above_somebodys_snapshot(self):
        foreign = self.lab.control("vcenter", "POST", "/vms/web01/snapshots", {"name": "of somebody"})
        try:
            self.assertIn("another transport", self.ferry("migrate", ok=False).err)
            self.ferry("migrate", *VDDK)
            self.prove()
        finally:
            self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{foreign['id']}")

    def test_connections_that_break_and_sessions_that_end(self):
        self.fault(method="Read", kind="reset", count=3, skip=5)
        self.fault(method="Read", kind="expire", count=2, skip=20)
        self.fault(method="Open", kind="http", status=503, count=1, skip=2)
        self.ferry("migrate", *VDDK)
        self.prove()

    def test_a_host_with_few_and_slow_connections(self):
        self.lab.control("vcenter", "POST", "/settings", {"vddk_open_ms": 800, "vddk_connections": 4})
        self.ferry("migrate", *VDDK, "--connections", "2")
        self.prove()

    def test_one_connection_to_the_host_for_all_disks(self):
        """The one that a disk is looked at by is the one that it is copied over."""
        self.ferry("limits", "--esxi-connections", "1")
        self.addCleanup(self.ferry, "limits", "--esxi-connections", "16")
        self.ferry("migrate", *VDDK)
        self.prove()

    def test_killed_in_the_copy(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.5})
        process = self.start("migrate", *VDDK)
        self.wait_for(lambda: [c for c in calls(self.lab, "vddk") if c["method"] == "Read"], what="a read")
        process.kill()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL, "it was over too soon")
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.ferry("migrate", *VDDK)
        self.prove()

    def test_no_secret_is_seen_while_it_reads(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 1})
        process = self.start("migrate", *VDDK, "--debug")
        self.wait_for(lambda: [c for c in calls(self.lab, "vddk") if c["method"] == "Read"], what="a read")
        seen = b""
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                if b"nbdkit-vddk-plugin" in command and str(self.state).encode() in command:
                    seen += command + (folder / "environ").read_bytes()
            except OSError:
                pass  # it ended meanwhile
        process.terminate()
        out, err = process.communicate(timeout=300)
        self.assertIn(b"thumbprint=", seen, "the running nbdkit was looked at")
        for log in (self.state / "s").rglob("*"):
            if log.is_file():
                seen += log.read_bytes()
        for secret in self.lab.secrets():
            self.assertNotIn(secret, seen + (out + err).encode())

    def test_check(self):
        done = self.ferry("check", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], *VDDK, ok=False)
        self.assertRegex(done.out, "read with VDDK by nbdkit's plugin")
        missing = self.ferry("check", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], "--transport", "vddk",
                             "--vddk-libdir", "/nowhere", ok=False)
        self.assertRegex(missing.out + missing.err, "VDDK cannot be used from /nowhere")

    def test_a_missing_library_is_told_before_a_snapshot(self):
        done = self.ferry("migrate", "--transport", "vddk", "--vddk-libdir", str(self.state), ok=False)
        self.assertEqual(done.code, 3, done)
        self.assertRegex(done.err, re.escape(str(self.state)) + ".*--vddk-libdir")
        self.assertNotIn("CreateSnapshot_Task", [call["method"] for call in calls(self.lab, "vsphere")])

    def test_the_library_by_its_variable(self):
        self.ferry("migrate", "--transport", "vddk", "--vddk-transports", "san:nbd", "--compression-method", "zlib",
                   env={"VMFERRY_VDDK_LIBDIR": str(LIBRARY)})
        self.assert_told({"compression": "zlib", "transports": "san:nbd", "mode": "nbd", **BUFFERS})
        self.prove()

    def assert_told(self, orders):
        """Each disk that was opened, of two."""
        opened = [call for call in calls(self.lab, "vddk") if call["method"] == "Open"]
        self.assertEqual(len({call["path_or_object"] for call in opened}), 2, opened)
        for call in opened:
            self.assertEqual(call["details"], orders)

    def test_what_the_library_is_told(self):
        for method in ("none", "zlib", "fastlz", "skipz"):
            with self.subTest(method):
                self.lab.control("vcenter", "DELETE", "/calls")
                self.ferry("migrate", *VDDK, "--compression-method", method)
                self.assert_told({"compression": method, "transports": "", "mode": "nbdssl", **BUFFERS})
        self.prove()

    def test_many_reads_of_one_connection_are_under_way_at_once(self):
        # All that is asked for within this time is under way together; who waits for each answer has one.
        self.lab.control("vcenter", "POST", "/settings", {"folder_latency_ms": 500})
        self.ferry("migrate", *VDDK, "--connections", "1")
        reads = [call for call in calls(self.lab, "vddk") if call["method"] == "Read"]
        self.assertGreater(max(int(call["details"]["under_way"]) for call in reads), 1)
        self.prove()

    def test_nbdkits_own_plugin_where_there_is_one(self):
        for path, plugin in ((f"{WORD}:{os.environ['PATH']}", "vddk"), (os.environ["PATH"], str(WORD / "nbdkit-vddk-plugin.so"))):
            with self.subTest(plugin):
                self.lab.control("vcenter", "DELETE", "/calls")
                self.ferry("migrate", *VDDK, env={"PATH": path})
                log = "".join(file.read_text() for file in (self.state / "s/logs").glob("web01-*.log"))
                self.assertRegex(log, f"(?m)read with VDDK by nbdkit's plugin {re.escape(plugin)}$")
                self.assertTrue([call for call in calls(self.lab, "vddk") if call["method"] == "Read"])
                self.prove()


class EsxiTest(WholeMigrationTest):
    """The same from a single host."""

    lab_flags = ("--devices", "file", "--writer-rate", "5", "--esxi")
