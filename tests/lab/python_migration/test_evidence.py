"""The evidence file: what it says is what happened, computed once more here without a line of the product."""

import ctypes
import datetime
import html.parser
import json
import pathlib
import re
import sqlite3
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET

from journey import JourneyTest

CHUNK = 64 << 10


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


XXHASH = ctypes.CDLL("libxxhash.so.0")
XXHASH.XXH3_128bits.restype = Hash128
XXHASH.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh3_128(data):
    found = XXHASH.XXH3_128bits(data, len(data))
    return found.high.to_bytes(8, "big") + found.low.to_bytes(8, "big")


def root_of(data):
    """As docs/evidence.md describes it, in words."""
    digests = b"".join(xxh3_128(data[at:at + CHUNK]) for at in range(0, len(data), CHUNK))
    return xxh3_128(digests + len(data).to_bytes(8, "big")).hex()


def root_by_the_manual(file, size):
    """The manual's own program, as somebody without vmferry runs it."""
    manual = pathlib.Path(__file__).parents[3] / "docs" / "evidence.md"
    program = re.search("```python\n(.*?)```", manual.read_text(), re.DOTALL)[1]
    return subprocess.run([sys.executable, "-c", program, file, str(size)], capture_output=True, text=True, check=True).stdout.strip()


def when(text):
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = set()
        self.references = []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "onload", "onclick")]


