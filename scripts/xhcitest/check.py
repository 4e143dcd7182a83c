# SPDX-License-Identifier: GPL-2.0-or-later
"""Run checks, and count what passes. See scripts/check --help."""

import argparse
import collections
import concurrent.futures
import fnmatch
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from xhciseries import bases
from xhciseries.paths import TOP, WORK
from xhciseries.ui import Parser, die, run_main

from . import checks, tap
from .process import end_all, run_logged

USAGE = '''scripts/check [SUITE...] [--only PATTERN]... [--long] [--jobs N] [--list]
       scripts/check --record BASE
       scripts/check --table'''

TEXT = '''
Check everything: the scripts, and for each base (v10.0, ...) that its series
applies, builds, passes its tests and breaks none of QEMU's; and whether a
series fits Debian sid's QEMU. The last line is "N passed, N failed"; the exit
status is 0 if something ran and nothing failed.

A SUITE is lint, scripts, sid, or a base. Without one: lint, which looks at
the patches of all bases, scripts and sid; v10.0 and the newest base whose
source is available, in full; and the oldest base in short. For another base,
make the tree first, with scripts/tree BASE --source, unless XHCI_SOURCES names
a folder that holds its release.

Each item is a file in scripts/checks that says at its top what it is; to add
one, add a file. These are the items, with what they take on two cores, and
when they run:

{listing}

{runs}
'''


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    runs = '\n'.join(f'  {name:10}{text}' for name, text in checks.RUNS.items())
    parser = Parser('check', USAGE, TEXT.format(listing=checks.listing(), runs=runs))
    parser.add_argument('suites', nargs='*', metavar='SUITE', help=argparse.SUPPRESS)
    parser.add_argument('--only', action='append', default=[], metavar='PATTERN',
                        help="only the items that match, such as 'v10.0/qtest' or '*/am'. What "
                        "would not run otherwise has to be named without a wildcard: 'v9.2/*' "
                        "is a base, and '*/clang' a long item")
    parser.add_argument('--long', action='store_true', help='also what takes long')
    parser.add_argument('--jobs', type=int, default=min(2, os.cpu_count() or 1), metavar='N',
                        help='run up to N items at a time, each of another suite, as most of '
                        'them keep one core busy (default: %(default)s)')
    parser.add_argument('--list', action='store_true', help='print the items that would run')
    parser.add_argument('--record', metavar='BASE',
                        help='run the new qtests on stock QEMU and write down in '
                        'tests/stock/results which of them fail there: with later runs the '
                        'item `stock` compares')
    parser.add_argument('--table', action='store_true',
                        help='print what each check is about, as Markdown')
    return parser.parse(argv)


def wanted(item: checks.Item, suites: Sequence[str], only: Sequence[str], long: bool) -> bool:
    """Is it chosen by the suites and the patterns?

    What takes long, or needs a tree that you have to make, has to be asked for.
    """
    if suites and item.suite not in suites:
        return False
    for pattern in only or ['*']:
        if not fnmatch.fnmatchcase(str(item), pattern):
            continue
        suite, _, name = pattern.partition('/')
        if item.is_long and not long and name != item.name:
            continue
        if suites or suite == item.suite or item.by_default:
            return True
    return False


def choose(args: argparse.Namespace) -> List[checks.Item]:
    """The items that the command line asks for."""
    everything = list(checks.items())
    known = checks.suites(everything)
    for suite in args.suites:
        if suite not in known:
            die(f"no suite '{suite}' (there are: {' '.join(known)}) (see scripts/check --help)")
    chosen = [item for item in everything
              if wanted(item, args.suites, args.only, args.long)]
    if not chosen:
        die('no item matches (see scripts/check --help)')
    return chosen


def prepare(chosen: Sequence[checks.Item]) -> None:
    """Install what they need, and see that the bases can be had."""
    names = {item.suite for item in chosen}
    for base in bases.load():
        tree = Path(bases.tree_path(base)) / '.git'
        if base.name in names and not base.suite and not tree.exists() \
                and not bases.local_source(base):
            die(f'there is no tree of {base.name}, and no Debian suite has it: make it with '
                f'scripts/tree {base.name} --source DIR')
    options: List[str] = []
    if any(item.is_long for item in chosen):
        options = ['--long']
    elif any('clang' in item.needs for item in chosen):
        options = ['--clang']
    if subprocess.run([TOP / 'scripts' / 'setup', *options], check=False).returncode:
        sys.exit(1)


Result = Tuple[tap.Counter, List[str]]


def run(item: checks.Item) -> Result:
    """Run one: what it counted, and what is to be said about it."""
    log = WORK / 'log' / f'check-{str(item).replace("/", "-")}.log'
    counter, start = tap.Counter(), time.monotonic()
    counter.end(run_logged(str(item), item.command, log, counter.feed))
    took = f'{time.monotonic() - start:.0f} s'
    if not counter.failed and not counter.passed:
        return counter, [f'skipped {item}: {counter.why}']
    if not counter.failed:
        return counter, [f'ok      {item}: {counter.passed} passed, {took}']
    return counter, [f'FAILED  {item}: {counter.passed} passed, {counter.failed} failed, {took} '
                     f'(log: {log})', *reasons(log.read_text(errors='replace').splitlines())]


def next_item(waiting: Sequence[checks.Item], used: Set[str]) -> Optional[checks.Item]:
    """The item to start next while the suites in `used` are busy, or None.

    Lint, which is quick, comes first; then the suite that has most left to do,
    so that it does not run alone at the end.
    """
    left: 'collections.Counter[str]' = collections.Counter(lint=sys.maxsize)
    for item in waiting:
        left[item.suite] += item.seconds
    free = [item for item in waiting if not used & item.uses]
    return max(free, key=lambda item: left[item.suite]) if free else None


def run_all(chosen: Sequence[checks.Item], jobs: int) -> Iterator[Result]:
    """Run them, several at a time."""
    waiting = list(chosen)
    busy: 'Dict[concurrent.futures.Future[Result], checks.Item]' = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or busy:
                while len(busy) < jobs:
                    used = {name for item in busy.values() for name in item.uses}
                    new = next_item(waiting, used)
                    if not new:
                        break
                    waiting.remove(new)
                    busy[pool.submit(run, new)] = new
                done, _ = concurrent.futures.wait(
                    busy, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    del busy[future]
                    yield future.result()
        except BaseException:
            end_all()
            raise


def reasons(lines: Sequence[str]) -> List[str]:
    """What a log says about a failure."""
    found: List[str] = []
    for i, line in enumerate(lines):
        point = tap.parse(line)
        if point and not point.ok and len(found) < 20:
            found += lines[i:i + 2] if ''.join(lines[i + 1:i + 2]).startswith('#') else [line]
    return (found or [line for line in lines if 'error: ' in line]
            or list(lines[-1:]))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('check', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    if args.table:
        print(checks.table(), end='')
        return 0
    if args.record:
        base = bases.find(args.record)
        command = [str(checks.FOLDER / 'base' / 'stock'), base.name, '--record']
        return subprocess.run(command, check=False).returncode
    if args.jobs < 1:
        die('--jobs needs a number from 1 (see scripts/check --help)')
    chosen = choose(args)
    if args.list:
        print(*chosen, sep='\n')
        return 0
    prepare(chosen)
    passed = failed = 0
    for counter, text in run_all(chosen, args.jobs):
        print(*text, sep='\n', flush=True)
        passed += counter.passed
        failed += counter.failed
    print(f'{passed} passed, {failed} failed')
    return 0 if passed and not failed else 1


if __name__ == '__main__':
    sys.exit(main())
