# SPDX-License-Identifier: GPL-2.0-or-later
"""States of guests with xHCI in use, cut and changed, are loaded and used.

Each has to be refused with an error, or QEMU has to go on: no abort, no signal, no
hang, no more than 2 GiB. A state is that of a controller on the pin, MSI or MSI-X with
keyboard, tablet and disk. In the sections of these, one field after the other gets
other values, and so do the bytes of headers and footers; the stream ends early; several
fields change at once. Prints TAP. What fails is printed as a case for --case.
"""

import argparse
import collections
import itertools
import os
import random
import re
import sys
from dataclasses import replace
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from xhciseries.ui import Parser, run_main, say, scratch_dir

from .. import tap
from ..qemu import program
from . import cases, machine
from .cases import Case
from .guest import ORDERS, Guest
from .machine import Scenario
from .stream import Stream

SCENARIOS = tuple(map(Scenario.parse, (
    'nec-usb-xhci,pin,read', 'qemu-xhci,msi,write', 'nec-usb-xhci,msix,status',
    'qemu-xhci,msix,idle')))
#: States between two lines of progress
SAID = 500
#: Cases that are printed for each way to fail
SHOWN = 5


class Bench:
    """Loads streams of one scenario after another.

    Args:
        scratch: a folder for streams and logs
        memory: bytes that a QEMU may map, or `unlimited`
    """

    def __init__(self, qemu: str, scratch: str, memory: str = str(machine.MEMORY)) -> None:
        self.qemu, self.scratch, self.memory = qemu, scratch, memory
        self.saved: Dict[Scenario, Tuple[Guest, Stream]] = {}

    def prepare(self, scenario: Scenario) -> Stream:
        """The stream of a scenario."""
        if scenario.saved not in self.saved:
            path = os.path.join(self.scratch, 'saved')
            guest = machine.save(self.qemu, scenario, path,
                                 os.path.join(self.scratch, 'save.log'))
            with open(path, 'rb') as file:
                self.saved[scenario.saved] = guest, Stream(file.read())
        return self.saved[scenario.saved][1]

    def try_case(self, case: Case) -> Tuple[bool, str]:
        """Whether all is well, and what came."""
        stream = case.stream(self.prepare(case.scenario))
        path = os.path.join(self.scratch, 'stream')
        with open(path, 'wb') as file:
            file.write(stream)
        log = os.path.join(self.scratch, 'load.log')
        with open(log, 'wb'):
            pass
        return machine.load(self.qemu, case.scenario, self.saved[case.scenario.saved][0],
                            path, log, self.memory)


def alike(why: str) -> str:
    """What two failures of one kind have in common."""
    return re.sub(r'0x[0-9a-f]+|\d+', 'N', why)


class Report:
    """Counts what came of the cases, and prints the points."""

    def __init__(self, points: int) -> None:
        self.tap = tap.Writer(points)

    def group(self, bench: Bench, title: str, of: Iterator[Case]) -> None:
        """Try some cases, as one point."""
        came: Dict[str, int] = collections.Counter()
        failed: Dict[str, List[str]] = collections.defaultdict(list)
        for number, case in enumerate(of, 1):
            good, what = bench.try_case(case)
            if number % SAID == 0:
                say(f'{title}: {number} states')
            if good:
                came[what] += 1
            else:
                say(f'{case}: {what}')
                failed[alike(what)].append(f'{case}: {what}')
        count = sum(came.values()) + sum(map(len, failed.values()))
        lines = []
        for found in failed.values():
            lines += found[:SHOWN]
            if len(found) > SHOWN:
                lines.append(f'and {len(found) - SHOWN} more that end like this')
        self.tap.point(not failed and bool(count), f'{title}, {count} states', lines)
        self.tap.note(', '.join(f'{n} times QEMU {what}' for what, n in came.items()))


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = Parser('python3 scripts xhcitest.streams.run', None, __doc__ or '')
    parser.add_argument('--qemu', required=True, help='QEMU binary to test')
    parser.add_argument('--scenario', action='append', metavar='CONTROLLER,MODE,DISK',
                        help='only these; DISK is idle, read, write or status')
    parser.add_argument('--match', default='', metavar='REGEX',
                        help='only the cases that match, such as usb-storage:mode')
    parser.add_argument('--sample', type=int, metavar='N',
                        help='only N states of each scenario, chosen by the seed')
    parser.add_argument('--mixes', type=int, default=500, metavar='N',
                        help='states of each scenario with several changes (500)')
    parser.add_argument('--seed', type=int, help='what is chosen; by default anything')
    parser.add_argument('--case', action='append', metavar='CASE', default=[],
                        help='only this one, as it is printed for a failure')
    parser.add_argument('--keep', metavar='DIR',
                        help='leave the streams and logs of the last case there')
    parser.add_argument('--sanitizer', action='store_true',
                        help='QEMU has AddressSanitizer, which takes any amount of memory')
    return parser.parse(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('streams', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    memory = 'unlimited' if args.sanitizer else str(machine.MEMORY)
    if args.keep:
        os.makedirs(args.keep, exist_ok=True)
        return _run(args, Bench(program(args.qemu), args.keep, memory))
    with scratch_dir('streams') as scratch:
        status = _run(args, Bench(program(args.qemu), str(scratch), memory))
    return status


def _run(args: argparse.Namespace, bench: Bench) -> int:
    if args.case:
        chosen = [Case.parse(text) for text in args.case]
        report = Report(len(chosen))
        for case in chosen:
            report.group(bench, str(case), iter([case]))
        return 1 if report.tap.failed else 0
    seed = random.SystemRandom().randrange(1 << 32) if args.seed is None else args.seed
    scenarios = ([Scenario.parse(text) for text in args.scenario] if args.scenario
                 else SCENARIOS)
    report = Report(2 * len(scenarios))
    report.tap.note(f'seed {seed}')
    for scenario in scenarios:
        rng = random.Random(f'{seed} {scenario}')
        report.group(bench, f'{scenario}: as saved',
                     (Case(replace(scenario, then=then), ()) for then in ORDERS))
        stream = bench.prepare(scenario)
        chosen = [case for case in cases.sweep(scenario, stream)
                  if re.search(args.match, str(case))]
        mixes = (cases.mix(scenario, stream, rng) for _ in itertools.count())
        if args.sample:
            half = args.sample // 2
            chosen = rng.sample(chosen, min(half, len(chosen)))
            chosen += itertools.islice(mixes, args.sample - half)
        elif not args.match:
            chosen += itertools.islice(mixes, args.mixes)
        report.group(bench, f'{scenario}: changed', iter(chosen))
    return 1 if report.tap.failed else 0


if __name__ == '__main__':
    sys.exit(main())
