#!/usr/bin/env python3
"""Is the lab's guest "linux" whole, and does it boot? For images after a migration, converted or not.

  guest_proof.py files IMAGE...                  every file system is clean and every file of its manifest is intact
  guest_proof.py boots [--bus BUS] IMAGE...      the guest boots in QEMU and finds all its files intact itself

The images (raw or qcow2, the first one with the system, in the order of the guest's disks) are only read; what a boot
writes is forgotten. Exit code 0: it is so; 1: it is not; 2: it could not be found out. Nothing here needs KVM.
As a module: files(images) and boots(images) return a Verdict. Needs the packages of `tools/setup conversion`.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import typing

BUSES = {
    # What a cloud offers, and what the guest had before: vSphere's, and an old machine's.
    "virtio": ([], "virtio-blk-pci,drive=disk{0}"),
    "pvscsi": (["-device", "pvscsi,id=scsi"], "scsi-hd,bus=scsi.0,scsi-id={0},drive=disk{0}"),
    "ide": ([], "ide-hd,drive=disk{0}"),
}
LAST_LINE = re.compile(r"guest: (?:\d+ files intact|DAMAGED)\s*$")


class Verdict(typing.NamedTuple):
    good: bool
    words: str


class CannotTell(Exception):
    """The tools failed, which says nothing about the guest."""


def image_format(image):
    with open(image, "rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


def run(command, wait, **options):
    try:
        return subprocess.run(command, text=True, capture_output=True, timeout=wait, **options)
    except FileNotFoundError as problem:
        raise CannotTell(f"{command[0]} is missing: tools/setup conversion") from problem
    except subprocess.TimeoutExpired as problem:
        raise CannotTell(f"{command[0]} did not end within {wait} s") from problem


def files(images, wait=1800):
    """e2fsck and the manifest of the file system in each image's first partition."""
    environment = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg", **os.environ}
    with tempfile.TemporaryDirectory(prefix="guest-proof-") as folder:
        # By label: the appliance's kernel names its disks in any order, and "debug sh" sees those names.
        command = ["guestfish"]
        letters = [chr(ord("a") + i) for i in range(len(images))]
        script = [f'add-drive "{image}" readonly:true format:{image_format(image)} label:image{letter}' for image, letter in zip(images, letters)]
        script.append("run")
        for i, image in enumerate(images):
            device = f"/dev/disk/guestfs/image{letters[i]}1"
            # guestfish's own e2fsck command would repair, which -n does not. "-": go on, so that one run tells all.
            script += [
                f"echo checking {image}",
                f'debug sh "e2fsck -fn {device} 2>&1 || echo e2fsck ended with $?"',
                f"-mount-ro {device} /",
                f"-download /MANIFEST.sha256 {folder}/{i}.manifest",
                f"-checksums-out sha256 / {folder}/{i}.sums",
                "-umount-all",
            ]
        done = run(command, wait, input="\n".join(script) + "\n", env=environment)
        if f"checking {images[0]}" not in done.stdout:
            raise CannotTell(f"guestfish could not open the images: {done.stderr.strip()}")
        if done.returncode != 0 or done.stderr.strip() or "e2fsck ended with" in done.stdout:
            return Verdict(False, f"a file system is not clean or cannot be read:\n{done.stdout}{done.stderr}".rstrip())
        wrong, count = [], 0
        for i, image in enumerate(images):
            expected = sums(pathlib.Path(folder, f"{i}.manifest"))
            found = sums(pathlib.Path(folder, f"{i}.sums"))
            if not expected:
                wrong.append(f"{image}: the manifest is empty")
            for path, checksum in sorted(expected.items()):
                if path not in found:
                    wrong.append(f"{image}: {path} is missing")
                elif found[path] != checksum:
                    wrong.append(f"{image}: {path} is damaged")
            count += len(expected)
    if wrong:
        return Verdict(False, f"{len(wrong)} of {count} files are not as they were:\n  " + "\n  ".join(wrong[:20]))
    return Verdict(True, f"{len(images)} file systems clean, {count} files intact")


def sums(path):
    """What sha256sum wrote: file name -> checksum."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    return {line[66:]: line[:64] for line in lines if line}


def boots(images, bus="virtio", wait=900):
    """Starts the guest and waits for its own verdict on the serial console."""
    controller, device = BUSES[bus]
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "512", "-nodefaults", "-display", "none"]
    command += ["-no-reboot", "-serial", "stdio", *controller]
    for i, image in enumerate(images):
        name = str(image).replace(",", ",,")
        command += ["-drive", f"if=none,id=disk{i},format={image_format(image)},snapshot=on,file={name}"]
        command += ["-device", device.format(i) + f",bootindex={i}"]
    try:
        guest = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except FileNotFoundError as problem:
        raise CannotTell(f"{command[0]} is missing: tools/setup conversion") from problem
    late = threading.Event()

    def stop():
        late.set()
        guest.kill()

    alarm = threading.Timer(wait, stop)
    alarm.start()
    lines = []
    try:
        for line in guest.stdout:
            lines.append(line.rstrip())
            if LAST_LINE.search(line):
                break
    finally:
        alarm.cancel()
        guest.kill()
        guest.wait()
        guest.stdout.close()
    return judge(lines, f"from {bus} disks", late.is_set(), wait)


def judge(lines, where, late=False, wait=None):
    """What the serial console tells, up to the guest's last word. late: it was not waited for any longer."""
    lines = [line for line in lines if line]
    told = "\n  ".join(lines[-20:]) or "(nothing)"
    if lines and re.search(r"guest: \d+ files intact\s*$", lines[-1]):
        return Verdict(True, f"it booted {where}: {lines[-1]}")
    if late:
        within = f" within {wait} s" if wait else ""
        return Verdict(False, f"it said nothing final{within} {where}; its console:\n  {told}")
    return Verdict(False, f"it does not run {where}; its console:\n  {told}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("files", "boots"):
        command = commands.add_parser(name)
        command.add_argument("images", nargs="+", metavar="IMAGE", type=pathlib.Path)
        command.add_argument("--wait", type=int, default={"files": 1800, "boots": 900}[name], help="seconds")
    commands.choices["boots"].add_argument("--bus", choices=BUSES, default="virtio")
    arguments = vars(parser.parse_args())
    act = {"files": files, "boots": boots}[arguments.pop("command")]
    try:
        verdict = act(**arguments)
    except (CannotTell, OSError) as problem:
        print(f"guest-proof: cannot tell: {problem}", file=sys.stderr)
        return 2
    print(f"guest-proof: {'good' if verdict.good else 'NOT GOOD'}: {verdict.words}")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
