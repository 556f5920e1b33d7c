"""A full copy that ends in the middle (kill -9, Ctrl-C): the next run does not read again what the journal says is there, from the same
snapshot or, when that one is gone, from a new one. (How much the journal may lack of what was finished is in test_reread.)"""

import re
import shutil
import signal

from ferry import MigrationTest

MIB = 1 << 20
CHUNK = 64 << 10
# MB/s over one connection: the copy takes half a minute, however fast the machine is, and is stopped after some seconds.
RATE = 5
CONNECTIONS = ("--connections", "1")


class ResumeTest(MigrationTest):
    lab_flags = ("--disks", "288M+37s", "--writer-rate", "2")

    def setUp(self):
        super().setUp()
        self.rate(RATE)

    def tearDown(self):
        self.rate(0)
        self.writer(True)
        self.forget_volumes()

    def rate(self, mb_s):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": mb_s})

    def writer(self, running):
        self.lab.control("vcenter", "POST", "/vms/web01/writer", {"running": running})

    def kept(self):
        """How many bytes of the disk are there by the journal, and how many of them by its first checkpoint: zeroes, at once."""
        capacity = self.lab.vm()["disks"][0]["bytes"]
        sums = [sum(max(0, min(at + length, capacity) - at) for at, length in fact["ranges"]) for fact in self.progress_kept()]
        return sum(sums), sums[0] if sums else capacity

    def killed(self, **more):
        """A migrate that is killed when some of what it had to read is in the journal; what its journal has."""
        process = self.start("migrate", *CONNECTIONS, **more)

        def enough():
            kept, first = self.kept()
            return kept > first + 32 * MIB or process.poll() is not None

        self.wait_for(enough, what="checkpoints")
        self.assertIsNone(process.poll(), "the copy was over too soon")
        process.kill()
        process.communicate()
        return self.kept()[0]

    def changed_meanwhile(self):
        """Lets the guest write a little; by how much more its disk must be read then."""
        before = self.lab.vm()["writer"]
        self.writer(True)
        self.wait_for(lambda: self.lab.vm()["writer"]["bytes"] > before["bytes"] + 1e6, what="writes of the guest")
        self.writer(False)
        after = self.lab.vm()["writer"]
        return after["bytes"] - before["bytes"] + 2 * CHUNK * (after["writes"] - before["writes"])

    def remove_snapshots(self):
        for snapshot in self.lab.vm()["snapshots"]:
            self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")

    def brought(self, err):
        """What the next run says it need not read."""
        found = re.search(r"going on from (\d+) MiB", err)
        return int(found[1]) * MIB if found else 0

    @staticmethod
    def read_by(results):
        return sum(event["read"] for result in results for event in result.events() if event["event"] == "disk_finished" and event["full"])

    def assert_gone_on(self, kept, *results, changed=0):
        """By what was read to finish the full copy, whatever is said. (A run that finishes another's goes on with a delta.)"""
        read = self.read_by(results)
        self.assertGreater(read, 0)
        self.assertLessEqual(read, self.lab.vm()["disks"][0]["bytes"] - kept + changed + MIB, "what was there was read again")
        brought = self.brought("".join(result.err + result.out for result in results))
        self.assertGreater(brought, 0)
        self.assertLess(brought, self.lab.vm()["disks"][0]["bytes"], "the rest of the volume beyond the disk is nobody's bytes")
        self.prove()
        self.assert_nothing_left()

    def test_from_the_same_snapshot(self):
        kept = self.killed()
        self.rate(0)
        self.assert_gone_on(kept, self.ferry("migrate", *CONNECTIONS, "--verify", "--json"))

    def test_from_a_new_snapshot(self):
        self.writer(False)
        kept = self.killed()
        self.remove_snapshots()
        changed = self.changed_meanwhile()
        self.rate(0)
        runs = []
        for _ in range(3):
            runs.append(self.ferry("migrate", *CONNECTIONS, "--verify", "--json", ok=False))
            if runs[-1].code == 0:
                break
        self.assertEqual(runs[-1].code, 0, str(runs[-1]))
        self.assert_gone_on(kept, *runs, changed=changed)

    def test_an_image_that_was_deleted_is_copied_from_its_beginning(self):
        """It comes back under the same name, and empty."""
        self.assertGreater(self.killed(target="local"), 0)
        shutil.rmtree(self.images / "web01")
        self.rate(0)
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
        self.writer(False)
        self.rate(3)  # the volume is told for the first time after 20 s
        process = self.start("migrate", *CONNECTIONS)

        def told():
            for volume in self.lab.volumes():
                if found := re.match(r"(\d+)/", volume["metadata"].get("vmferry_partial", "")):
                    return int(found[1])
            return process.poll() is not None

        self.wait_for(told, what="a volume that knows of its copy")
        self.assertIsNone(process.poll(), "the copy was over too soon")
        process.kill()
        process.communicate()
        kept = told()
        self.assertGreater(kept, 16 * MIB)
        self.remove_snapshots()
        changed = self.changed_meanwhile()
        self.rate(0)
        self.state = self.state / "another"
        self.state.mkdir()
        taken_over = self.ferry("migrate", *CONNECTIONS, "--verify", "--json")
        said = taken_over.out + taken_over.err
        self.assertIn("whose first copy another host began", said)
        self.assertIn("nothing is known of them", said, "the digests stay on the first host")
        self.assertGreater(self.brought(said), kept - changed - MIB)
        # From its beginning on, up to there: what is zero beyond that is not read.
        self.assert_gone_on(kept, taken_over, changed=changed)
        for volume in self.lab.volumes():
            self.assertNotIn("vmferry_partial", volume["metadata"])

    def test_after_ctrl_c_nothing_is_read_again(self):
        self.writer(False)  # what changes is read again
        process = self.start("migrate", "--json", *CONNECTIONS)
        done, total = self.until_it_copied(process, 0.2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        self.assertNotEqual(process.returncode, 0)
        self.assert_nothing_left()
        kept, first = self.kept()
        self.assertGreater(kept, 0)
        self.rate(0)
        again = self.ferry("migrate", *CONNECTIONS, "--json")
        self.assertLessEqual(self.read_by([again]), total - done + MIB, "what had been copied was read again")
        self.assert_gone_on(kept, again)
