# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of scripts/diagnose."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from xhciseries.ui import Error, Parser, die, run_main, say

from . import binary, log, plot, running
from .verdict import UNKNOWN, Report

USAGE = '''scripts/diagnose --qemu BINARY [-- QEMU-OPTION...]
       scripts/diagnose --log FILE [--plot FILE.svg]
       scripts/diagnose --qmp SOCKET'''

TEXT = '''
Say whether a guest that uses several event rings, as macOS does, gets its USB
input, which of the patches this QEMU has, and what to do. docs/diagnosis.md has
examples.

  --qemu BINARY     start a small macOS-like guest on any qemu-system-x86_64, for
                    about ten seconds. QEMU-OPTIONs say which controller to try
                    (default: -device nec-usb-xhci,msi=off,msix=off) and may be
                    -device, -global, -machine, -accel, -cpu and -readconfig
  --log FILE        read the log of a QEMU that was started with
                    -trace 'usb_xhci_*' -msg timestamp=on; - is stdin
  --plot FILE.svg   also draw that log as a timeline; needs gnuplot
  --qmp SOCKET      look at a running VM through its QMP socket (a path, or
                    HOST:PORT), and change nothing

The exit status is 0 if all is fine, 1 if affected, and 2 if it could not tell.
'''


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command. An error is no verdict: it has the status of `could not tell`."""
    return run_main('diagnose', lambda: _guarded(argv))


def _guarded(argv: Optional[Sequence[str]]) -> int:
    try:
        return _main(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        raise
    except Error as error:
        say(f'diagnose: error: {error}')
    except OSError as error:
        say(f'diagnose: error: {error.strerror or error}'
            + (f': {error.filename}' if error.filename else ''))
    return UNKNOWN


def _main(words: List[str]) -> int:
    options: List[str] = []
    if '--' in words:
        options = words[words.index('--') + 1:]
        words = words[:words.index('--')]
    parser = Parser('diagnose', USAGE, TEXT)
    for name in ('--qemu', '--log', '--qmp', '--plot'):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse(words)
    if sum(x is not None for x in (args.qemu, args.log, args.qmp)) != 1:
        parser.error('one of --qemu, --log and --qmp, please')
    if options and args.qemu is None:
        parser.error('options for QEMU go with --qemu')
    if args.plot is not None and args.log is None:
        parser.error('--plot goes with --log')
    report = Report()
    if args.qemu is not None:
        path = shutil.which(args.qemu)
        if not path:
            die(f'{args.qemu} is not a program: give the path of a qemu-system-x86_64')
        binary.diagnose(report, str(Path(path).absolute()), options)
    elif args.log is not None:
        if args.plot is not None:
            plot.check(args.plot)
        trace = log.read(args.log)
        log.diagnose(report, trace)
        if args.plot is not None:
            plot.draw(args.plot, trace)
    else:
        running.diagnose(report, args.qmp)
    sys.stdout.write(report.text())
    sys.stdout.flush()
    return report.status
