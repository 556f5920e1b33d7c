"""The cases: what is copied, from what kind of source, against which peer, and how much faster it should be."""

import dataclasses

import disks
from disks import CHUNK, GIB, KIB, MIB

SERIAL = "serial loop"
FILE_PLUGIN = "file plugin"  # our engine, too, reading by nbdkit's file plugin
ONE_CONNECTION = "one connection"  # our engine, too


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a case: as it is meant, for --quick, or for --check."""

    size: int
    count: int = 0  # of areas
    disks: int = 1


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    what: str
    peer: str
    shapes: dict  # "full", "quick", "check" -> Shape
    gate: float  # least wall of the peer / ours
    goal: float
    cpu_gate: float = 0.0  # most CPU of our client / the peer's; 0: none
    cpu_goal: float = 0.0
    data: str = "random"  # "random", "sparse", "areas"
    longest: int = MIB  # area
    latency_us: int = 0
    rate: int = 0  # bytes per second of one connection
    serial: bool = False
    multi_conn: bool = True
    connections: int = 0  # of ours; 0: as the engine has it
    zero_target: bool = False
    https: bool = False  # from the lab's datastore browser, by nbdkit's curl plugin
    vddk: bool = False  # ours reads by our VDDK plugin, from the lab's library over the same file

    @property
    def delta(self):
        return self.data == "areas"

    @property
    def bound(self):
        """What limits it: only latency gives the same numbers on a busy machine, so only there a gate is a gate."""
        return "latency" if self.latency_us else "cpu"

    def shape(self, mode):
        return self.shapes[mode]

    def least(self, mode):
        """(gate, goal) of the wall ratio. On small disks the start of a copy counts for more."""
        share = 0.7 if mode == "quick" and self.bound == "latency" else 1
        return round(self.gate * share, 2), round(self.goal * share, 2)

    def ranges(self, mode, number):
        """What holds data, or is to be copied, on the disk of this number."""
        shape, seed = self.shape(mode), 1000 + number
        if self.data == "random":
            return disks.whole(shape.size)
        if self.data == "sparse":
            return disks.sparse(shape.size, 1000)  # the same for all disks: they share an image
        return disks.areas(shape.count, self.longest, shape.size, seed)

    def image_key(self, mode, number):
        """Cases with the same key can share the image."""
        shape = self.shape(mode)
        return (self.data, shape.size, shape.count, self.longest if self.delta else 0, number if self.delta else 0)

    def vddk_server(self, image, built, folder):
        """The same for our VDDK plugin; `folder` becomes what looks like an unpacked VDDK that may read local files."""
        folder.mkdir(exist_ok=True)
        (folder / "lab-vddk.conf").write_text("local=yes\n")
        if not (folder / "lib64").exists():
            (folder / "lib64").symlink_to(built / "lib" / "lab-vddk" / "lib64")
        return built / "lib" / "vmferry" / "nbdkit" / "nbdkit-vddk-plugin.so", [f"libdir={folder}", f"file={image}"]

    def folder_command(self, lab, image, folder):
        """The lab's datastore, which has only this image."""
        return [lab, "folder", "--file", image, "--dir", folder, "--latency", f"{self.latency_us}us", "--rate", self.rate / 1e6]

    def server(self, image, plugin, folder=None):
        """Which nbdkit plugin serves it, with which parameters. `folder`: what a lab's datastore says of itself."""
        if self.https:
            return "curl", [f"url=https://{folder['endpoint']}/folder/disk-flat.vmdk", f"cainfo={folder['ca']}"]
        if not self.latency_us:
            return "file", [f"file={image}"]
        return plugin, [f"file={image}", f"latency-us={self.latency_us}", f"rate={self.rate}",
                        f"serial={self.serial:d}", f"multi-conn={self.multi_conn:d}"]

    def peer_commands(self, programs, exports, targets, areas):
        """One for each disk; they run one after another."""
        for export, target, area in zip(exports, targets, areas):
            if self.peer == ONE_CONNECTION:
                yield [programs / "engine", "--uri", export, "--target", target, "--whole-disk", "--connections", "1"]
            elif self.peer == SERIAL:
                yield [programs / "serial_loop", export, target, area]
            elif self.peer == "qemu-img":
                yield ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", "-t", "none", export, target]
            else:
                zero = ["--destination-is-zero"] if self.zero_target else []
                yield ["nbdcopy", "--flush", *zero, export, target]

    def our_command(self, programs, exports, targets, areas, digests):
        command = [programs / "engine"]
        for export, target, area, kept in zip(exports, targets, areas, digests):
            command += ["--uri", export, "--target", target, "--digests", kept]
            if self.delta:
                command += ["--areas", area]
        command += [] if self.delta else ["--whole-disk"]
        command += ["--known-zero"] if self.zero_target else []
        command += ["--connections", self.connections] if self.connections else []
        return command


