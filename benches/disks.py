"""Seeded disks and lists of areas, and whether a target holds what it should. Knows nothing of who copies."""

import bisect
import concurrent.futures
import math
import mmap
import os
import queue
import random
import struct

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CHUNK = 64 * KIB
WINDOW = 4 * MIB  # of everything that is written or compared here
WORKERS = 4
FILLER = 0xA5  # what a target holds before, where it is not zero


def lengths(count, longest, chooser):
    """Whole chunks, as many short ones as long ones on a logarithmic scale."""
    return [max(1, round(math.exp(chooser.uniform(0, math.log(longest // CHUNK))))) * CHUNK for _ in range(count)]


def scatter(wanted, size, chooser):
    """Ranges of the wanted lengths in random places of the disk, at least a chunk apart."""
    spare = size // CHUNK - sum(wanted) // CHUNK - len(wanted)
    if spare < 0:
        raise ValueError(f"{len(wanted)} ranges do not fit in {size} bytes")
    places = sorted(chooser.randint(0, spare) for _ in wanted)
    ranges, used = [], 0
    for place, length in zip(places, wanted):
        ranges.append(((place + used) * CHUNK, length))
        used += length // CHUNK + 1
    return ranges


def whole(size):
    return [(0, size)]


def sparse(size, seed):
    """A quarter of the disk is data, in extents of 64 KiB to 8 MiB."""
    chooser = random.Random(seed)
    longest = min(8 * MIB, size // 8)
    wanted = []
    while sum(wanted) < size // 4:
        wanted += lengths(1, longest, chooser)
    return scatter(wanted, size, chooser)


def areas(count, longest, size, seed):
    chooser = random.Random(seed)
    return scatter(lengths(count, longest, chooser), size, chooser)


def write_areas(path, ranges):
    path.write_text("".join(f"{offset} {length}\n" for offset, length in ranges))


def make_image(path, size, ranges, seed):
    """A file with random bytes in the ranges and holes elsewhere. Every chunk knows its place, so that one that comes
    to stand elsewhere is noticed."""
    pool = random.Random(seed).randbytes(4 * WINDOW)
    with open(path, "wb", buffering=0) as file:
        file.truncate(size)
        for begin, length in ranges:
            for offset in range(begin, begin + length, WINDOW):
                count = min(WINDOW, begin + length - offset)
                start = offset * 7 % (3 * WINDOW)
                piece = bytearray(pool[start : start + count])
                for at in range(0, count - 15, CHUNK):
                    struct.pack_into("<QQ", piece, at, seed, offset + at)
                os.pwrite(file.fileno(), piece, offset)


def windows(ranges):
    for begin, length in ranges:
        for offset in range(begin, begin + length, WINDOW):
            yield offset, min(WINDOW, begin + length - offset)


def outside(ranges, size):
    """What the sorted ranges leave of the disk."""
    rest, at = [], 0
    for offset, length in [*ranges, (size, 0)]:
        if offset > at:
            rest.append((at, offset - at))
        at = offset + length
    return rest


def each_window(ranges, act):
    """What act(buffer, offset, count) makes of each window, in order. The buffers fit direct I/O."""
    spare = queue.SimpleQueue()
    for _ in range(WORKERS):
        spare.put(mmap.mmap(-1, WINDOW))

    def one(window):
        buffer = spare.get()
        try:
            return act(buffer, *window)
        finally:
            spare.put(buffer)

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        yield from pool.map(one, windows(ranges))


def fill(device, ranges, byte):
    """Writes the byte everywhere in the ranges, past the page cache."""
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)

    def write(buffer, offset, count):
        buffer[:count] = bytes([byte]) * count
        done = 0
        while done < count:
            with memoryview(buffer) as view, view[done:count] as rest:
                done += os.pwrite(fd, rest, offset + done)

    try:
        for _ in each_window(ranges, write):
            pass
        os.fsync(fd)
    finally:
        os.close(fd)


def difference(device, image, size, ranges, background):
    """The first offset at which the device is not as it should be: the image's bytes in the sorted ranges, the
    background elsewhere (None: the image's everywhere). None: it is."""
    begins = [offset for offset, _ in ranges]
    target, source = os.open(device, os.O_RDONLY | os.O_DIRECT), os.open(image, os.O_RDONLY)

    def expected(offset, count):
        if background is None:
            return os.pread(source, count, offset)
        piece = bytearray([background]) * count
        at = max(bisect.bisect_right(begins, offset) - 1, 0)
        while at < len(ranges) and ranges[at][0] < offset + count:
            begin, end = max(ranges[at][0], offset), min(sum(ranges[at]), offset + count)
            if begin < end:
                piece[begin - offset : end - offset] = os.pread(source, end - begin, begin)
            at += 1
        return piece

    def compare(buffer, offset, count):
        with memoryview(buffer) as view, view[:count] as part:
            got = os.preadv(target, [part], offset)
        found, wanted = buffer[:got], expected(offset, count)
        if found == wanted:
            return None
        return offset + next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), min(got, len(wanted)))

    try:
        return next((at for at in each_window(whole(size), compare) if at is not None), None)
    finally:
        os.close(target)
        os.close(source)
