# SPDX-License-Identifier: GPL-2.0-or-later
"""Run QEMU under callgrind, and count the instructions of its xHCI."""

import argparse
import concurrent.futures
import glob
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from typing import Callable, ContextManager, Dict, List, Optional, Sequence, Tuple

from xhciseries.paths import WORK
from xhciseries.ui import Error, Parser, die, say

from ..modes import PROPERTIES
from ..qemu import FIRMWARE_DIRS, Process
from . import binaries, xhci

# As the tables call them
MODES = {'pin': PROPERTIES['pin'], 'MSI': PROPERTIES['msi'], 'MSI-X': PROPERTIES['msix']}
# Every register write comes in here. Callgrind counts only what happens inside.
DISPATCH = 'memory_region_dispatch_write'
EVENT = 'xhci_event'
COUNTED = (EVENT, DISPATCH)
# Left out of the figures about DISPATCH: what these cost depends on the state of
# the heap, and so on everything that QEMU did before.
ALLOCATOR = ('malloc', 'calloc', 'realloc', 'free', 'posix_memalign',
             'aligned_alloc')
TIMEOUT = 600                                   # seconds, for one run

#: function: [calls, instructions in it and in what it calls]
Counts = Dict[str, List[int]]
#: Drives the controller, over the qtest protocol
Guest = Callable[[socket.socket], None]


# --- the command line ----------------------------------------------------------

def add_arguments(parser: Parser, interrupts: bool = False) -> None:
    """Which binaries, --bars and --jobs; with `interrupts`, also --interrupts."""
    binaries.add_arguments(parser, interrupts)
    parser.add_argument('--bars', action='store_true',
                        help='fail if a bar is missed')
    parser.add_argument('-j', '--jobs', metavar='N', type=int, default=2,
                        help='how many QEMUs run at a time (default: %(default)s)')


