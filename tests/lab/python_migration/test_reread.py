"""kill -9 at any moment of a full copy, then the same command: how much of the finished work is read again. nbdkit's log filter, in
front of the disk, tells what was read; vmferry is not asked.

A slice kills a copy of 1 GiB, without a slice it is 10 GiB at full speed: five times as much must be free where temporary files are.
VMFERRY_REREAD_SEED=N: the moments of an earlier run, as it printed them."""

import datetime
import os
import pathlib
import random
import re
import shutil
import stat
import tempfile

from ferry import MigrationTest

MIB, GIB = 1 << 20, 1 << 30
CHUNK = 64 << 10
SLICE = os.environ.get("VMFERRY_SLICE_SEED")
# Whichever is less may be read again. It is 2 s and the time that a flush takes, which is longer while other tests use the same disk.
MOST, SECONDS = 2 * GIB, 10 if SLICE else 5
EDGE = 4 * MIB  # reads across the edge of those seconds
# A small copy is slowed down, or it would be over within those seconds.
SIZE, PACE = (GIB, ("--bandwidth", "32M")) if SLICE else (10 * GIB, ())

# Put in nbdkit's place. The filter is the first, so it sees what vmferry asks for.
WATCHED_NBDKIT = """#!/bin/sh
case " $* " in *" --foreground "*) exec {nbdkit} --filter=log "$@" logfile={logs}/$$ ;; esac
exec {nbdkit} "$@"
"""
READ = re.compile(r"(\S+ \S+) connection=(\d+) (\.\.\.)?Read id=(\d+) (?:offset=(\S+) count=(\S+)|return=(-?\d+))")


def chunks_of(offset, length):
    return range(offset // CHUNK, -(-(offset + length) // CHUNK))


def reads_in(log):
    """The reads that succeeded: when, and which chunks."""
    begun = {}
    for line in log.read_text().splitlines():
        found = READ.match(line)
        if not found:
            continue
        at, connection, ended, number, offset, count, returned = found.groups()
        if not ended:
            begun[connection, number] = chunks_of(int(offset, 0), int(count, 0))
        elif returned == "0":
            yield datetime.datetime.fromisoformat(at), begun.pop((connection, number))


def union(ranges):
    return {chunk for chunks in ranges for chunk in chunks}


def differing(one, other):
    """The chunks in which two images differ."""
    found = set()
    with open(one, "rb") as first, open(other, "rb") as second:
        for start in range(0, os.path.getsize(one), 16 * MIB):
            a, b = first.read(16 * MIB), second.read(16 * MIB)
            if a != b:
                found |= {(start + i) // CHUNK for i in range(0, len(a), CHUNK) if a[i:i + CHUNK] != b[i:i + CHUNK]}
    return found


def fill_holes(path):
    """A hole would not be read."""
    with open(path, "r+b", buffering=0) as file:
        end, at = os.path.getsize(path), 0
        while at < end:
            hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            try:
                at = os.lseek(file.fileno(), hole, os.SEEK_DATA)
            except OSError:  # none until the end
                at = end
            for start in range(hole, at, 4 * MIB):
                os.pwrite(file.fileno(), os.urandom(min(4 * MIB, at - start)), start)


class RereadTest(MigrationTest):
    lab_flags = ("--disks", f"{SIZE // GIB}G+37s", "--writer-rate", "10")

    @classmethod
    def setUpClass(cls):
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if free < 5 * SIZE:
            raise RuntimeError(f"{tempfile.gettempdir()} has {free / GIB:.1f} GiB free, and this needs {5 * SIZE / GIB:.0f}: "
                               "TMPDIR may name another folder")
        super().setUpClass()
        cls.flat = next(pathlib.Path(cls.lab.vcenter["datastore_dir"]).rglob("*-flat.vmdk"))
        fill_holes(cls.flat)
        cls.logs, programs = cls.lab.work / "reads", cls.lab.work / "programs"
        cls.logs.mkdir()
        programs.mkdir()
        program = programs / "nbdkit"
        program.write_text(WATCHED_NBDKIT.format(nbdkit=shutil.which("nbdkit"), logs=cls.logs))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        cls.path_before = os.environ["PATH"]
        os.environ["PATH"] = f"{programs}:{cls.path_before}"
        cls.seed = os.environ.get("VMFERRY_REREAD_SEED") or SLICE or str(random.SystemRandom().randrange(10**6))

    @classmethod
    def tearDownClass(cls):
        os.environ["PATH"] = cls.path_before
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.writer(True)

    def tearDown(self):
        self.forget_volumes()
        for image in (self.lab.directory / "frozen").glob("*/*.img"):
            image.unlink()  # room for the next

    def writer(self, running):
        self.lab.control("vcenter", "POST", "/vms/web01/writer", {"running": running})

    def reads(self):
        """Since the last time."""
        found = []
        for log in self.logs.iterdir():
            found += reads_in(log)
            log.unlink()
        return sorted(found, key=lambda read: read[0])

    def killed_and_again(self, name, between):
        # Not so late that the copy is over before the kill is there on a busy machine; a slice not so early that all may be read again.
        share = random.Random(f"{name} {self.seed}").uniform(0.4 if SLICE else 0.1, 0.8)
        flags = ("--transport", "file", "--datastore-dir", self.lab.vcenter["datastore_dir"], "--audit", "0")
        self.killed_in_the_copy(share, *flags, *PACE)
        first = self.reads()
        between()
        self.writer(False)  # so that what had changed can be told from the images of the snapshots
        self.ferry("migrate", *flags, timeout=900)
        second = union(chunks for _, chunks in self.reads())
        self.prove()
        self.assert_nothing_left()
        images = [frozen["disks"][0]["path"] for frozen in self.lab.control("vcenter", "GET", "/vms/web01/frozen")]
        images = [image for image in images if os.path.exists(image)]  # without those of the test before
        changed = differing(images[0], images[-1])

        finished, killed_at = union(chunks for _, chunks in first), first[-1][0]
        # Only time in which something was read counts: a disk that stalls delays checkpoints as well.
        latest, left, then = set(), float(SECONDS), killed_at
        for at, chunks in reversed(first):
            left -= min((then - at).total_seconds(), 0.5)
            then = at
            if left < 0:
                break
            latest |= set(chunks)
        again = (finished & second) - changed

        def mib(chunks):
            return f"{len(chunks) * CHUNK / MIB:.0f} MiB"

        print(f"\n{name}: killed at {share:.0%} (VMFERRY_REREAD_SEED={self.seed}), {mib(finished)} read in "
              f"{(killed_at - first[0][0]).total_seconds():.1f} s, {mib(latest)} of them in the last {SECONDS} s; run again: {mib(second)} read, "
              f"{mib(changed)} had changed, {mib(again)} read once more", flush=True)
        self.assertEqual(finished | second, set(chunks_of(0, self.flat.stat().st_size)), "not all was read")
        self.assertLessEqual(len(again) * CHUNK, min(MOST, len(latest) * CHUNK) + EDGE)

    def test_from_the_same_snapshot(self):
        self.killed_and_again("the same snapshot", lambda: None)

    def test_from_a_new_snapshot(self):
        def remove_snapshot():
            for snapshot in self.lab.vm()["snapshots"]:
                self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")
            before = self.lab.vm()["writer"]["bytes"]
            self.wait_for(lambda: self.lab.vm()["writer"]["bytes"] > before + 10 * MIB, what="writes of the guest")

        self.killed_and_again("a new snapshot", remove_snapshot)
