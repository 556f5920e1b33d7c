"""kill -9 in the middle of a full copy: the next run reads again what was finished in the last few seconds at most, from the same
snapshot or, when that one is gone, from a new one."""

import json
import re
import shutil
import signal
import time

from ferry import MigrationTest

MIB = 1 << 20
RATE = 20  # MB/s, slow enough to be killed in the middle
CONNECTIONS = 1
SECONDS = 5


class ResumeTest(MigrationTest):
    lab_flags = ("--disks", "288M+37s", "--writer-rate", "2")

    def setUp(self):
        super().setUp()
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": RATE})

    def tearDown(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.forget_volumes()

    def killed_after(self, share, **more):
        return self.killed_in_the_copy(share, "--connections", str(CONNECTIONS), **more)

    def brought(self, err):
        """What the next run says it need not read."""
        found = re.search(r"going on from (\d+) MiB", err)
        return int(found[1]) * MIB if found else 0

    def assert_gone_on(self, done, next_run):
        self.assertGreater(self.brought(next_run.err), done - SECONDS * RATE * CONNECTIONS * 1e6 - MIB, next_run.err)
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.prove()
        self.assert_nothing_left()

    def test_from_the_same_snapshot(self):
        done = self.killed_after(0.7)
        self.assert_gone_on(done, self.ferry("migrate", "--connections", str(CONNECTIONS), "--verify"))

    def test_from_a_new_snapshot(self):
        done = self.killed_after(0.7)
        for snapshot in self.lab.vm()["snapshots"]:
            self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")
        time.sleep(1)  # the guest writes on
        said = ""
        for _ in range(3):
            said_now = self.ferry("migrate", "--connections", str(CONNECTIONS), "--verify", ok=False)
            said += said_now.err
            if said_now.code == 0:
                break
        said_now.err = said
        # Less what changed meanwhile, and that is not much.
        self.assert_gone_on(done - 30 * MIB, said_now)

    def test_an_image_that_was_deleted_is_copied_from_its_beginning(self):
        """It comes back under the same name, and empty."""
        done = self.killed_after(0.5, target="local")
        self.assertGreater(done, 0)
        shutil.rmtree(self.images / "web01")
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        again = self.ferry("migrate", "--verify", target="local")
        self.assertIn("not as this job left it", again.err)
        self.assertEqual(self.brought(again.err), 0)
        self.prove(target="local")
        shutil.rmtree(self.images / "web01")
        whole = self.ferry("migrate", "--json", target="local")
        self.assertEqual({e["full"] for e in whole.events() if e["event"] == "disk_finished"}, {True})
        self.prove(target="local")
        self.ferry("abort", "--delete-volumes", target="local")
        self.ferry("migrate")

    def test_on_another_host(self):
        """It has no journal of the first one: what is known stands in the volume's metadata."""
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": RATE // 4})
        # Long enough for the volume to be told, about every 20 s.
        done = self.killed_after(0.8)
        for snapshot in self.lab.vm()["snapshots"]:
            self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.state = self.state / "another"
        self.state.mkdir()
        taken_over = self.ferry("migrate", "--connections", str(CONNECTIONS), "--verify")
        self.assertIn("whose first copy another host began", taken_over.err)
        self.assertIn("nothing is known of them", taken_over.err, "the digests stay on the first host")
        self.assertGreater(self.brought(taken_over.err), done / 4)
        self.prove()
        self.assert_nothing_left()
        for volume in self.lab.volumes():
            self.assertNotIn("vmferry_partial", volume["metadata"])

    def test_after_ctrl_c_nothing_is_read_again(self):
        process = self.start("migrate", "--json", "--connections", str(CONNECTIONS))
        done = 0
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event.get("total"):
                done = event["done"]
                if done > event["total"] / 2:
                    break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        self.assertNotEqual(process.returncode, 0)
        self.assert_nothing_left()
        self.assert_gone_on(done - 30 * MIB, self.ferry("migrate", "--connections", str(CONNECTIONS)))
