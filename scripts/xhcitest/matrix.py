# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers that others wrote, on stock and patched QEMU: a table of both.

Runs the tests of Linux, of three generations, and of firmware. Fails if
something is amiss with the patches, or worse than without.
"""

import collections
import os
import re
import subprocess
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

from xhciseries.paths import TOP, WORK
from xhciseries.ui import Parser, die, run_main, say

from . import tap

GUEST = TOP / "tests" / "guest"

#: what is tested: why it failed, or None
Results = Dict[str, Optional[List[str]]]

# Debian suites, for their kernels.
SUITES = "bookworm", "trixie", "trixie-backports"
FIRMWARE = {"seabios": "SeaBIOS", "ovmf": "EDK2"}

# The title of a point: its mode, and what it is about
TITLE = re.compile(r"(?:\w+, )?\S+ (\S+) \(\S+\): (.*)")


def fetch(suite: str) -> Tuple[str, str, str]:
    """The folder of the kernel of a Debian suite, the kernel, and its version."""
    p = subprocess.run([GUEST / "fetch-kernel", suite],
                       stdout=subprocess.PIPE, text=True, check=False)
    if p.returncode:
        die(f"no kernel of {suite}, see above")
    top = p.stdout.rstrip("\n").split("\n")[-1]
    name = max(os.listdir(os.path.join(top, "boot")))
    return top, os.path.join(top, "boot", name), name.partition("-")[2]


def run(log: str, *command: Any) -> Dict[str, Results]:
    """By mode, from the TAP of a test."""
    found: Dict[str, Results] = collections.defaultdict(dict)
    p = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    with open(log, "w", encoding="utf-8") as f:
        f.write(p.stdout)
    last: Optional[List[str]] = None
    for line in p.stdout.splitlines():
        point = tap.parse(line)
        match = point and TITLE.fullmatch(point.title)
        if point and match:
            mode, what = match.groups()
            last = None if point.ok else []
            found[mode][what] = last
        elif last is not None and line.startswith("#   "):
            last.append(line[4:])
    if not found:
        die(f"{command[0]} does not run, see above")
    return found


def points(found: Results) -> str:
    """How many passed."""
    return f"{sum(why is None for why in found.values())} of {len(found)}"


def first(why: Optional[List[str]]) -> str:
    """The first line of why, for a table."""
    return (why or ["?"])[0].replace("|", "/")[:110]


def row(driver: str, mode: str, stock: Results, patched: Results) -> Tuple[str, bool]:
    """Its line of the table, and whether all is as it should be."""
    # What stock did not come to is not worth a word.
    better = [f"{what} ({first(stock[what]).partition(': ')[0]})"
              for what in patched
              if patched[what] is None and stock.get(what) is not None
              and (stock[what] or [])[:1] != ["not reached"]]
    amiss = [f"**{what}: {first(why)}**" for what, why in patched.items()
             if why is not None]
    return (f"| {driver} | {mode} | {points(stock)} | {points(patched)} | "
            + ("; ".join(amiss + better) or "-") + " |", not amiss)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main("tests/guest/matrix", lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    p = Parser("tests/guest/matrix", None, __doc__ or "")
    p.add_argument("--qemu", required=True, metavar="PATH",
                   help="the patched qemu-system-x86_64")
    p.add_argument("--stock", required=True, metavar="PATH",
                   help="the unpatched one")
    p.add_argument("--only", metavar="REGEX", default="",
                   help="only the drivers that match, such as EDK2 or Linux")
    opts = p.parse(argv)

    (WORK / "log").mkdir(parents=True, exist_ok=True)
    drivers: List[Tuple[str, List[str], str]] = [
        (f"Linux of {suite}", [], suite) for suite in SUITES]
    drivers += [
        (name, [str(GUEST / "firmware" / "run"), "--firmware", firmware,
                "--mode", "pin", "--mode", "msi", "--mode", "msix"], "")
        for firmware, name in FIRMWARE.items()]
    lines: List[str] = []
    right = True
    for driver, command, suite in drivers:
        if not re.search(opts.only, driver):
            continue
        if suite:
            top, kernel, version = fetch(suite)
            driver = "Linux " + re.sub(r"([+]deb\d+)?-amd64$", "", version)
            command = [str(GUEST / "run"), "--kernel", kernel,
                       "--busybox", os.path.join(top, "bin", "busybox")]
        found = {}
        for which, qemu in (("stock", opts.stock), ("patched", opts.qemu)):
            say(f"drivers: {driver}, {which}")
            log = str(WORK / "log" / "drivers-{}-{}.tap".format(
                re.sub(r"[^\w.+-]", "-", driver), which))
            found[which] = run(log, *command, "--qemu", qemu)
        for mode in found["patched"]:
            line, good = row(driver, mode, found["stock"].get(mode, {}),
                             found["patched"][mode])
            lines.append(line)
            right = right and good
    if not lines:
        die("no driver of that name")
    print("| driver | interrupts | stock | patched | only with the patches |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
