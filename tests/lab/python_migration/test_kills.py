"""kill -9 at random moments of random commands, while others interfere: then the last command again, until it succeeds. Nothing may
be lost: the bytes are equal, the digests agree, nothing is left over.

A round is known by its number: VMFERRY_KILLS_ROUND=N runs that one alone. Its moments are times, so that it comes out alike each
time, not the same."""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import time

from ferry import BIN
from journey import JourneyTest, slice_of

ROUNDS = 200
TRIES = 3
# How long each command takes, in seconds, until one was measured here.
USUALLY = {"migrate": 3.0, "cutover": 5.0, "verify": 4.0, "abort": 1.0}
MAKING_JOBS = ("migrate", "cutover")
NOT_FOUND, CONFLICT = 5, 6  # docs/exit-codes.md


@dataclasses.dataclass
class Attempt:
    """A command that is killed."""

    verb: str
    flags: tuple
    moment: float  # of its usual duration
    victims: str
    meanwhile: str
    interference_at: float  # of the time until the kill
    afterwards: str


@dataclasses.dataclass
class Plan:
    begin: str
    converts: bool
    transport: str
    flips: bool
    attempts: list
    end: str

    def __str__(self):
        lines = [f"begins with {self.begin}, ends with {self.end}; converts: {self.converts}, {self.transport}, flips a byte: {self.flips}"]
        return "\n".join(lines + [f"  {attempt}" for attempt in self.attempts])


def plan_of(number):
    dice = random.Random(f"kills {number}")

    def one_of(weights):
        return dice.choices(list(weights), list(weights.values()))[0]

    begin = one_of({"nothing": 4, "a finished cycle": 5, "a finished cutover": 1})
    attempts = []
    for _ in range(one_of({1: 4, 2: 3, 3: 2, 4: 1})):
        # What needs a job does nothing before there is one.
        verb = one_of({"migrate": 8, "cutover": 6} | ({"verify": 3, "abort": 2} if attempts or begin != "nothing" else {}))
        flags = {"verify": ("--repair",), "abort": dice.choice(((), ("--delete-volumes",)))}.get(verb, ())
        attempts.append(Attempt(verb, flags, dice.random(), one_of({"vmferry": 4, "vmferry and its children": 3, "its children first": 1}),
                                one_of({"": 6, "sessions end": 2, "snapshot removed": 1}), dice.random(),
                                one_of({"": 6, "cbt reset": 2, "snapshot removed": 2, "tracking off": 1, "powered on": 2})))
    tried = {attempt.verb for attempt in attempts}
    end = one_of({"cutover": 3, "abort": 1} if "cutover" in tried else {"migrate": 4, "verify": 3, "cutover": 2, "abort": 1})
    # An abandoned job's digests are gone, and with them the knowledge of the damage.
    flips = end == "verify" and begin == "a finished cycle" and "abort" not in tried
    return Plan(begin, dice.random() < 0.3, one_of({"https": 3, "file": 1}), flips, attempts, end)


