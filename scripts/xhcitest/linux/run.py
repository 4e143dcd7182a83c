# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot Linux on a QEMU and see whether its xHCI delivers every event."""

import argparse
import sys
from typing import Optional, Sequence

from xhciseries.ui import run_main

from ..guests import Folder, run_scenarios, shared_options
from ..modes import LINUX, OTHER
from ..qemu import has_property, program, query
from ..qmp import Failure
from .boot import SHARED_FILES, Boot, Files

EPILOG = """\
modes (all of them if none is given):
  pin          controller without MSI and MSI-X, guest with pci=nomsi
  pin-capable  controller with both, guest with pci=nomsi
  msi, msix    controller with only that
  two          two controllers as for pin, one of each kind, that share a line

--mode, --device and --machine may be repeated: every combination is run.
Files go below $XHCI_WORK (default: work); the logs of a failure are kept for a day.
Arguments after -- are given to QEMU."""


def check_devices(opts: argparse.Namespace) -> None:
    """Before 10.0 only nec-usb-xhci has msi and msix, unless patched."""
    listed = query(opts.qemu, "-device", "help")
    opts.with_msi = set()
    names = [device.split(",")[0] for device in opts.device]
    second = [OTHER[name] for name in names if "two" in opts.mode and name in OTHER]
    for name in dict.fromkeys(names + second):
        if f'name "{name}"' not in listed:
            raise Failure(f"{opts.qemu} has no device '{name}'")
        missing = [prop for prop in ("msi", "msix")
                   if not has_property(opts.qemu, name, prop)]
        if not missing:
            opts.with_msi.add(name)
        elif name in names:
            raise Failure(f"{name} of this QEMU has no property "
                          f"'{missing[0]}'")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    extra: Sequence[str] = []
    if "--" in argv:
        at = argv.index("--")
        argv, extra = argv[:at], argv[at + 1:]
    p = shared_options("tests/guest/run", __doc__, EPILOG, modes=[*LINUX, "all"])
    p.add_argument("--kernel", metavar="DIR/boot/vmlinuz-VERSION",
                   help="kernel, with modules in DIR/lib/modules/VERSION "
                   "(default: Debian's, from fetch-kernel)")
    p.add_argument("--busybox", metavar="PATH",
                   help="static busybox (default: the one fetched; /bin/"
                   "busybox with --kernel)")
    p.add_argument("--device", action="append", metavar="NAME[,PROP=VALUE]",
                   help="nec-usb-xhci (default) or qemu-xhci")
    p.add_argument("--machine", action="append", metavar="NAME",
                   help="pc (default) or q35")
    p.add_argument("--timeout", type=int, default=60, metavar="SECONDS",
                   help="for one event to arrive or one device to appear; "
                   "all take milliseconds (default: 60)")
    opts = p.parse(argv)
    opts.qemu_args = extra
    opts.device = opts.device or ["nec-usb-xhci"]
    opts.machine = opts.machine or ["pc"]
    if not opts.mode or "all" in opts.mode:
        opts.mode = list(LINUX)
    if opts.jobs < 1 or not 1 <= opts.timeout <= 120:
        p.error("--jobs starts at 1, --timeout is 1 to 120")
    opts.qemu = program(opts.qemu)
    return opts


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main("tests/guest/run", lambda: _main(argv or sys.argv[1:]))


def _main(argv: Sequence[str]) -> int:
    opts = parse(argv)
    check_devices(opts)
    with Folder("run", SHARED_FILES) as folder:
        files = Files(opts, folder.path)
        boots = [Boot(device, machine, mode, opts, files, folder.path)
                 for device in opts.device for machine in opts.machine
                 for mode in opts.mode]
        return run_scenarios("guest test", boots, opts, folder)


if __name__ == "__main__":
    sys.exit(main())
