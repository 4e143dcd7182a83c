# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks behind the controllers: what is on them, and how it is read."""

import hashlib
import random
from typing import Dict, List, Sequence, Union

from ..qmp import Failure
from .vm import VM, Answer

DISK_MIB = 64

#: MiB from the start, or "all"
Amount = Union[int, str]
#: MD5 of each
Sums = Dict[Amount, str]


def make_disk(path: str, content: random.Random) -> Sums:
    """Write one, and say what must be read from it."""
    sums: Sums = {}
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "wb") as f:
        for mib in range(1, DISK_MIB + 1):
            data = content.randbytes(1 << 20)
            f.write(data)
            md5.update(data)
            sums[mib] = sums["all"] = md5.hexdigest()
    return sums


class Disks:
    """Those of a guest.

    Args:
        numbers: theirs, from 1 on
    """

    def __init__(self, vm: VM, sums: List[Sums], numbers: Sequence[int]) -> None:
        self.vm = vm
        self.disk_sums = sums
        self.disks = numbers

    def begin_reading(self, mib: Amount) -> Answer:
        """Of all disks at the same time."""
        return self.vm.begin(f"read_disks {mib} "
                             + " ".join(map(str, self.disks)))

    def check_reading(self, reading: Answer, mib: Amount) -> None:
        """Wait for it, and compare."""
        status, got = self.vm.finish(reading)
        want = [sums[mib] for sums in self.disk_sums][:len(self.disks)]
        if status or got != want:
            raise Failure(f"read: {' and '.join(got) or 'nothing'}; MD5 "
                          f"expected: {' and '.join(want)}")

    def bytes_read(self) -> List[int]:
        """From each disk."""
        return [b["stats"]["rd_bytes"] for b in self.vm.qmp("query-blockstats")
                if b.get("qdev")]

    def read_since(self, before: List[int]) -> List[int]:
        """Bytes, from each disk."""
        return [now - then for now, then in zip(self.bytes_read(), before)]
