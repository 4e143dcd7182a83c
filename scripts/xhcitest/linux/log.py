# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log: what must be in it, and what must not."""

import re
from typing import List, Set

from ..qmp import Failure
from .vm import VM

# What the kernel says when a controller does not do its part.
COMPLAINTS = re.compile(
    r"(xhci|usb|hid).*\b(error|died|not responding|tim(ed|e) ?out|warn|fail"
    r"|lost|abort|stall|spurious|cannot|can't|unable|not accept|disconnect"
    r"|reset )"
    r"|nobody cared|Disabling IRQ|I/O error|blocked for more than"
    r"|Kernel panic|kernel BUG at|Oops|general protection", re.I)

# What it says before it ends QEMU.
PANIC = re.compile(r"Kernel panic|BUG|Oops|general protection|RIP:")

# What it says when the whole system resumes.  QEMU's controller refuses to
# restore its state, so Linux starts it anew and resets what is behind it.
SYSTEM_SUSPEND = "PM: suspend entry", "PM: suspend exit"
RESUME_TALK = re.compile(
    r"xhci_hcd \S+: xHC error in resume, USBSTS 0x\w+, Reinit$"
    r"|usb \S+: root hub lost power or was reset$"
    r"|usb \S+: reset [\w -]+ USB device number \d+ using xhci_hcd$")


class KernelLog:
    """That of a guest; `unplugged` has the lines that it must have once each."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.unplugged: List[str] = []

    def check(self) -> None:
        """No complaint, and each unplugged device is named once."""
        lines = self.vm.console()
        # An empty or cut log must not pass for a clean one.
        if not any("xhci_hcd" in line for line in lines):
            raise Failure("no xhci_hcd in the kernel log")
        bad: List[str] = []
        resets: Set[str] = set()
        suspended = False
        unplugged = list(self.unplugged)
        for line in lines:
            text = line.partition("] ")[2]
            if any(mark in line for mark in SYSTEM_SUSPEND):
                suspended = SYSTEM_SUSPEND[0] in line
                resets.clear()
            elif text in unplugged:
                unplugged.remove(text)      # each of them once
            elif COMPLAINTS.search(line):
                talk = suspended and RESUME_TALK.search(line)
                # Once each is enough.
                if not talk or talk[0] in resets:
                    bad.append(line)
                else:
                    resets.add(talk[0])
        if bad:
            raise Failure("\n".join(bad[:10]))
        if unplugged:
            raise Failure("\n".join(["not in the log:"] + unplugged))

    def panics(self) -> List[str]:
        """What the kernel said before it ended QEMU."""
        return [line for line in self.vm.console() if PANIC.search(line)]