class EvidenceTest(JourneyTest):
    def setUp(self):
        super().setUp()
        self.begin_anew()

    def folder(self):
        return self.state / "s" / "evidence"

    def evidence(self, *flags):
        return json.loads(self.ferry("evidence", "--json", *flags).out)

    def frozen_disks(self):
        return {d["key"]: pathlib.Path(d["path"]).read_bytes() for d in self.lab.control("vcenter", "GET", "/vms/web01/frozen")[-1]["disks"]}

    def assert_page(self, file):
        page = file.read_text()
        ET.fromstring(page)  # every element is closed
        tags = Tags()
        tags.feed(page)
        self.assertEqual(tags.seen & {"script", "img", "link", "iframe", "object"}, set())
        self.assertEqual(tags.references, [])
        password = pathlib.Path(self.lab.vcenter["password_file"]).read_text().strip()
        for text in (page, file.with_suffix(".json").read_text()):
            self.assertNotIn(password, text)
            self.assertNotIn("password", text.lower())
        return page

    def test_of_a_whole_migration(self):
        first = [e for e in self.ferry("migrate", "--json").events() if e["event"] == "disk_finished"]
        self.ferry("migrate", ok=False, env={"VMFERRY_CRASH_AT": "copy disks|before DiskCopied"})
        self.ferry("migrate")
        self.ferry("verify")
        synced = self.evidence()
        self.assertEqual((synced["format"], synced["phase"], synced["interruptions"]), (1, "synced", 1))
        self.assertNotIn("downtime", synced)
        self.assertIn("Every byte was read back", synced["summary"])
        done = self.ferry("cutover", *self.cutover_flags(), "--run-v2v=false", "--json").events()[-1]
        told = self.evidence()

        page = pathlib.Path(done["evidence"])
        self.assertEqual(page.parent, self.folder())
        self.assertEqual(stat.S_IMODE(self.folder().stat().st_mode), 0o700)
        self.assertEqual({stat.S_IMODE(f.stat().st_mode) for f in self.folder().iterdir()}, {0o600})
        self.assertEqual({f.suffix for f in self.folder().iterdir()}, {".html", ".json"}, "nothing half written is left")
        kept = json.loads(page.with_suffix(".json").read_text())
        self.assertEqual({**kept, "written_at": ""}, {**told, "written_at": ""}, "the file is what the command says")
        self.assertIn(told["server"]["id"], self.assert_page(page))

        # Who, and where to.
        self.assertEqual(told["machine"]["path"], self.lab.vcenter["vm_path"])
        self.assertEqual(told["source"]["endpoint"], self.lab.vcenter["endpoint"])
        server = next(s for s in self.lab.control("openstack", "GET", "/state")["servers"] if s["name"] == "web01")
        self.assertEqual(told["server"], {"id": server["id"], "state": "ACTIVE"})
        self.assertEqual([d["volume"] for d in told["disks"]], server["volumes"])
        self.assertEqual([r["command"] for r in told["runs"]], ["migrate", "migrate", "migrate", "verify", "cutover"])
        self.assertEqual([r["resumed"] for r in told["runs"]], [False, False, True, False, False])

        # The digest roots are those of the source's last frozen bytes, and of the volumes' files.
        volumes = {v["id"]: v["file"] for v in self.lab.volumes()}
        for disk in told["disks"]:
            source = self.frozen_disks()[disk["key"]]
            self.assertEqual(disk["capacity"], len(source))
            self.assertEqual(disk["digests"]["root"], root_of(source))
            with open(volumes[disk["volume"]], "rb") as file:
                self.assertEqual(disk["digests"]["root"], root_of(file.read(len(source))))
            self.assertEqual(disk["digests"]["root"], root_by_the_manual(volumes[disk["volume"]], len(source)))
            self.assertEqual(disk["digests"]["zero"], sum(len(source[at:at + CHUNK]) for at in range(0, len(source), CHUNK)
                                                          if not any(source[at:at + CHUNK])))
            self.assertEqual(len(disk["digests"]["strip"]), 200)
            self.assertNotIn("no_root_because", disk)

        # Bytes: the first cycle's as they were shown, the last one's as status has them, and all together the sum.
        status = {d["key"]: d for d in json.loads(self.ferry("status", "--json").out)["jobs"][0]["disks"]}
        shown = sorted((e["read"], e["written"]) for e in first)
        self.assertEqual(sorted((d["read"], d["written"]) for d in told["cycles"][0]["disks"]), shown)
        for disk in told["disks"]:
            copies = [d for c in told["cycles"] for d in c["disks"] if d["key"] == disk["key"]]
            self.assertEqual([d["kind"] for d in copies], ["full"] + ["delta"] * 4)
            self.assertEqual(disk["read"], sum(d["read"] for d in copies))
            self.assertEqual(disk["written"], sum(d["written"] for d in copies))
            self.assertEqual((copies[-1]["read"], copies[-1]["written"]),
                             (status[disk["key"]]["last_read"], status[disk["key"]]["last_written"]))
            for before, after in zip(copies, copies[1:]):
                self.assertEqual(after["change_id_before"], before["change_id"])

        # Times.
        parts = told["downtime"]
        self.assertAlmostEqual(sum(parts[p] for p in ("shutdown", "copy", "conversion", "server")), parts["seconds"], places=3)
        self.assertAlmostEqual(parts["seconds"], done["downtime_seconds"], places=3)
        self.assertEqual(told["cycles"][-1]["consistency"], "powered off")
        names = [p["name"] for p in told["phases"] if p.get("cycle") == told["cycles"][-1]["number"]]
        self.assertEqual(names, ["shutdown", "snapshot", "copy", "detach", "server", "remove snapshot"])
        for phase in told["phases"]:
            self.assertGreaterEqual(when(phase["began"]), when(told["created"]))
            self.assertLess(phase["seconds"], 600)

    def test_damage_and_its_repair(self):
        self.ferry("migrate")
        before = {d["key"]: d["digests"]["root"] for d in self.evidence()["disks"]}
        self.assertEqual(before, {key: root_of(data) for key, data in self.frozen_disks().items()})
        volume = next(v for v in self.lab.volumes() if v["name"].endswith("2001"))
        with open(volume["file"], "r+b") as file:
            file.seek(5 * CHUNK + 7)
            byte = file.read(1)
            file.seek(5 * CHUNK + 7)
            file.write(bytes([byte[0] ^ 1]))
        self.ferry("verify", ok=False)
        kept = json.loads(next(self.folder().glob("*.json")).read_text())
        self.assertEqual({d["key"]: d["damaged"] for d in kept["disks"]}, {2000: 0, 2001: CHUNK}, "a run that failed leaves its evidence too")
        self.assertEqual({v["key"]: v["different"] for v in kept["verifications"]}, {2000: 0, 2001: CHUNK})
        self.ferry("verify", "--repair")
        self.assertEqual({d["damaged"] for d in self.evidence()["disks"]}, {0})

    def test_after_a_conversion(self):
        self.ferry("cutover", *self.cutover_flags())
        told = self.evidence()
        self.assertTrue(told["converted"])
        self.assertGreater(told["downtime"]["conversion"], 0)
        volumes = {v["id"]: v["file"] for v in self.lab.volumes()}
        for disk in told["disks"]:
            self.assertTrue(disk["digests"]["after_conversion"])
            with open(volumes[disk["volume"]], "rb") as file:
                self.assertEqual(disk["digests"]["root"], root_of(file.read(disk["capacity"])))

    def test_which_job(self):
        self.assertIn("there is no state folder", self.ferry("evidence", ok=False).err)
        self.assertFalse((self.state / "s").exists())
        (self.state / "s").mkdir()
        self.assertIn("no job on this host yet", self.ferry("evidence", ok=False).err)
        self.assertEqual(list((self.state / "s").iterdir()), [])
        self.ferry("migrate")
        out = self.state / "handover"
        for flags in ((), ("--vmware-path", "web01"), ("--vmware-path", self.lab.vcenter["vm_path"]), ("--job", self.evidence()["job"][:8])):
            self.ferry("evidence", "--out", str(out), *flags)
            self.assertEqual(len(list(out.iterdir())), 2)
        missing = self.ferry("evidence", "--vmware-path", "db07", ok=False)
        self.assertEqual(missing.code, 5)
        self.assertIn("vmferry status --all", missing.err)
        self.ferry("abort", "--delete-volumes")
        self.assertIn("undone", self.ferry("evidence").out)

    def test_what_cannot_be_written_stops_nothing(self):
        (self.state / "s").mkdir(mode=0o700)
        self.folder().write_text("in the way")
        done = self.ferry("migrate")
        self.assertIn("warning: the evidence could not be written", done.err)
        self.assertIn("in sync", done.out)

    def test_a_name_that_would_be_markup(self):
        self.ferry("migrate")
        journal = sqlite3.connect(self.state / "s" / "journal.sqlite")
        with journal:
            body = json.loads(journal.execute("SELECT body FROM fact WHERE number = 1").fetchone()[0])
            body["vm_name"] = body["vm_path"] = "<b>x</b>\"'&<script>alert(1)</script>"
            journal.execute("UPDATE fact SET body = ? WHERE number = 1", (json.dumps(body),))
        journal.close()
        self.ferry("evidence", "--out", str(self.state / "out"))
        self.assert_page(next((self.state / "out").glob("*.html")))
