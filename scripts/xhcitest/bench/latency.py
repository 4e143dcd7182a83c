# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure how long a key or a pointer move takes to reach a macOS-like guest.

Stock and patched QEMU, each with the PCI pin, MSI and MSI-X, nec-usb-xhci and
qemu-xhci: all these guests run at once and get input at uneven intervals, so
that what else the machine does hits all alike. Then each reads its disk. What
the guest is, and how far it is macOS: docs/macos-guest.md.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import List, Optional, Sequence, Tuple

from xhciseries.paths import WORK
from xhciseries.ui import Error, Parser, die, run_main, say

from ..macos import guest as macos
from ..modes import DEVICES, PROPERTIES, TITLES
from ..qemu import has_property
from . import binaries

INTERVAL = .03, .4              # seconds between two inputs for a guest
INPUTS, QUICK_INPUTS = 400, 80
DISK_SIZE, QUICK_DISK_SIZE = 8 << 20, 2 << 20
DISK_ROUNDS = 5
SETTLE = 2                      # seconds between the start and the first input
SLOW = .05                      # seconds; a median above means: by watchdog
NOTE = 'Milliseconds from the QMP command to the guest\'s line about it.'


class Run:
    """One QEMU, controller and interrupt mode: a row of the table."""

    def __init__(self, which: str, device: str, mode: str) -> None:
        self.which, self.device, self.mode = which, device, mode
        self.guest: Optional[macos.Guest] = None
        self.throughputs: List[float] = []      # MB/s
        self.disk_right = True

    @property
    def name(self) -> str:
        """For logs."""
        return f'{self.which} {self.device} {self.mode}'

    def prepare(self, qemu: str, files: macos.Files) -> None:
        """Make the guest, if the controller has the modes."""
        if not has_property(qemu, self.device, 'msi', 'msix'):
            return
        self.guest = macos.Guest(
            self.name, qemu, 'pc', f'{self.device},{PROPERTIES[self.mode]}',
            files.elf, files.disk, files.dir)

    def works(self) -> bool:
        """Is it there, and does it run?"""
        return self.guest is not None and not self.guest.failure

    @property
    def there(self) -> macos.Guest:
        """The guest, where there is one."""
        assert self.guest
        return self.guest

    def latencies(self) -> List[float]:
        """Of what arrived, sorted, in seconds."""
        return sorted(i.latency for i in self.there.inputs
                      if i.arrived is not None)

    def median(self) -> float:
        """Seconds; NaN if it does not work."""
        return percentile(self.latencies(), 50) if self.works() else math.nan

    def note_disk(self, files: macos.Files) -> None:
        """How fast the disk was read, and whether it is right."""
        assert self.there.disk
        size, crc, us = self.there.disk
        self.throughputs.append(size / us)      # bytes per us: MB/s
        self.disk_right &= (size, crc) == (files.size, files.crc)

    def interrupts_per_input(self) -> float:
        """Of what arrived."""
        counts = [i.interrupts for i in self.there.inputs
                  if i.arrived is not None]
        return (max(counts) - min(counts)) / max(1, len(counts) - 1)

    def cells(self) -> List[str]:
        """Of its row, from p50 on."""
        if not self.guest:
            return ['n/a: no properties msi and msix'] + [''] * 7
        if self.guest.failure:
            # What it says is in the log.
            return [f'**{self.guest.failure.split(":")[0]}**'] + [''] * 7
        times = self.latencies()
        if not times:
            return ['**no input arrived**'] + [''] * 7
        late = sum(i.how == 'watchdog' for i in self.guest.inputs)
        rate = sorted(self.throughputs)[len(self.throughputs) // 2]
        return [*(milliseconds(percentile(times, p)) for p in (50, 99, 100)),
                f'{len(self.guest.lost())}',
                f'{late} of {len(self.guest.inputs)}',
                f'{self.interrupts_per_input():.2f}',
                f'{rate:.1f}' if rate < 10 else f'{rate:.0f}',
                'right' if self.disk_right else '**WRONG**']


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank, of values that are sorted."""
    if not values:
        return math.nan
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)]


def milliseconds(seconds: float) -> str:
    """For the table."""
    ms = 1000 * seconds
    return f'{ms:.2f}' if ms < 10 else f'{ms:.0f}'


# --- what happens ------------------------------------------------------------

def measure(runs: Sequence[Run], files: macos.Files, count: int, seed: str) -> None:
    """Start all, send input to all, and read all disks."""
    guests = [run.guest for run in runs if run.guest]
    say(f'starting {len(guests)} guests (logs: {files.dir})')
    start = time.monotonic()
    macos.start(guests)
    for run in runs:
        if run.guest and run.guest.failure:
            say(f'  {run.name}: {run.guest.failure}')
    say(f'  {time.monotonic() - start:.0f} s; sending {count} inputs to each')
    settled = time.monotonic() + SETTLE
    while time.monotonic() < settled:
        macos.serve(guests, settled)
    start = time.monotonic()
    macos.play(guests, count, INTERVAL, seed)
    say(f'  {time.monotonic() - start:.0f} s; reading disks')
    read_disks([run for run in runs if run.works()], files)


def read_disks(runs: Sequence[Run], files: macos.Files) -> None:
    """Those that wait for watchdogs all at once, the others in turn."""
    slow = [run for run in runs if run.median() > SLOW]
    for run in slow:
        run.there.ask_disk()
    for _ in range(DISK_ROUNDS):
        for run in runs:
            if run not in slow:
                run.there.ask_disk()
                read_end([run], files)
    read_end(slow, files)


def read_end(runs: Sequence[Run], files: macos.Files) -> None:
    """Wait until they are read."""
    macos.wait([run.there for run in runs], lambda g: g.disk,
               macos.DISK_TIMEOUT, 'disk')
    for run in runs:
        if run.works():
            run.note_disk(files)


# --- what is printed ---------------------------------------------------------

def label(mode: str) -> str:
    """Of a mode, where the table says what it is about."""
    return TITLES[mode].split()[-1]


def table(runs: Sequence[Run]) -> List[str]:
    """In Markdown."""
    rows = [['controller', 'interrupts', 'QEMU', 'p50', 'p99', 'max', 'lost',
             'by watchdog', 'interrupts per input', 'disk MB/s', 'contents'],
            ['---'] * 3 + ['---:'] * 7 + ['---']]
    rows += [[run.device, label(run.mode), run.which, *run.cells()]
             for run in runs]
    return ['| ' + ' | '.join(row) + ' |' for row in rows]


def ratios(runs: Sequence[Run]) -> str:
    """Of patched QEMU's medians, pin to MSI-X."""
    medians = {(run.which, run.device, run.mode): run.median() for run in runs}
    found = []
    for device in DEVICES:
        pin, msix = (medians['patched', device, m] for m in ('pin', 'msix'))
        if not math.isnan(pin / msix):
            found.append(f'{device} {pin / msix:.2f}')
    return ('Patched QEMU, median on the pin / with MSI-X: '
            + (', '.join(found) or 'n/a') + '.')


# --- the picture -------------------------------------------------------------

CURVES = (      # which, mode, colour, line width, dash type; later ones on top
    ('stock', 'pin', '#d62728', 3, 1),
    ('patched', 'pin', '#7fb3e0', 6, 1),
    ('patched', 'msi', '#1a7a1a', 2, 1),
    ('patched', 'msix', '#000000', 1.5, 2),
)
POINTS = 200    # of a curve, at most: keeps the file small
TERMINALS = {
    '.svg': 'svg size 760,400 dynamic font "sans-serif,14" background "white"',
    '.png': 'pngcairo size 760,400 font "sans-serif,11" background "white"',
}
SCRIPT = '''
set title "How long keys and pointer moves take to reach the guest's driver"
set xlabel "latency (logarithmic)" offset 0,0.4
set ylabel "inputs that have arrived"
set logscale x
set xrange [{low}:{high}]
set yrange [0:102]
set xtics ("10 us" .01, "0.1 ms" .1, "1 ms" 1, "10 ms" 10, "100 ms" 100, \\
           "1 s" 1000, "10 s" 10000)
set mxtics 10
set ytics 25
set format y "%g%%"
set grid xtics ytics linecolor rgb "#dddddd" linetype 1 linewidth 1
set border 3
set tics nomirror
set key outside below center horizontal maxcols 2 reverse Left samplen 2.5 \\
    spacing 1.2 width -4
'''


def thin(points: Sequence[Tuple[float, float]]) -> List[Tuple[float, float]]:
    """No more than POINTS, and the last one."""
    step = max(1, -(-len(points) // POINTS))
    return [*points[:-1:step], points[-1]]


def draw(path: str, runs: Sequence[Run]) -> None:
    """Cumulative distributions, with the controller that macOS guests get."""
    found = {(run.which, run.mode): run.latencies() for run in runs
             if run.device == 'nec-usb-xhci' and run.works()}
    curves = [c for c in CURVES if found.get(c[:2])]
    times = [t for c in curves for t in found[c[:2]]]
    if not times:
        raise Error('nothing to draw: no input arrived anywhere')
    data: List[str] = []
    plots: List[str] = []
    for number, (which, mode, colour, width, dash) in enumerate(curves):
        values = found[which, mode]
        points = [(1000 * t, 100 * n / len(values))
                  for n, t in enumerate([values[0], *values])]
        data += [f'$c{number} << END',
                 *(f'{x:.4g} {y:.4g}' for x, y in thin(points)), 'END']
        median = milliseconds(percentile(values, 50))
        plots.append(f'$c{number} with steps linewidth {width} dashtype {dash} '
                     f'linecolor rgb "{colour}" title '
                     f'"{which} QEMU, {label(mode)}: median {median} ms"')
    low, high = 800 * min(times), 1250 * max(times)
    script = '\n'.join([
        f'set terminal {TERMINALS[os.path.splitext(path)[1]]}', *data,
        SCRIPT.format(low=low, high=high), 'plot ' + ', '.join(plots), ''])
    p = subprocess.run(['gnuplot'], input=script.encode(), check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        raise Error(f'gnuplot: {p.stderr.decode("utf-8", "replace").strip()}')
    with open(path, 'wb') as f:
        f.write(p.stdout)
    say(f'picture: {path}')


# --- the command -------------------------------------------------------------

def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = Parser('bench/latency', None, __doc__ or '',
                    'Takes three minutes after the builds, one with --quick.')
    binaries.add_arguments(parser)
    parser.add_argument('--quick', action='store_true',
                        help=f'{QUICK_INPUTS} inputs instead of {INPUTS}, and '
                             'a smaller disk')
    parser.add_argument('--picture', metavar='FILE.svg',
                        help='draw the distributions (.png works, too); needs '
                             'the package gnuplot-nox')
    parser.add_argument('--seed', default='1',
                        help='of inputs, intervals and disk content '
                             '(default: %(default)s)')
    args = parser.parse(argv)
    if args.picture:
        args.picture = os.path.abspath(args.picture)
        if os.path.splitext(args.picture)[1] not in TERMINALS:
            parser.error('--picture takes a name that ends with .svg')
        if not os.path.isdir(os.path.dirname(args.picture)):
            parser.error(f'no folder {os.path.dirname(args.picture)}')
        if not shutil.which('gnuplot'):
            die('gnuplot is not installed: install the package gnuplot-nox '
                '(Debian, Ubuntu)')
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('bench/latency', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    found, missing = binaries.given(args)
    found.update(binaries.build(args.base, missing))
    WORK.mkdir(parents=True, exist_ok=True)
    out = tempfile.mkdtemp(prefix='latency-', dir=WORK)
    runs = [Run(which, device, mode) for device in DEVICES
            for mode in PROPERTIES for which in ('stock', 'patched')]
    try:
        files = macos.Files(out, QUICK_DISK_SIZE if args.quick else DISK_SIZE,
                            args.seed)
        for run in runs:
            run.prepare(found[run.which], files)
        measure(runs, files, QUICK_INPUTS if args.quick else INPUTS, args.seed)
    finally:
        for run in runs:
            if run.guest:
                run.guest.close()
    print('\n'.join(table(runs)))
    print(f'\n{NOTE}\n{ratios(runs)}', flush=True)
    if args.picture:
        draw(args.picture, runs)
    shutil.rmtree(out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
