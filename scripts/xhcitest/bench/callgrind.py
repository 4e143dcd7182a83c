# SPDX-License-Identifier: GPL-2.0-or-later
"""Count the instructions that QEMU's xHCI spends on an event and on a transfer.

Runs stock QEMU, stock with conditional-intr-mapping=on (where it has that) and
patched QEMU under callgrind, each with the PCI pin, MSI and MSI-X, and prints
a table. What is measured, and how: bench/README.md.
"""

import argparse
import concurrent.futures
import glob
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Dict, List, Optional, Sequence, Tuple

from xhciseries.paths import WORK
from xhciseries.ui import Error, Parser, die, run_main, say

from ..modes import PROPERTIES
from ..qemu import FIRMWARE_DIRS, Process, has_property
from . import binaries, xhci

# As the table calls them
MODES = {'pin': PROPERTIES['pin'], 'MSI': PROPERTIES['msi'], 'MSI-X': PROPERTIES['msix']}
# Two builds of QEMU, and for stock the callback that it has but does not use.
CONFIGS = {
    'stock': ('stock', ''),
    'opt-in': ('stock', ',conditional-intr-mapping=on'),
    'patched': ('patched', ''),
}
# Every register write comes in here. Callgrind counts only what happens inside.
DISPATCH = 'memory_region_dispatch_write'
# Figure, the function that stands for it, its calls for each transfer.
# A transfer is four register writes: doorbell, IMAN, ERDP low, ERDP high.
FIGURES = (
    ('event', 'xhci_event', 1),
    ('transfer', DISPATCH, 4),
)
# Left out of the figure "transfer": what these cost depends on the state of the
# heap, and so on everything that QEMU did before.
ALLOCATOR = ('malloc', 'calloc', 'realloc', 'free', 'posix_memalign',
             'aligned_alloc')
BARS = {'stock': 0.97, 'opt-in': 0.93}          # of the figure "event"
SHORT = 200                                     # transfers of the shorter run
TIMEOUT = 600                                   # seconds, for one run


# --- the binaries ------------------------------------------------------------

def check_binary(path: str) -> None:
    """The functions that the figures are about must be there by name."""
    done = subprocess.run(['nm', path], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL)
    symbols = {line.split()[-1] for line in done.stdout.splitlines() if line}
    for _, function, _ in FIGURES:
        if not any(is_function(name, function) for name in symbols) or \
                DISPATCH not in symbols:
            raise Error(f'{path} has no symbol {function}: it is stripped, or the '
                        'compiler inlined the function, and its cost cannot be told')
        if any(name.startswith(function + '.part.') for name in symbols):
            raise Error(f'{path}: the compiler inlined a part of {function} into '
                        'its callers, and its cost cannot be told')


def is_function(symbol: str, function: str) -> bool:
    """Whether symbol is function, or a whole clone of it."""
    return re.fullmatch(re.escape(function) + r'(\.(isra|constprop)\.\d+)*',
                        symbol) is not None


#: function: [calls, instructions in it and in what it calls]
Counts = Dict[str, List[int]]
#: (mode, config): {figure: instructions for each transfer}
Found = Dict[Tuple[str, str], Dict[str, float]]


# --- one run -----------------------------------------------------------------

class Job:
    """One QEMU under callgrind, with a number of transfers."""

    def __init__(self, qemu: str, mode: str, config: str, transfers: int, out: str,
                 scratch: str) -> None:
        self.qemu, self.mode, self.config = qemu, mode, config
        self.transfers = transfers
        name = f'{mode}-{config}-{transfers}'
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
                '-device', f'nec-usb-xhci,id=xhci,{xhci.DEVICE},{MODES[self.mode]}'
                           f'{CONFIGS[self.config][1]}',
                '-device', 'usb-kbd,bus=xhci.0']

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
                xhci.Xhci(near, self.mode).run(self.transfers)
            process.terminate()
            process.wait(TIMEOUT)
        except (Error, OSError, subprocess.TimeoutExpired) as e:
            raise Error(f'{self.mode}, {self.config}: {e} (log: {self.log})') from None
        finally:
            if process.proc:
                process.kill()
                process.wait()
        return self.count()

    def count(self) -> Counts:
        """function -> (calls, instructions in it and in what it calls)."""
        names: Dict[str, str] = {}
        function = callee = ''
        counts: Counts = {f: [0, 0] for _, f, _ in FIGURES}
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


def figures(short: Counts, long: Counts, step: int) -> Dict[str, float]:
    """figure -> instructions for each transfer."""
    result: Dict[str, float] = {}
    for figure, function, each in FIGURES:
        calls = long[function][0] - short[function][0]
        if calls != each * step:
            raise Error(f'{step} transfers made {calls} calls of {function} '
                        f'instead of {each * step}: the compiler inlined it in '
                        'some places, or something else was at work')
        result[figure] = (long[function][1] - short[function][1]) / step
    return result


