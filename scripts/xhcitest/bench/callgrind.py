# SPDX-License-Identifier: GPL-2.0-or-later
"""Count the instructions that QEMU's xHCI spends on an event and on a transfer.

Runs stock QEMU, stock with conditional-intr-mapping=on (where it has that), QEMU
with core and interrupts only and QEMU with all patches under callgrind, each with
the PCI pin, MSI and MSI-X, and prints a table. What is measured, and how:
bench/README.md.
"""

import argparse
import os
import socket
import sys
from typing import Dict, List, Optional, Sequence, Tuple

from xhciseries.ui import Error, Parser, run_main, say

from ..qemu import has_property
from . import binaries, counting, xhci
from .counting import DISPATCH, EVENT, MODES, Counts

# Builds of QEMU, and for stock the callback that it has but does not use.
CONFIGS = {
    'stock': ('stock', ''),
    'opt-in': ('stock', ',conditional-intr-mapping=on'),
    'interrupts': ('interrupts', ''),
    'patched': ('patched', ''),
}
# Figure, the function that stands for it, its calls for each transfer.
# A transfer is four register writes: doorbell, IMAN, ERDP low, ERDP high.
FIGURES = (
    ('event', EVENT, 1),
    ('transfer', DISPATCH, 4),
)
# Of the figure "event": the most that one may cost, relative to the other
BARS = (
    ('interrupts', 'stock', {'pin': 0.97, 'MSI': 0.97, 'MSI-X': 0.97}),
    ('interrupts', 'opt-in', {'pin': 0.93, 'MSI': 0.93, 'MSI-X': 0.93}),
    ('patched', 'stock', {'pin': 0.75, 'MSI': 0.67, 'MSI-X': 0.67}),
)
SHORT = 200                                     # transfers of the shorter run

#: (mode, config): {figure: instructions for each transfer}
Found = Dict[Tuple[str, str], Dict[str, float]]


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


def guest(mode: str, transfers: int) -> counting.Guest:
    """A guest that does so many transfers."""
    def run(sock: socket.socket) -> None:
        xhci.Xhci(sock, mode).run(transfers)
    return run


def measure(programs: binaries.Binaries, configs: Sequence[str], lengths: Tuple[int, int],
            out: str, workers: int) -> Found:
    """(mode, config) -> figure -> instructions."""
    with counting.scratch() as scratch:
        jobs = []
        for mode, options in MODES.items():
            for config in configs:
                binary, more = CONFIGS[config]
                jobs += [counting.Job(f'{mode}-{config}-{n}', programs[binary],
                                      options + more, guest(mode, n), out, scratch)
                         for n in lengths]
        results = counting.run_all(jobs, workers)
    short, long = lengths
    return {(mode, config): figures(results[f'{mode}-{config}-{short}'],
                                    results[f'{mode}-{config}-{long}'],
                                    long - short)
            for mode in MODES for config in configs}


# --- what is printed -----------------------------------------------------------

def table(found: Found, configs: Sequence[str]) -> List[str]:
    """In Markdown."""
    ratios = [(a, b) for b in ('stock', 'opt-in') for a in ('interrupts', 'patched')
              if a in configs and b in configs]
    head = ['instructions per', 'mode', *configs, *(f'{a} / {b}' for a, b in ratios)]
    rows = [head, ['---', '---'] + ['---:'] * (len(head) - 2)]
    for figure, _, _ in FIGURES:
        for mode in MODES:
            costs = {c: found[mode, c][figure] for c in configs}
            rows.append([figure, mode] + [f'{costs[c]:.1f}' for c in configs] +
                        [f'{costs[a] / costs[b]:.3f}' for a, b in ratios])
    return ['| ' + ' | '.join(row) + ' |' for row in rows]


def bars(found: Found, configs: Sequence[str]) -> Tuple[List[str], bool]:
    """Lines for the bars, and whether all are met."""
    lines: List[str] = []
    met = True
    for config, other, limits in BARS:
        if config not in configs or other not in configs:
            continue
        verdicts = []
        for mode, limit in limits.items():
            ratio = found[mode, config]['event'] / found[mode, other]['event']
            met = met and ratio <= limit
            verdicts.append(f'{mode} {"met" if ratio <= limit else "MISSED"} '
                            f'({ratio:.4f} of {limit:.2f})')
        lines.append(f'Bar, per event, {config} / {other}: '
                     + ', '.join(verdicts) + '.')
    return lines, met


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = Parser('bench/run', None, __doc__ or '',
                    'Takes two to three minutes after the builds, and needs the '
                    'package valgrind. The\nprofiles stay in the work folder, for '
                    'callgrind_annotate.')
    counting.add_arguments(parser, interrupts=True)
    parser.add_argument('--transfers', metavar='N', type=int, default=1000,
                        help='transfers to count, a multiple of '
                             f'{xhci.LAP} (default: %(default)s)')
    args = counting.parse(parser, argv)
    if args.transfers < xhci.LAP or args.transfers % xhci.LAP:
        parser.error(f'--transfers must be a multiple of {xhci.LAP}')
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('bench/run', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    found, name = counting.prepare(args)
    if os.path.samefile(found['stock'], found['patched']):
        say('stock and patched are the same program')
    configs = [c for c, (binary, _) in CONFIGS.items() if binary in found]
    if not has_property(found['stock'], 'nec-usb-xhci', 'conditional-intr-mapping'):
        say('this stock QEMU has no conditional-intr-mapping: no such column')
        configs.remove('opt-in')

    out = counting.folder(name)
    counts = measure(found, configs, (SHORT, SHORT + args.transfers), out,
                     args.jobs)

    lines, met = bars(counts, configs)
    return counting.conclude(args, [*table(counts, configs), '', *lines], met)


if __name__ == '__main__':
    sys.exit(main())