def parse(parser: Parser, argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """What these arguments say."""
    args = parser.parse(argv)
    if args.jobs < 1:
        parser.error('--jobs must be at least 1')
    return args


def prepare(args: argparse.Namespace) -> Tuple[binaries.Binaries, str]:
    """The binaries, built where they are not given, and a name for folder().

    Raises Error if what they do cannot be counted.
    """
    found, missing = binaries.given(args)
    check_tools()
    found.update(binaries.build(args.base, missing))
    for path in found.values():
        check_binary(path)
    return found, args.base if missing else 'given'


def conclude(args: argparse.Namespace, lines: Sequence[str], met: bool) -> int:
    """Print a report; the exit status. Raises Error where --bars asks for more."""
    print('\n'.join(lines), flush=True)
    if args.bars and not met:
        die('a bar is missed')
    return 0


# --- the binaries ------------------------------------------------------------

def check_tools() -> None:
    """Raise Error if valgrind or nm is not there."""
    for tool, package in (('valgrind', 'valgrind'), ('nm', 'binutils')):
        if not shutil.which(tool):
            die(f'{tool} is not installed: install the package {package} '
                f'(Debian, Ubuntu: apt-get install {package})')


def check_binary(path: str) -> None:
    """Raise Error if the functions that the figures are about have no symbols."""
    done = subprocess.run(['nm', path], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL)
    symbols = {line.split()[-1] for line in done.stdout.splitlines() if line}
    for function in COUNTED:
        if not any(is_function(name, function) for name in symbols):
            raise Error(f'{path} has no symbol {function}: it is stripped, or the '
                        'compiler inlined the function, and its cost cannot be told')
        if any(name.startswith(function + '.part.') for name in symbols):
            raise Error(f'{path}: the compiler inlined a part of {function} into '
                        'its callers, and its cost cannot be told')
    # Callgrind takes this one by its name alone.
    if DISPATCH not in symbols:
        raise Error(f'{path} has only a clone of {DISPATCH}, and its cost cannot be told')


def is_function(symbol: str, function: str) -> bool:
    """Whether symbol is function, or a whole clone of it."""
    return re.fullmatch(re.escape(function) + r'(\.(isra|constprop)\.\d+)*',
                        symbol) is not None


# --- one run -----------------------------------------------------------------

class Job:
    """One QEMU under callgrind, with a guest.

    Args:
        name: of the profile and the log, and what messages call it
        qemu: the program
        options: of the controller, as for -device
        guest: called with a socket for the qtest protocol
        out: the folder for the profile
        scratch: a folder for what the run leaves behind
        keyboards: how many USB devices there are
    """

    def __init__(self, name: str, qemu: str, options: str, guest: Guest, out: str,
                 scratch: str, keyboards: int = 1) -> None:
        self.name, self.qemu, self.options = name, qemu, options
        self.guest, self.keyboards = guest, keyboards
        self.profile = os.path.join(out, name + '.callgrind')
        self.log = os.path.join(out, name + '.log')
        self.home = os.path.join(scratch, name)

    def command(self) -> List[str]:
        """QEMU's command line, without the socket of the qtest protocol."""
        data = [d for d in FIRMWARE_DIRS if os.path.isdir(d)]
        return ['valgrind', '--tool=callgrind', '--compress-pos=no',
                f'--toggle-collect={DISPATCH}',
                f'--callgrind-out-file={self.profile}', self.qemu,
                *(word for d in data for word in ('-L', d)),
                '-machine', 'pc', '-accel', 'qtest', '-m', '128',
                '-nodefaults', '-no-user-config', '-display', 'none',
                '-qtest', 'chardev:qtest', '-qtest-log', 'none',
                '-device', f'nec-usb-xhci,id=xhci,{xhci.DEVICE},{self.options}',
                *(('-device', 'usb-kbd,bus=xhci.0') * self.keyboards)]

    def run(self, running: List[Process]) -> Counts:
        """Drive it, and count; `running` gets the process."""
        os.mkdir(self.home)
        # Nothing of the user's environment changes what is counted.
        env = {'PATH': os.environ.get('PATH', os.defpath), 'LC_ALL': 'C',
               'HOME': self.home, 'TMPDIR': self.home, 'LD_BIND_NOW': '1'}
        with open(self.log, 'wb'):
            pass
        process = Process(self.command(), self.log, env=env, cwd=self.home)
        near, far = socket.socketpair()
        try:
            process.start({'qtest': far})
            running.append(process)
            with near:
                near.settimeout(TIMEOUT)
                self.guest(near)
            process.terminate()
            process.wait(TIMEOUT)
        except (Error, OSError, subprocess.TimeoutExpired) as e:
            raise Error(f'{self.name}: {e} (log: {self.log})') from None
        finally:
            if process.proc:
                process.kill()
                process.wait()
        return self.count()

    def count(self) -> Counts:
        """function -> (calls, instructions in it and in what it calls)."""
        names: Dict[str, str] = {}
        function = callee = ''
        counts: Counts = {f: [0, 0] for f in COUNTED}
        allocator = calls = 0
        try:
            profile = open(self.profile)
        except OSError:
            raise Error('callgrind wrote no profile '
                        f'(log: {self.log})') from None
        with profile:
            for line in profile:
                if line.startswith(('fn=', 'cfn=')):
                    key, _, value = line.rstrip().partition('=')
                    number, _, name = value.partition(' ')
                    name = names.setdefault(number, name)
                    if key == 'fn':
                        function = name
                    else:
                        callee = name
                elif line.startswith('calls='):
                    calls = int(line[6:].split()[0])
                elif calls:
                    # The line after calls=: what these calls cost.
                    cost = int(line.split()[1])
                    if callee in ALLOCATOR and function not in ALLOCATOR:
                        allocator += cost
                    for wanted, sums in counts.items():
                        if not callee.startswith(wanted) or \
                                not is_function(callee.partition("'")[0], wanted):
                            continue
                        if "'" in callee or is_function(function, wanted):
                            raise Error(f'{wanted} calls itself: its cost would '
                                        f'count twice (profile: {self.profile})')
                        sums[0] += calls
                        sums[1] += cost
                    calls = 0
        counts[DISPATCH][1] -= allocator
        return counts


# --- all runs ----------------------------------------------------------------

def run_all(jobs: Sequence[Job], workers: int) -> Dict[str, Counts]:
    """The counts of each job, by its name."""
    running: List[Process] = []
    results: Dict[str, Counts] = {}
    stop = threading.Event()

    def work(job: Job) -> Counts:
        if stop.is_set():
            raise Error('stopped')
        return job.run(running)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                name = futures[future].name
                results[name] = future.result()
                say(f'  {len(results):2} of {len(jobs)}: {name}')
        except BaseException:
            stop.set()
            for process in running:
                process.kill()
            raise
    return results


def scratch() -> ContextManager[str]:
    """A folder for what the runs leave behind, removed at the end."""
    return tempfile.TemporaryDirectory(prefix='xhci-bench-')


def folder(name: str) -> str:
    """Where profiles and logs go, without the profiles of earlier runs."""
    out = str(WORK / 'bench' / name)
    os.makedirs(out, exist_ok=True)
    for old in glob.glob(os.path.join(glob.escape(out), '*.callgrind')):
        os.remove(old)
    say(f'counting (profiles and logs: {out})')
    return out