def descendants(pid):
    """Of a process, the closest first."""
    children = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for known in found:
        found += children.get(known, [])
    return found[1:]


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class KillsTest(JourneyTest):
    def test_random_kills(self):
        alone = os.environ.get("VMFERRY_KILLS_ROUND")
        chosen = [int(alone)] if alone else slice_of(range(ROUNDS))
        print(f"\nkills: {len(chosen)} of {ROUNDS} rounds; all of them: ./test --full crash", flush=True)
        self.usually = dict(USUALLY)
        self.kills = self.again = 0
        for number in chosen:
            self.state = self.lab.work / f"kills-{number}"
            self.state.mkdir()
            plan = plan_of(number)
            self.story = [str(plan)]
            with self.subTest(round=number):
                try:
                    self.one(plan)
                except Exception as reason:
                    print(f"\nround {number} failed ({reason}); alone: VMFERRY_KILLS_ROUND={number}\n" + "\n".join(self.story), flush=True)
                    raise
        print(f"kills: {self.kills} runs were killed; after {self.again} of {len(chosen)} rounds the last command had to be run more than once",
              flush=True)

    def one(self, plan):
        self.plan = plan
        self.begin_anew()
        self.begin(plan.begin)
        if plan.flips:
            subprocess.run([BIN / "vmferry-prove", "--frozen", "web01", "--lab", self.lab.directory, "--flip", "2000"], capture_output=True,
                           check=True)
        for attempt in plan.attempts:
            self.attempt(attempt)
            self.interfere(attempt.afterwards)
        self.assert_end(self.finish())

    # ---- the acts ----

    def flags_of(self, verb):
        flags = []
        if verb != "abort" and self.plan.transport == "file":
            flags += ["--transport", "file", "--datastore-dir", self.lab.vcenter["datastore_dir"]]
        if verb == "cutover":
            flags += self.cutover_flags() if self.plan.converts else self.lab.cutover_flags()
        if verb in MAKING_JOBS and self.plan.begin == "a finished cutover" and not self.server():
            flags.append("--again")
        return flags

    def server(self):
        host = self.lab.openstack["instance_id"]
        return next((s for s in self.lab.control("openstack", "GET", "/state")["servers"] if s["id"] != host), None)

    def begin(self, what):
        self.earlier_jobs = set()
        if what == "a finished cycle":
            self.ferry("migrate", *self.flags_of("migrate"))
        elif what == "a finished cutover":
            self.ferry("cutover", *self.cutover_flags())
            # It is taken back after its server has written; the next job begins with its volumes.
            self.earlier_jobs = {volume["metadata"]["vmferry_job"] for volume in self.lab.volumes()}
            self.cloud.delete_server(self.server()["id"], wait=True)
            for volume in self.lab.volumes():
                with open(volume["file"], "r+b") as file:
                    file.seek(5 << 20)
                    file.write(os.urandom(1 << 20))
            self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})

    def attempt(self, attempt):
        process = self.start(attempt.verb, *attempt.flags, *self.flags_of(attempt.verb))
        begun = time.monotonic()
        until_kill = attempt.moment * self.usually[attempt.verb]
        if attempt.meanwhile:
            self.sleep_until(begun + until_kill * attempt.interference_at)
            self.interfere(attempt.meanwhile)
        self.sleep_until(begun + until_kill)
        if attempt.victims == "its children first":
            kill(descendants(process.pid))
            time.sleep(0.2)
            process.kill()
        else:
            children = descendants(process.pid)
            process.kill()
            if attempt.victims == "vmferry and its children":
                kill(children)
        out, err = process.communicate(timeout=300)
        self.kills += process.returncode == -signal.SIGKILL
        self.story.append(f"--- {attempt.verb} after {until_kill:.2f} s: {process.returncode}\n{out}{err}")
        self.assert_ended_well(process.returncode)
        self.wait_for(lambda: not self.own_processes(), what="the end of what vmferry had started")

    @staticmethod
    def sleep_until(moment):
        time.sleep(max(0.0, moment - time.monotonic()))

    def interfere(self, how):
        if how == "sessions end":
            self.lab.control("vcenter", "POST", "/sessions/expire")
            self.lab.control("openstack", "POST", "/tokens/revoke")
        elif how == "cbt reset":
            self.lab.control("vcenter", "POST", "/vms/web01/cbt-reset")
        elif how == "snapshot removed":
            for snapshot in self.lab.vm()["snapshots"]:
                with contextlib.suppress(RuntimeError):  # vmferry may just be doing the same
                    self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")
        elif how == "tracking off":
            self.lab.control("vcenter", "POST", "/vms/web01/cbt", {"enabled": False})
        elif how == "powered on" and self.lab.vm()["power"] == "off" and not self.server():
            self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})

    def to_its_end(self, verb, *flags):
        begun = time.monotonic()
        done = self.ferry(verb, *flags, *self.flags_of(verb), ok=False)
        seconds = time.monotonic() - begun
        self.story.append(f"--- {verb}, undisturbed, {seconds:.2f} s: {done}")
        self.assert_ended_well(done.code)
        if done.code == 0 and seconds > self.usually[verb] / 3:  # less: it only said that all was done before
            self.usually[verb] = (self.usually[verb] + seconds) / 2
        return done

    def finish(self):
        """Runs the last command until it succeeds; which one that was."""
        # With the server there is nothing else to do any more.
        verb = "cutover" if self.server() else self.plan.end
        flags = {"verify": ["--repair"], "abort": ["--delete-volumes"]}.get(verb, [])
        for tries in range(TRIES):
            done = self.to_its_end(verb, *flags)
            if done.code == 0 or (verb == "abort" and done.code == NOT_FOUND and not self.lab.volumes()):
                self.again += tries > 0
                return verb
            if (verb, done.code) in (("abort", NOT_FOUND), ("verify", NOT_FOUND), ("verify", CONFLICT)):
                # There is no job any more, or its copy was interrupted: it says what to do first.
                self.to_its_end("migrate")
        self.fail(f"{verb} did not succeed in {TRIES} tries")

    # ---- the checks ----

    def own_processes(self):
        """vmferry of this round, and what it started."""
        mark, found = os.fsencode(self.state / "s"), []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def assert_ended_well(self, code):
        """Killed by us, finished, or ended with an error that is no bug."""
        self.assertIn(code, [-signal.SIGKILL, 0, *range(2, 13)])

    def assert_end(self, verb):
        host = self.lab.openstack["instance_id"]
        if verb in ("migrate", "verify"):
            self.prove()
            self.assertEqual(self.to_its_end("verify").code, 0)
        state = self.lab.control("openstack", "GET", "/state")
        if verb == "cutover":
            self.assert_arrived(self.plan.converts)
        else:
            self.assertEqual([p for p in state["ports"] if p.get("device_id") != host], [], "a port was left behind")
            # A job that died before it took over a finished one's volumes has none to delete.
            volumes = [v for v in state["volumes"] if verb != "abort" or v["metadata"].get("vmferry_job") not in self.earlier_jobs]
            self.assertEqual(len(volumes), 0 if verb == "abort" else 2, volumes)
        self.assert_nothing_left()
        self.assertEqual(self.own_processes(), [])
        self.assertEqual(list((self.state / "s" / "convert").glob("*")), [], "an overlay was left behind")
        self.assertEqual(len(list((self.state / "s" / "digests").glob("*/*"))), 2 if verb in ("migrate", "verify") else 0, "digests of no job")
        secrets = self.lab.secrets()
        for file in (f for f in (self.state / "s").rglob("*") if f.is_file()):
            data = file.read_bytes()
            self.assertFalse([s for s in secrets if s in data], f"a secret is readable in {file}")
