"""Connects volumes to this host by os-brick. Built into vmferry, which runs it as `python3 -I` for one act at a time.

A request is one JSON object on standard input, the answer one on standard output: {"done": ...}, {"missing": why} without
os-brick, {"failed": why}. A connection_info is passed on as Cinder gave it; it may hold secrets, so nothing of it is printed
but by os-brick itself in its errors, which vmferry cleans.
"""

import errno
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse

# What is mounted, not connected as a device (os_brick.initiator.connector's RemoteFsConnector), with their option's prefix.
REMOTE_FILE_SYSTEMS = {"nfs": "nfs", "glusterfs": "glusterfs", "scality": "scality", "quobyte": "quobyte", "vzstorage": "vzstorage"}

SYS_BLOCK = "/sys/block"
# How long a device may be in use by those that only look at it: multipathd, LVM's scans.
IN_USE_S = 3


def prepare(request):
    """os-brick ready to act as the root that we are: without sudo and without a privsep daemon."""
    import os_brick
    from os_brick import privileged
    from os_brick.initiator import connector, linuxscsi
    from oslo_concurrency import lockutils
    from oslo_config import cfg
    from oslo_privsep import priv_context

    for context in vars(privileged).values():
        if isinstance(context, priv_context.PrivContext):
            context.set_client_mode(False)  # its functions are called here, oslo_privsep/priv_context.py
    # Locks between all processes of this host that connect volumes (os_brick.initiator.connectors.base.synchronized).
    os.makedirs(request["locks"], mode=0o700, exist_ok=True)
    lockutils.set_defaults(request["locks"])
    cfg.CONF([], project="vmferry", default_config_files=[], default_config_dirs=[])
    os_brick.setup(cfg.CONF)
    # Where multipathd runs it takes every path for itself, so its device has to be used; where not, there is none.
    multipath = linuxscsi.LinuxSCSI.is_multipath_running(False, "")
    return connector, multipath


