# SPDX-License-Identifier: GPL-2.0-or-later
"""Count how the cost of an event grows with what there is around it.

Runs stock and patched QEMU under callgrind, with TDs of 1000 to 64,000 TRBs, with
1 to 16 interrupters and with 1 to 15 USB devices, and prints a table. Nothing
may grow faster than the work. What is measured, and how: bench/README.md.
"""

import argparse
import functools
import socket
import sys
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from xhciseries.ui import Error, Parser, run_main

from . import binaries, counting, xhci
from .counting import DISPATCH, EVENT, MODES, Counts

TRBS = (1001, 4001, 16001, 64001)       # in a TD; odd
INTERRUPTERS = (1, 2, 4, 8, 16)
DEVICES = (1, 5, 15)
SHORT, STEP = 300, 1500                 # transfers; whole laps of all rings
BAR = 1.05              # the largest may cost that much, relative to the smallest
WHICH = ('stock', 'patched')


@dataclass(frozen=True)
class Series:
    """A figure, for each of several sizes.

    Args:
        figure: what the table calls it
        function: what stands for it
        of: what there are so many of
        options: of the controller, for a size
        guest: called with a socket for the qtest protocol, a size and a length
        lengths: of the shorter and the longer run
        work: what the longer run does more than the shorter, for a size
        keyboards: how many USB devices there are, for a size
    """

    figure: str
    function: str
    of: str
    sizes: Tuple[int, ...]
    options: Callable[[int], str]
    guest: Callable[[socket.socket, int, int], None]
    lengths: Tuple[int, int]
    work: Callable[[int], float]
    keyboards: Callable[[int], int] = lambda size: 1

    def name(self, which: str, size: int, length: int) -> str:
        """Of a job. Series that differ in nothing but the function share jobs."""
        return f'{self.of}-{size}-{which}-{length}'

    def jobs(self, which: str, qemu: str, out: str, scratch: str) -> List[counting.Job]:
        """All runs of one QEMU."""
        return [counting.Job(
            self.name(which, size, length), qemu, self.options(size),
            functools.partial(self.guest, size=size, length=length),
            out, scratch, self.keyboards(size))
            for size in self.sizes for length in self.lengths]

    def cost(self, results: Dict[str, Counts], which: str, size: int) -> float:
        """Instructions, for each unit of work.

        Raises Error if the longer run did not call the function more often.
        """
        short, long = (results[self.name(which, size, length)][self.function]
                       for length in self.lengths)
        if long[0] == short[0]:
            raise Error(f'{self.function} was not called in the runs for '
                        f'{size} {self.of}')
        return (long[1] - short[1]) / self.work(size)


#: A series, and stock or patched: cost for each size
Measured = List[Tuple[Series, Dict[str, List[float]]]]


def run_td(sock: socket.socket, size: int, length: int) -> None:
    """`length` TDs of `size` TRBs."""
    controller = xhci.Xhci(sock, 'pin', big=True)
    for _ in range(length):
        controller.run_td(size)


def run_interrupters(sock: socket.socket, size: int, length: int) -> None:
    """`length` transfers with events for the last of `size` interrupters."""
    xhci.Xhci(sock, 'MSI-X', rings=size, target=size - 1).run(length)


def run_devices(sock: socket.socket, size: int, length: int) -> None:
    """`length` transfers, of `size` devices in turn."""
    xhci.Xhci(sock, 'pin', devices=size).run(length)


def all_series() -> List[Series]:
    """What is measured."""
    lengths = (SHORT, SHORT + STEP)
    devices = [Series(f'{figure} (pin)', function, 'devices', DEVICES,
                      lambda size: MODES['pin'] + ',p2=15,p3=15', run_devices, lengths,
                      lambda size: STEP, keyboards=lambda size: size)
               for figure, function in (('event', EVENT), ('transfer', DISPATCH))]
    return [
        Series('TRB with an event (BEI)', DISPATCH, 'TRBs', TRBS,
               lambda size: MODES['pin'], run_td, (0, 1), lambda size: size / 2),
        Series('event (MSI-X)', EVENT, 'interrupters', INTERRUPTERS,
               lambda size: f'{MODES["MSI-X"]},intrs={size}', run_interrupters,
               lengths, lambda size: STEP),
        *devices]


def measure(found: binaries.Binaries, out: str, workers: int) -> Measured:
    """Run all, and work out the costs."""
    with counting.scratch() as scratch:
        jobs = {job.name: job for one in all_series() for which in WHICH
                for job in one.jobs(which, found[which], out, scratch)}
        results = counting.run_all(list(jobs.values()), workers)
    return [(one, {which: [one.cost(results, which, size) for size in one.sizes]
                   for which in WHICH})
            for one in all_series()]


def report(measured: Measured) -> Tuple[List[str], bool]:
    """Lines, and whether all bars are met."""
    lines = ['| instructions per | with | stock | patched |',
             '| --- | ---: | ---: | ---: |']
    verdicts, met = [], True
    for one, costs in measured:
        for n, size in enumerate(one.sizes):
            lines.append(f'| {one.figure} | {one.of}: {size} | '
                         f'{costs["stock"][n]:.1f} | {costs["patched"][n]:.1f} |')
        growth = costs['patched'][-1] / costs['patched'][0]
        met = met and growth <= BAR
        verdicts.append(f'Bar, {one.figure}, {one.of}, {one.sizes[-1]} against '
                        f'{one.sizes[0]}: {"met" if growth <= BAR else "MISSED"} '
                        f'({growth:.3f} of {BAR:.2f}).')
    return [*lines, '', *verdicts], met


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = Parser('bench/growth', None, __doc__ or '',
                    'Takes five minutes after the builds, and needs the package '
                    'valgrind. The\nprofiles stay in the work folder, for '
                    'callgrind_annotate.')
    counting.add_arguments(parser)
    return counting.parse(parser, argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('bench/growth', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    found, name = counting.prepare(args)
    lines, met = report(measure(found, counting.folder(f'{name}-growth'), args.jobs))
    return counting.conclude(args, lines, met)


if __name__ == '__main__':
    sys.exit(main())
