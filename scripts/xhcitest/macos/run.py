# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a guest that drives xHCI as macOS does, and see whether QEMU tells it of
every event.

With keyboard, tablet and disk on the pin, MSI and MSI-X, on pc and q35, for
nec-usb-xhci and qemu-xhci; prints TAP. docs/macos-guest.md has what the guest
takes from macOS.
"""

import argparse
import sys
from typing import Callable, List, Optional, Sequence, Tuple, Union

from xhciseries.ui import run_main, say

from ..guests import Folder, shared_options
from ..modes import DEVICES, PROPERTIES, TITLES
from ..qemu import has_property, program, query
from ..qmp import Failure
from ..tap import Writer
from . import guest as macos
from .guest import Files, Guest, Input

MACHINES = "pc", "q35"
INPUTS = 60
INTERVAL = .03, .2      # seconds between two inputs
DISK_SIZE = 2 << 20


#: (title, what raises Failure if that is not so)
Point = Tuple[str, Callable[[], None]]


def progress(text: str) -> None:
    """A line for whoever waits."""
    say(f"macOS-like guest: {text}")


class Case:
    """A guest, and what has to be true of it in the end: (title, check)."""

    def __init__(self, qemu: str, machine: str, device: str, mode: str, files: Files,
                 stock: bool = False) -> None:
        self.mode = mode
        self.crc = files.crc
        self.stock = stock
        name = f"{device} {mode} ({machine}{', stock' if stock else ''})"
        self.guest = Guest(name, qemu, machine, f"{device},{PROPERTIES[mode]}",
                           files.elf, files.disk, files.dir)
        points: List[Point] = [
            (f"starts with {TITLES[mode]}", self.check_start)]
        if stock:
            # What the guest is for: it must see the difference.
            points += [("most inputs wait for the watchdog",
                        self.check_waits)]
        else:
            points += [(f"{INPUTS} inputs arrive, in order",
                        self.check_inputs),
                       ("each of them by an interrupt, on the right ring",
                        self.check_interrupts),
                       ("the disk's contents are right", self.check_disk)]
        self.points = [(f"{name}: {title}", check) for title, check in points]

    def check_start(self) -> None:
        """The mode, and what it found."""
        if self.guest.ready != self.mode:
            raise Failure(f"mode {self.guest.ready}")
        missing = set(macos.USB_DEVICES) - set(self.guest.found)
        if missing:
            raise Failure(f"not found: {' '.join(sorted(missing))}")

    def check_inputs(self) -> None:
        """None lost, none more."""
        lost = self.guest.lost()
        if lost or self.guest.unexpected or len(self.guest.inputs) != INPUTS:
            raise Failure(
                f"{len(self.guest.inputs)} sent, {len(lost)} lost or out of "
                f"order, not sent: {self.guest.unexpected[:3]}")

    def arrived(self) -> List[Input]:
        """Those of which something can be said."""
        items = [i for i in self.guest.inputs if i.arrived is not None]
        if not items:
            raise Failure("no input arrived")
        return items

    def check_interrupts(self) -> None:
        """How they were signalled, and on which ring."""
        items = self.arrived()
        waited = [i for i in items if i.how != "interrupt"]
        if waited:
            raise Failure(f"{len(waited)} of {len(items)} by the watchdog, "
                          f"the first on ring {waited[0].ring}")
        ring = 0 if self.mode == "pin" else 1
        wrong = [i for i in items if i.ring != ring]
        if wrong:
            raise Failure(f"{len(wrong)} of {len(items)} on ring "
                          f"{wrong[0].ring} and not on {ring}")

    def check_waits(self) -> None:
        """As on stock QEMU."""
        items = self.arrived()
        waited = [i for i in items if i.how == "watchdog"]
        if len(waited) <= len(items) // 2:
            raise Failure(f"only {len(waited)} of {len(items)}")

    def check_disk(self) -> None:
        """Its size and CRC."""
        want = DISK_SIZE, self.crc
        if not self.guest.disk or self.guest.disk[:2] != want:
            raise Failure(f"{self.guest.disk}, expected {want}")


class Refusal:
    """The guest wants no controller with less than 4 interrupters."""

    def __init__(self, qemu: str, files: Files) -> None:
        name = "nec-usb-xhci,intrs=2"
        self.guest = Guest(name, qemu, "pc", name, files.elf, files.disk,
                           files.dir)
        self.points: List[Point] = [(f"{name} is refused, as by macOS", self.check)]

    def check(self) -> None:
        """It says so."""
        want = "error: MaxIntrs is 2"
        if not self.guest.failure.startswith(want):
            raise Failure(f"{self.guest.failure or 'it is driven'}, "
                          f"expected {want}")


AnyCase = Union[Case, Refusal]


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    p = shared_options("tests/guest/macos/run", __doc__,
                       "Takes half a minute.  --mode, --device and --machine "
                       "may be repeated.\nFiles go below $XHCI_WORK (default: work); "
                       "those of a failure stay a day.", modes=PROPERTIES)
    p.add_argument("--stock", metavar="PATH",
                   help="unpatched QEMU: see that the pin does not work there")
    p.add_argument("--device", action="append", choices=DEVICES)
    p.add_argument("--machine", action="append", choices=MACHINES)
    opts = p.parse(argv)
    opts.qemu = program(opts.qemu)
    opts.stock = opts.stock and program(opts.stock)
    return opts


def make_cases(opts: argparse.Namespace, files: Files) -> List[AnyCase]:
    """All that is to be run."""
    cases: List[AnyCase] = []
    for device in opts.device or DEVICES:
        # Before 10.0 only nec-usb-xhci has them, unless patched.
        if not has_property(opts.qemu, device, "msi", "msix"):
            raise Failure(f"{device} of {opts.qemu} has no properties msi "
                          "and msix")
        cases += [Case(opts.qemu, machine, device, mode, files)
                  for machine in opts.machine or MACHINES
                  for mode in opts.mode or PROPERTIES]
    if opts.stock:
        cases.append(Case(opts.stock, "pc", "nec-usb-xhci", "pin", files,
                          stock=True))
    cases.append(Refusal(opts.qemu, files))
    return cases


def run_guests(cases: Sequence[AnyCase], seed: str) -> None:
    """From start to summary."""
    guests = [case.guest for case in cases]
    progress(f"starting {len(guests)} guests")
    macos.start(guests)
    progress("sending input")
    macos.play(guests, INPUTS, INTERVAL, seed)
    progress("reading disks")
    # On stock QEMU every transfer takes a second.
    readers = [case.guest for case in cases
               if isinstance(case, Case) and not case.stock]
    for guest in readers:
        guest.ask_disk()
    macos.wait(readers, lambda g: g.disk, macos.DISK_TIMEOUT, "disk")
    for guest in guests:
        guest.ask_summary()
    macos.wait(guests, lambda g: g.summary, macos.SUMMARY_TIMEOUT, "summary")


def report(cases: Sequence[AnyCase], tap: Writer) -> None:
    """The results, in TAP."""
    for case in cases:
        before = tap.failed
        for title, check in case.points:
            try:
                check()
                tap.point(True, title)
            except Failure as e:
                tap.point(False, title, str(e).split("\n"))
        if case.guest.summary:
            tap.note(case.guest.summary)
        if tap.failed > before:
            if case.guest.failure:
                tap.note(case.guest.failure)
            tap.note(f"logs: {case.guest.log}.*")


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main("tests/guest/macos/run", lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    opts = parse(argv)
    cases: List[AnyCase] = []
    with Folder("run-macos") as folder:
        seed = str(opts.seed)
        files = Files(folder.path, DISK_SIZE, seed)
        cases = make_cases(opts, files)
        tap = Writer(sum(len(case.points) for case in cases))
        tap.note(f"{query(opts.qemu, '--version').splitlines()[0]}, seed {seed}")
        folder.keep = True
        try:
            run_guests(cases, seed)
            report(cases, tap)
        finally:
            for case in cases:
                case.guest.close()
        folder.keep = tap.failed > 0
    return 1 if tap.failed else 0


if __name__ == "__main__":
    sys.exit(main())
