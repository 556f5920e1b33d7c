"""Whole migrations by each way to read disks that has its own: at the end of each cycle the target equals the frozen snapshot,
with the writer running (file, ssh); a machine that is off moves by export; no secret is left where others can see it."""

import pathlib
import signal
import unittest

import ferry


class Ways:
    """A lab for each test: a machine that was cut over cannot be migrated again."""

    @classmethod
    def setUpClass(cls):
        pass

    @classmethod
    def tearDownClass(cls):
        pass

    def setUp(self):
        self.lab = ferry.Lab(*self.lab_flags)
        self.addCleanup(self.lab.down)
        super().setUp()

    def flags(self, way):
        if way == "file":
            store = self.lab.vcenter["datastore_dir"]
            return ["--transport", "file", "--local-disk-path", f"LocalDS_0={store}"]
        if way == "ssh":
            ssh = self.lab.vcenter["esxi_ssh"]
            return ["--transport", "ssh", "--esxi-ssh-address", ssh["address"], "--esxi-ssh-known-hosts", ssh["known_hosts"],
                    "--esxi-ssh-password-file", ssh["password_file"]]
        return ["--transport", "export"]

    def warm(self, way):
        flags = self.flags(way)
        first = self.ferry("migrate", "--json", *flags).events()[-1]
        self.assertTrue(first["full"])
        self.prove()
        self.assert_nothing_left()
        second = self.ferry("migrate", "--json", *flags).events()[-1]
        self.assertFalse(second["full"], "the second cycle must be a delta")
        self.assertGreater(second["read"], 0, "the guest wrote in between")
        self.prove()
        done = self.ferry("cutover", "--json", *flags, *self.lab.cutover_flags()).events()[-1]
        self.assertEqual(done["phase"], "done")
        self.assertEqual(self.lab.vm()["power"], "off")
        self.prove()
        self.assert_nothing_left()

    def tearDown(self):
        for path in self.state.rglob("*"):
            if path.is_file() and path.suffix not in (".img",):
                content = path.read_bytes()
                for secret in self.lab.secrets():
                    self.assertNotIn(secret, content, path)

    def test_file(self):
        self.warm("file")

    def test_ssh(self):
        self.warm("ssh")

    def test_export(self):
        running = self.ferry("migrate", *self.flags("export"), ok=False)
        self.assertNotEqual(running.code, 0)
        self.assertIn("shut it down first", running.err + running.out)
        self.ferry("abort", "--delete-volumes")
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "off"})
        self.lab.control("vcenter", "DELETE", "/calls")
        done = self.ferry("cutover", "--json", *self.flags("export"), *self.lab.cutover_flags()).events()[-1]
        self.assertEqual(done["phase"], "done")
        self.prove()
        self.assert_nothing_left()
        self.assertEqual(list((self.state / "s" / "spool").iterdir()), [])
        downloads = [c for c in self.lab.control("vcenter", "GET", "/calls") if c["service"] == "nfc"]
        self.assertEqual(len(downloads), 2, "each disk once: nothing had changed in the last cycle")

    def power(self, state):
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": state})

    def exported(self, *flags):
        """A cycle by export; its last event, and how many disks were downloaded."""
        self.lab.control("vcenter", "DELETE", "/calls")
        done = self.ferry("migrate", "--json", *self.flags("export"), *flags).events()[-1]
        self.prove()
        self.assert_nothing_left()
        return done, sum(c["service"] == "nfc" for c in self.lab.control("vcenter", "GET", "/calls"))

    def test_cycles_by_export(self):
        """The machine runs in between. What changed is copied, and whole disks are downloaded for it."""
        self.power("off")
        first, downloads = self.exported()
        self.assertTrue(first["full"])
        self.assertEqual(downloads, 2)
        self.power("on")
        for disk in (2000, 2001):
            self.lab.control("vcenter", "POST", "/vms/web01/write", {"disk": disk, "offset": 1 << 20, "bytes": 300 << 10, "value": 7})
        self.power("off")
        second, downloads = self.exported()
        self.assertFalse(second["full"], "the second cycle must be a delta")
        self.assertGreaterEqual(second["read"], 2 * (300 << 10))
        self.assertEqual(downloads, 2)
        third, downloads = self.exported("--audit", "0")
        self.assertFalse(third["full"])
        self.assertEqual(downloads, 0, "nothing had changed")

    def test_a_machine_that_was_never_tracked_is_exported_once(self):
        """Change tracking is switched on by that very cutover."""
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "off"})
        self.ferry("cutover", *self.flags("export"), *self.lab.cutover_flags())
        self.prove()
        downloads = [c for c in self.lab.control("vcenter", "GET", "/calls") if c["service"] == "nfc"]
        self.assertEqual(len(downloads), 2, downloads)

    def test_the_export_of_a_killed_run_ends_with_the_next_command(self):
        """Whatever that reads by: until then the machine is busy, for as long as its lease lives."""
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "off"})
        spool = self.state / "s" / "spool"
        for verb, flags in (("abort", ("--delete-volumes",)), ("migrate", ("--transport", "https"))):
            with self.subTest(verb=verb, flags=flags):
                self.lab.control("vcenter", "DELETE", "/calls")
                # As slow as that, the export lasts for minutes.
                self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.2})
                run = self.start("migrate", *self.flags("export"))
                self.wait_for(lambda: list(spool.glob("lease-*")) or run.poll() is not None, what="an export")
                run.kill()
                run.communicate()
                self.assertEqual(run.returncode, -signal.SIGKILL, "it was over too soon")
                self.assertTrue(list(spool.glob("lease-*")), "nothing tells of the export")
                self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
                self.ferry(verb, *flags)
                self.assertIn("HttpNfcLeaseAbort", {c["method"] for c in self.lab.control("vcenter", "GET", "/calls")})
                self.assertEqual(list(spool.iterdir()), [])
                self.assert_nothing_left()
        self.prove()

    def test_ssh_says_why_not(self):
        ssh = self.lab.vcenter["esxi_ssh"]
        nobody = pathlib.Path(self.state) / "wrong"
        nobody.write_text("wrong\n")
        nobody.chmod(0o600)
        for flag, value, said in (("--esxi-ssh-password-file", nobody, "--esxi-ssh-key"),
                                  ("--esxi-ssh-known-hosts", "/dev/null", "host key"),
                                  ("--esxi-ssh-address", "127.0.0.1:1", "TSM-SSH")):
            flags = self.flags("ssh")
            flags[flags.index(flag) + 1] = str(value)
            refused = self.ferry("migrate", *flags, ok=False)
            self.assertNotEqual(refused.code, 0)
            self.assertIn(said, refused.err + refused.out)
            self.assert_nothing_left()
        self.forget_volumes()


class VCenter(Ways, ferry.MigrationTest):
    lab_flags = ("--disks", "40M+37s,33M+1s")


class ESXi(Ways, ferry.MigrationTest):
    lab_flags = ("--esxi", "--disks", "40M+37s,33M+1s")


if __name__ == "__main__":
    unittest.main()
