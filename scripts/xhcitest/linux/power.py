# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspend and resume: of the bus, and of the whole guest."""

from typing import List

from ..qmp import Failure
from .inputs import KEYCODES, Inputs
from .interrupts import Interrupts
from .vm import VM


class Power:
    """What sleeps in the guest."""

    def __init__(self, vm: VM, inputs: Inputs, interrupts: Interrupts) -> None:
        self.vm = vm
        self.inputs = inputs
        self.interrupts = interrupts

    def suspend_bus(self) -> None:
        """Both root hubs; Linux suspends the PCI function only with PME."""
        # An open hidraw keeps its device from suspending.
        self.vm.check_command("unwatch_reports")
        self.vm.check_command("runtime_suspend auto")
        status, hubs = self.vm.command(
            "wait_for root_hubs suspended >/dev/null; root_hubs suspended")
        if status:
            raise Failure(f"not suspended: {', '.join(hubs) or 'no root hub'}")

    def wake_bus(self) -> None:
        """By remote wakeup; the key that wakes the bus is not lost.

        Linux keeps interrupts off while a root hub resumes: from 6.15 on with
        IMAN.IE of the interrupter, in older kernels with USBCMD.INTE.
        """
        before = self.interrupts.count()
        self.inputs.expected["evdev", "kbd"] = []
        for press in (True, False):
            self.inputs.expected["evdev", "kbd"].append((KEYCODES["w"][0], int(press)))
            self.inputs.send_key("w", press)
            if press:   # Linux does not suspend a keyboard with a key down.
                hubs = self.vm.command("root_hubs")[1]
                if not any(hub.endswith(" active") for hub in hubs):
                    raise Failure("no root hub is awake with a key down: "
                                  + ", ".join(hubs))
        after = self.interrupts.count()
        # One of the port, one of each report.
        if after - before < 3:
            raise Failure("a wakeup and two reports between interrupt counts "
                          f"{before} and {after}")

    def freeze(self) -> None:
        """Suspend to idle: the root hubs as above, then the controller.

        A key cannot end it: the controller is halted and has no PME.  The
        control line does.
        """
        # Awake: what suspends is the system, not each device by itself.
        self.vm.check_command("runtime_suspend on")
        self.vm.check_command("root_hubs active")
        for _ in range(3):
            seen = len(self.suspends())

            def suspended(seen: int = seen) -> bool:
                return len(self.suspends()) > seen

            status, output = self.vm.sleep_command("freeze", suspended)
            # Woken when it was half asleep it fails.
            if not status and suspended():
                break
        else:
            raise Failure("the guest does not suspend: " + " / ".join(output))
        self.vm.check_command("root_hubs active")

    def suspends(self) -> List[str]:
        """What the kernel said each time that it suspended."""
        return [line for line in self.vm.console()
                if "Suspending console" in line]