def measure(programs: binaries.Binaries, configs: Sequence[str], lengths: Tuple[int, int],
            out: str, workers: int) -> Found:
    """(mode, config) -> figure -> instructions."""
    running: List[Process] = []
    results: Dict[Tuple[str, str, int], Counts] = {}
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix='xhci-bench-') as scratch:
        jobs = [Job(programs[CONFIGS[config][0]], mode, config, n, out, scratch)
                for mode in MODES for config in configs for n in lengths]

        def work(job: Job) -> Counts:
            if stop.is_set():
                raise Error('stopped')
            return job.run(running)

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(work, job): job for job in jobs}
            try:
                for future in concurrent.futures.as_completed(futures):
                    job = futures[future]
                    results[job.mode, job.config, job.transfers] = future.result()
                    say(f'  {len(results):2} of {len(jobs)}: {job.mode}, '
                        f'{job.config}, {job.transfers} transfers')
            except BaseException:
                stop.set()
                for process in running:
                    process.kill()
                raise
    short, long = lengths
    return {(mode, config): figures(results[mode, config, short],
                                    results[mode, config, long], long - short)
            for mode in MODES for config in configs}


# --- what is printed -----------------------------------------------------------

def table(found: Found, configs: Sequence[str]) -> List[str]:
    """In Markdown."""
    others = [c for c in configs if c != 'patched']
    head = ['instructions per', 'interrupts', *configs,
            *(f'patched / {c}' for c in others)]
    rows = [head, ['---', '---'] + ['---:'] * (len(head) - 2)]
    for figure, _, _ in FIGURES:
        for mode in MODES:
            patched = found[mode, 'patched'][figure]
            rows.append([figure, mode] +
                        [f'{found[mode, c][figure]:.1f}' for c in configs] +
                        [f'{patched / found[mode, c][figure]:.3f}' for c in others])
    return ['| ' + ' | '.join(row) + ' |' for row in rows]


def bars(found: Found, configs: Sequence[str]) -> Tuple[List[str], bool]:
    """Lines for the bars, and whether all are met."""
    lines: List[str] = []
    met = True
    for config, bar in BARS.items():
        if config not in configs:
            continue
        verdicts = []
        for mode in MODES:
            ratio = found[mode, 'patched']['event'] / found[mode, config]['event']
            met = met and ratio <= bar
            verdicts.append(f'{mode} {"met" if ratio <= bar else "MISSED"} '
                            f'({ratio:.4f})')
        lines.append(f'Bar, per event: patched <= {bar:.2f} of {config}: '
                     + ', '.join(verdicts) + '.')
    return lines, met


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = Parser('bench/run', None, __doc__ or '',
                    'Takes one to two minutes after the builds, and needs the package '
                    'valgrind. The\nprofiles stay in the work folder, for '
                    'callgrind_annotate.')
    binaries.add_arguments(parser)
    parser.add_argument('--bars', action='store_true',
                        help='fail if a bar is missed')
    parser.add_argument('--transfers', metavar='N', type=int, default=1000,
                        help='transfers to count, a multiple of '
                             f'{xhci.LAP} (default: %(default)s)')
    parser.add_argument('-j', '--jobs', metavar='N', type=int, default=2,
                        help='how many QEMUs run at a time (default: %(default)s)')
    args = parser.parse(argv)
    if args.transfers < xhci.LAP or args.transfers % xhci.LAP:
        parser.error(f'--transfers must be a multiple of {xhci.LAP}')
    if args.jobs < 1:
        parser.error('--jobs must be at least 1')
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('bench/run', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    found, missing = binaries.given(args)
    for tool, package in (('valgrind', 'valgrind'), ('nm', 'binutils')):
        if not shutil.which(tool):
            die(f'{tool} is not installed: install the package {package} '
                f'(Debian, Ubuntu: apt-get install {package})')

    found.update(binaries.build(args.base, missing))
    for path in found.values():
        check_binary(path)
    if os.path.samefile(found['stock'], found['patched']):
        say('stock and patched are the same program')
    configs = [c for c in CONFIGS if c != 'opt-in' or has_property(
        found['stock'], 'nec-usb-xhci', 'conditional-intr-mapping')]
    if 'opt-in' not in configs:
        say('this stock QEMU has no conditional-intr-mapping: no such column')

    out = str(WORK / 'bench' / (args.base if missing else 'given'))
    os.makedirs(out, exist_ok=True)
    for old in glob.glob(os.path.join(glob.escape(out), '*.callgrind')):
        os.remove(old)
    say(f'counting (profiles and logs: {out})')
    counts = measure(found, configs, (SHORT, SHORT + args.transfers), out,
                     args.jobs)

    print('\n'.join(table(counts, configs)))
    lines, met = bars(counts, configs)
    print()
    print('\n'.join(lines), flush=True)
    if args.bars and not met:
        die('a bar is missed')
    return 0


if __name__ == '__main__':
    sys.exit(main())