def address_towards(url):
    """This host's address on the way to Cinder. Nothing is sent: UDP only looks for the route."""
    found = urllib.parse.urlsplit(url)
    family, kind, protocol, _, where = socket.getaddrinfo(found.hostname, found.port or 443, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as way:
        way.connect(where)
        return way.getsockname()[0]


def properties(request):
    connector, multipath = prepare(request)
    address = request["address"] or address_towards(request["towards"])
    found = connector.get_connector_properties("", address, multipath, False, host=request["host"])
    # RBD gives a device instead of a Python object; Cinder's drivers only look whether this host can be given one.
    found["do_local_attach"] = True
    return found


def connector_for(request, connector, multipath):
    info = request["connection_info"]
    kind = info["driver_volume_type"]
    more = {"conn": info, "do_local_attach": True}
    if kind.lower() in REMOTE_FILE_SYSTEMS:
        more[REMOTE_FILE_SYSTEMS[kind.lower()] + "_mount_point_base"] = request["mounts"]
    return connector.InitiatorConnector.factory(kind, "", use_multipath=multipath, **more)


def connect(request):
    os.makedirs(request["mounts"], mode=0o700, exist_ok=True)
    device = connector_for(request, *prepare(request)).connect_volume(request["connection_info"])
    path = device["path"]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        raise RuntimeError(f"os-brick gave no path but {type(path).__name__}")
    return {"path": path, "wwn": device.get("scsi_wwn") or ""}


def disconnect(request):
    info = request.get("connection_info")
    if info:
        volume = connector_for(request, *prepare(request))
        remote = info["driver_volume_type"].lower() in REMOTE_FILE_SYSTEMS
        device = {} if remote else device_info(volume, info)
        # os-brick itself flushes not every kind, takes devices away that are in use, and an unmount tells no errors.
        if remote:
            flush_files(request["mounts"], info["name"])
        for path in [device["path"]] if device else nvme_devices(volume, info):
            flush_device(path)
        # Without force: what cannot be flushed must not be thrown away. What is not connected (any more) is no error.
        volume.disconnect_volume(info, device)
    unmount_below(request["mounts"])
    return {}


def device_info(volume, info):
    """What connect_volume() said, found again: the run that heard it may be gone."""
    try:
        paths = [path for path in volume.get_volume_paths(info) if os.path.exists(path)]
    except Exception:  # RBD and NVMe find theirs by themselves
        paths = []
    return {"type": "block", "path": os.path.realpath(paths[0])} if paths else {}


def nvme_devices(volume, info):
    """What os-brick itself will find (NVMeOFConnector.disconnect_volume). None for RBD: `rbd unmap` refuses what is in use, and the
    kernel writes all when the last one closes it."""
    from os_brick.initiator.connectors import nvmeof

    if not isinstance(volume, nvmeof.NVMeOFConnector):
        return []
    try:
        paths = volume.get_volume_paths(nvmeof.NVMeOFConnProps(info))
    except Exception:  # not connected
        return []
    return [os.path.realpath(path) for path in paths if path and os.path.exists(path)]


def said_by_kernel(*path):
    try:
        with open(os.path.join(SYS_BLOCK, *path), encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def holders(name):
    """Devices on top of this one or of its partitions: a multipath map, its partitions, logical volumes."""
    found = []
    for where in [name] + [os.path.join(name, part) for part in listed(name) if part.startswith(name)]:
        found += listed(os.path.join(where, "holders"))
    return sorted(found)


def listed(folder):
    try:
        return os.listdir(os.path.join(SYS_BLOCK, folder))
    except OSError:
        return []


def flush_device(path):
    """Writes out what the kernel still has for the device, after nobody else has it any more."""
    name = os.path.basename(os.path.realpath(path))
    above = holders(name)
    for dm in above:
        if said_by_kernel(dm, "dm/uuid").startswith("mpath-"):
            return flush_device("/dev/" + dm)  # the one that was used
    # Partitions of a multipath map are maps of their own, which `multipath -f` takes away.
    parts = [dm for dm in above if said_by_kernel(dm, "dm/uuid").startswith("part")]
    for part in parts:
        flush_device("/dev/" + part)
    if above != parts:
        raise in_use(path, [dm for dm in above if dm not in parts])
    # For reading: closing it after writing would make udev look at it while it is taken away. Whoever has it mounted, or a
    # map of it, has it exclusively. fsync() writes the whole device's pages, whoever made them.
    until = time.monotonic() + IN_USE_S
    while True:
        try:
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if parts else os.O_EXCL))
            break
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            if time.monotonic() >= until:
                raise in_use(path, holders(name)) from problem
            time.sleep(0.2)
    try:
        os.fsync(device)
    finally:
        os.close(device)
    return None


def in_use(path, above):
    names = [f"{dm} ({said_by_kernel(dm, 'dm/name')})" if said_by_kernel(dm, "dm/name") else dm for dm in above]
    return RuntimeError(f"{path} is in use on this host{' by ' + ', '.join(names) if names else ' (mounted?)'}: end that first (a volume "
                        "group of the migrated machine that LVM activated: vgchange -an VG, and keep LVM from it by global_filter in "
                        "/etc/lvm/lvm.conf)")


def flush_files(folder, name):
    folder = os.path.realpath(folder)
    for point in mounted():
        path = os.path.join(point, name)
        if os.path.dirname(point) == folder and os.path.exists(path):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def mounted():
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
        points = [line.split(" ")[1] for line in table]
    # Blanks and the like are written in octal, see proc(5).
    return [point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\") for point in points]


def unmount_below(folder):
    """Takes away what os-brick mounted for this volume, which it leaves mounted, and the folders."""
    folder = os.path.realpath(folder)
    for point in reversed(mounted()):
        if os.path.dirname(point) == folder:
            done = subprocess.run(["umount", point], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"umount {point}: {done.stderr.strip()}")
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            os.rmdir(os.path.join(folder, name))
        os.rmdir(folder)


ACTS = {"properties": properties, "connect": connect, "disconnect": disconnect}


def reason(problem):
    # ProcessExecutionError says what the program printed; str() of some of os-brick's exceptions is empty.
    return str(problem).strip() or type(problem).__name__


def main():
    # Whatever a library prints must not get into the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    try:
        reply = {"done": ACTS[request["do"]](request)}
    except ImportError as problem:
        reply = {"missing": reason(problem)}
    except Exception as problem:  # os-brick's errors have no common class
        reply = {"failed": reason(problem)}
    with answer:
        json.dump(reply, answer)


if __name__ == "__main__":
    main()
