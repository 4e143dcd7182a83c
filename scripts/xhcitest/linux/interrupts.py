# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupts of the controller, as Linux counts them."""

import re
from typing import List

from ..modes import LinuxMode
from ..qmp import Failure
from .vm import VM

# A line of /proc/interrupts: its number, the counts of all CPUs, the rest
_COUNTS = re.compile(r"[^:]*:((?:\s+\d+)*)\s.*")


class Interrupts:
    """Which kind they are of, and how many came.

    Args:
        notes: what was seen is added to it
    """

    def __init__(self, vm: VM, mode: LinuxMode, notes: List[str]) -> None:
        self.vm = vm
        self.mode = mode
        self.notes = notes

    def count(self) -> int:
        """How often the controller interrupted; -1 if not at all known."""
        status, lines = self.vm.command("irq_lines")
        if status:
            return -1
        return sum(int(n) for line in lines
                   for n in _COUNTS.sub(r"\1", line + " ").split())

    def check_kind(self) -> None:
        """The kind that the mode is to have, on as many lines as there must be."""
        lines = self.vm.check_command("irq_lines")
        kinds = self.vm.check_command("msi_kinds")
        self.notes += lines
        wrong = [line for line in lines if self.mode.chip not in line]
        if wrong or not lines:
            raise Failure("\n".join(["/proc/interrupts has"] + wrong))
        # A line has the names of all that share it.
        if not self.mode.kinds and [len(re.findall(r"xhci[-_]hcd", line))
                                    for line in lines] \
                != [len(self.mode.controllers)]:
            raise Failure("\n".join([f"{len(self.mode.controllers)} on one "
                                     "line expected, there are"] + lines))
        if set(kinds) != self.mode.kinds:
            raise Failure(f"msi_irqs of the controller: {kinds}, expected "
                          f"{sorted(self.mode.kinds)}")

    def check_count(self, before: int, after_inputs: int, after_disk: int, events: int,
                    more: int = 0) -> None:
        """EVENTS one by one, then a disk read and MORE at the same time."""
        counts = f"{before}, {after_inputs}, {after_disk}"
        self.notes.append("interrupts before input, after it, after the disk: "
                          + counts)
        # Each was waited for before the next: none can share one.
        if (before <= 0 or after_inputs - before < events
                or after_disk <= after_inputs + more):
            raise Failure(f"{events} events and a disk read between interrupt "
                          f"counts {counts}")