# A tail that is no whole page, where the peer can copy one.
TAIL = 3 * 512
FULL = {"full": Shape(4 * GIB), "quick": Shape(GIB), "check": Shape(24 * MIB + TAIL)}
HOST = {"full": Shape(GIB), "quick": Shape(256 * MIB), "check": Shape(24 * MIB + TAIL)}
HTTPS = {"full": Shape(256 * MIB), "quick": Shape(64 * MIB), "check": Shape(24 * MIB + TAIL)}
SPARSE = {"full": Shape(8 * GIB), "quick": Shape(2 * GIB), "check": Shape(64 * MIB)}
DELTA = {"full": Shape(8 * GIB, 394), "quick": Shape(2 * GIB, 394), "check": Shape(64 * MIB, 20)}
SCATTERED = {"full": Shape(8 * GIB, 1927), "quick": Shape(2 * GIB, 964), "check": Shape(64 * MIB, 60)}
FOUR_DELTA = {"full": Shape(2 * GIB, 394, 4), "quick": Shape(GIB, 197, 4), "check": Shape(32 * MIB, 10, 4)}
FOUR_FULL = {"full": Shape(4 * GIB, 0, 4), "quick": Shape(GIB, 0, 4), "check": Shape(32 * MIB, 0, 4)}
MS_4 = {"latency_us": 4000}
# The shape of a host that gives out disks through VDDK.
VDDK = {**MS_4, "rate": 200_000_000, "multi_conn": False}

CASES = [
    Case("full", "a disk of random data", "nbdcopy", FULL, 1.5, 2.0, 0.55, 0.45),
    Case("full-qemu", "the same", "qemu-img", FULL, 1.1, 1.3),
    Case("vddk-plugin", "our VDDK plugin on a library that is as fast as memory", FILE_PLUGIN, FULL, 0.9, 0.95, vddk=True),
    Case("vddk-4", "4 ms, 200 MB/s a connection, 4 connections", "nbdcopy", HOST, 3.6, 3.9, **VDDK, connections=4),
    Case("vddk-8", "the same with 8 connections", "nbdcopy", HOST, 6.5, 7.5, **VDDK, connections=8),
    Case("serial-4", "the same, one request at a time, 4 connections", "nbdcopy", HOST, 8, 9, **VDDK, serial=True,
         connections=4),
    Case("serial-8", "the same with 8 connections", "nbdcopy", HOST, 15, 18, **VDDK, serial=True, connections=8),
    Case("https-8", "https from the lab, 4 ms, 20 MB/s a connection, 8 connections", ONE_CONNECTION, HTTPS, 6, 7.5, **MS_4,
         rate=20_000_000, https=True, connections=8),
    Case("sparse-zero", "25 % data, the target is zero", "nbdcopy", SPARSE, 1.6, 2.2, data="sparse", zero_target=True),
    Case("sparse-used", "25 % data, the target was written before", "nbdcopy", SPARSE, 2.2, 3.1, data="sparse"),
    Case("delta-4ms", "394 areas of 64 KiB to 1 MiB, 4 ms", SERIAL, DELTA, 7, 10, data="areas", **MS_4),
    Case("scattered-4ms", "1927 areas of 64 KiB, 4 ms", SERIAL, SCATTERED, 25, 45, data="areas", longest=64 * KIB, **MS_4),
    Case("delta-0ms", "394 areas, no latency", SERIAL, DELTA, 1.2, 2.3, 0.7, data="areas"),
    Case("four-delta-4ms", "four disks, 394 areas each, 4 ms", SERIAL, FOUR_DELTA, 10, 14, data="areas", **MS_4),
    Case("four-full", "four sparse disks, the targets are zero", "nbdcopy", FOUR_FULL, 1.8, 2.5, data="sparse",
         zero_target=True),
]
assert all(shape.size % 512 == 0 and (case.data != "areas" or shape.size % CHUNK == 0)
           for case in CASES for shape in case.shapes.values())
