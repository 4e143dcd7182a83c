# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that run guests share: options, folders, the run itself."""

import argparse
import contextlib
import glob
import os
import shutil
import tempfile
import time
from types import TracebackType
from typing import Iterable, Optional, Sequence, Type

from xhciseries.paths import WORK
from xhciseries.ui import Parser, say

from .qemu import query
from .scenario import Scenario, run_all


def shared_options(prog: str, text: Optional[str], epilog: str,
                   modes: Iterable[str]) -> Parser:
    """A parser for a command that runs guests on a QEMU."""
    parser = Parser(prog, None, text or "", epilog)
    parser.add_argument("--qemu", required=True, metavar="PATH",
                        help="qemu-system-x86_64 to test")
    parser.add_argument("--mode", action="append", choices=list(modes),
                        help="how the controller interrupts; may be repeated")
    parser.add_argument("--seed", type=int, default=1,
                        help="of what is sent and what is on the disks (default: 1)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1),
                        help="guests that run at once (default: 2)")
    return parser


class Folder:
    """A folder for one run, below the work folder. The logs of a failure stay for
    a day, so that they do not pile up.

    Args:
        name: what its own name begins with
        large: files in it that are of no use later
    """

    def __init__(self, name: str, large: Sequence[str] = ()) -> None:
        parent = WORK / "guest"
        parent.mkdir(parents=True, exist_ok=True)
        for old in glob.glob(f"{glob.escape(str(parent))}/run-*"):
            with contextlib.suppress(OSError):
                if os.stat(old).st_mtime < time.time() - 24 * 3600:
                    shutil.rmtree(old)
        self.path = tempfile.mkdtemp(prefix=f"{name}-", dir=parent)
        self.large = large
        self.keep = False

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)
        for name in self.large:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.path, name))


def run_scenarios(what: str, scenarios: Sequence[Scenario], opts: argparse.Namespace,
                  folder: Folder) -> int:
    """Run them, print TAP, and keep the folder if one failed; the exit status."""
    folder.keep = True
    failed = run_all(scenarios, opts.jobs,
                     f"{query(opts.qemu, '--version').splitlines()[0]}, seed {opts.seed}")
    folder.keep = failed > 0
    if failed:
        total = sum(len(s.POINTS) for s in scenarios)
        say(f"{what}: {failed} of {total} failed, logs in {folder.path}")
    return 1 if failed else 0
