"""Recordings played back: what vmferry saw in a lab it sees again without the lab, up to the first byte of a disk."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python_migration"))
import ferry  # noqa: E402

LAB = ferry.BIN / "vmferry-lab"


class Replay(ferry.Lab):
    """`vmferry-lab replay` in a folder of its own, used as a lab is."""

    def __init__(self, recording):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="vmferry-r-"))
        self.directory = self.work / "lab"
        done = subprocess.run([LAB, "replay", "--from", recording, "--dir", self.directory, "--deadline", "15m"], capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(self.work)
            raise RuntimeError(f"the replay did not start: {done.stdout}{done.stderr}")
        self.said = done.stdout
        self.facts = json.loads((self.directory / "lab.json").read_text())
        self.vcenter = self.facts["vcenter"]
        self.openstack = self.facts["openstack"]

    def log(self):
        return (self.directory / "log" / "replay.log").read_text()

    def unknown(self):
        return [c for c in self.control("vcenter", "GET", "/calls") if c.get("fault") == "not in the recording"]


class Recorded(ferry.MigrationTest):
    """One lab records an inventory and a whole migration, and is gone before anything is replayed."""

    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="vmferry-rec-"))
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        cls.lab = ferry.Lab("--disks", "24M+5s,16M+1s", "--writer-rate", "1")
        try:
            one = cls("run")
            one.state = cls.work
            cls.table = one.ferry("inventory", "--record", str(cls.work / "inventory")).out
            # One folder, as somebody would send it in who has a problem.
            one.ferry("inventory", "--record", str(cls.work / "whole"))
            one.ferry("migrate", "--record", str(cls.work / "whole"))
            cls.password = pathlib.Path(cls.lab.vcenter["password_file"]).read_text().strip()
        finally:
            cls.lab.down()

    @classmethod
    def tearDownClass(cls):
        pass

    def setUp(self):
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="state-", dir=self.work))

    def replay(self, name):
        self.lab = Replay(self.work / name)
        self.addCleanup(self.lab.down)
        return self.lab

    def test_the_same_table(self):
        lab = self.replay("inventory")
        self.assertIn("web01", self.table)
        self.assertEqual(self.ferry("inventory").out, self.table)
        self.assertEqual(self.ferry("inventory").out, self.table, "the second time, when every answer has been used")
        self.assertEqual(lab.unknown(), [])

    def test_a_migration_up_to_the_bytes(self):
        lab = self.replay("whole")
        self.assertEqual(self.ferry("inventory").out, self.table)
        done = self.ferry("migrate", ok=False, path="/DC0/vm/web01")
        self.assertNotEqual(done.code, 0, str(done))
        self.assertIn("copy disks", done.err)
        self.assertIn("404", done.err)
        self.assertIn("flat.vmdk", done.err)
        self.assertIn("a recording holds no bytes of disks", lab.log())
        calls = lab.control("vcenter", "GET", "/calls")
        methods = {c["method"] for c in calls}
        self.assertLessEqual({"Login", "CreateSnapshot_Task", "RemoveSnapshot_Task"}, methods, "it went to the copy, and cleaned up")
        self.assertTrue([c for c in calls if c["method"] == "POST" and c["path_or_object"].endswith("/os-volume_attachments")])
        self.assertEqual(lab.unknown(), [])

    def test_an_unknown_call_is_named(self):
        lab = self.replay("inventory")
        done = self.ferry("migrate", ok=False, path="/DC0/vm/web01")
        self.assertNotEqual(done.code, 0, str(done))
        unknown = lab.unknown()
        self.assertTrue(unknown)
        self.assertEqual({c["status"] for c in unknown}, {404})
        self.assertIn(f"not in the recording: {unknown[0]['service']} {unknown[0]['method']}", lab.log())

    def test_no_secret_of_the_lab_is_needed_or_kept(self):
        lab = self.replay("whole")
        self.assertEqual(pathlib.Path(lab.vcenter["password_file"]).read_text(), "replay")
        for file in [f for f in self.work.rglob("*.json")]:
            self.assertNotIn(self.password, file.read_text(), f"the lab's password is in {file}")

    def test_status_down_and_a_folder_without_a_recording(self):
        lab = self.replay("inventory")
        self.assertIn("any password", lab.said)
        status = ferry.Result(subprocess.run([LAB, "status", "--dir", lab.directory], capture_output=True, text=True))
        self.assertEqual(status.code, 0, str(status))
        self.assertIn("answers", status.out)
        again = ferry.Result(subprocess.run([LAB, "replay", "--from", self.work / "inventory", "--dir", lab.directory], capture_output=True, text=True))
        self.assertEqual(again.code, 1, str(again))
        self.assertIn("is up", again.err)
        down = ferry.Result(subprocess.run([LAB, "down", "--dir", lab.directory], capture_output=True, text=True))
        self.assertEqual(down.code, 0, str(down))
        self.assertFalse(lab.directory.exists())
        empty = self.state / "empty"
        empty.mkdir()
        none = ferry.Result(subprocess.run([LAB, "replay", "--from", empty, "--dir", self.state / "l"], capture_output=True, text=True))
        self.assertEqual(none.code, 1, str(none))
        self.assertIn("no recording", none.err)
        self.assertFalse((self.state / "l").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
