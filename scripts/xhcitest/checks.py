# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/check can run: each file in scripts/checks declares itself.

A declaration is a comment at the top of the file, a line for each of

    # Passes if: one sentence, in Markdown; it may go on in the next line
    # Runs: when, one of RUNS
    # Takes: typical time on two cores, such as 20 s or 4 min
    # Needs: what it has to be given, some of NEEDS, or nothing
    # Bases: those that it is for, if not all

The folder is the suite, and base/ stands for each base. What the test scripts
in tests/scripts are called is the suite `scripts`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Set, Tuple

from xhciseries import bases
from xhciseries.paths import TOP
from xhciseries.ui import die

FOLDER = TOP / 'scripts' / 'checks'
TESTS = TOP / 'tests' / 'scripts'

#: When a check runs if it is not asked for by name.
RUNS = {
    'short': 'always; for a base, also in the short run of the oldest one',
    'full': 'for v10.0 and the newest base',
    'long': 'with --long only',
    'stand-in': 'with --long, or if no base newer than v10.0 has a source',
}

#: What the tests of the scripts take, all of them, in minutes.
SCRIPTS_MINUTES = 5

#: What a check can need: lib/check.sh provides it before the check begins, except
#: clang, which scripts/check has installed.
NEEDS = {
    'tree': 'the tree, with the series on it',
    'build': 'the same, and built',
    'stock': 'stock QEMU, built',
    'others': 'the trees and builds of other bases, which nothing else uses meanwhile',
    'clang': 'clang with its libraries, which scripts/setup --clang installs',
}

_FIELDS = ('Passes if', 'Runs', 'Takes', 'Needs', 'Bases')
_UNITS = {'s': 1, 'min': 60, 'h': 3600}


@dataclass(frozen=True)
class Check:
    """A file of scripts/checks."""

    path: Path
    passes: str
    runs: str
    takes: str
    needs: Tuple[str, ...]
    bases: Tuple[str, ...]

    @property
    def suite(self) -> str:
        """Its folder: lint, base or sid."""
        return self.path.parent.name

    @property
    def seconds(self) -> int:
        """How long it takes, as declared."""
        number, unit = self.takes.split()
        return int(number) * _UNITS[unit]

    @property
    def is_long(self) -> bool:
        """Does it have to be asked for?"""
        return self.runs == 'long' or self.runs == 'stand-in' and newest() != 'v10.0'


@dataclass(frozen=True)
class Item:
    """Something to run: a check, for a base if it is one of those."""

    suite: str
    name: str
    command: Tuple[str, ...]
    seconds: int
    runs: str = 'short'
    is_long: bool = False
    needs: Tuple[str, ...] = ()

    @property
    def uses(self) -> Set[str]:
        """What no two items may use at the same time: a suite, so a tree and
        its build, or those of all bases.
        """
        return {base.name for base in bases.load()} if 'others' in self.needs else {self.suite}

    def __str__(self) -> str:
        return f'{self.suite}/{self.name}'

    @property
    def by_default(self) -> bool:
        """Does it run if neither it nor its suite is named, and time allows?"""
        return self.suite in ('lint', 'scripts', 'sid') or is_full(self.suite) \
            or self.suite == oldest() and self.runs == 'short'


def newest() -> str:
    """The newest base that any machine can get."""
    return bases.default_run()[-1].name


def oldest() -> str:
    """The oldest base."""
    return bases.load()[0].name


def is_full(base: str) -> bool:
    """Is this base checked in full by default?"""
    return base in ('v10.0', newest())


def header(path: Path) -> Dict[str, str]:
    """The declaration in a file."""
    found: Dict[str, str] = {}
    field = ''
    for line in path.read_text().splitlines():
        if not line.startswith('#'):
            break
        start = re.fullmatch(rf'# ({"|".join(_FIELDS)}):\s*(.*)', line)
        more = re.fullmatch(r'#\s{2,}(\S.*)', line)
        if start:
            field = start[1]
            if field in found:
                die(f'{path.relative_to(TOP)} declares "{field}" twice')
            found[field] = start[2]
        elif more and field:
            found[field] += ' ' + more[1]
        else:
            field = ''
    return found


def read(path: Path) -> Check:
    """A check, or an error that says what its declaration lacks."""
    fields, where = header(path), path.relative_to(TOP)
    for name in _FIELDS[:3]:
        if not fields.get(name):
            die(f'{where} does not declare "{name}:"')
    check = Check(path, fields['Passes if'], fields['Runs'], fields['Takes'],
                  tuple(fields.get('Needs', '').split()),
                  tuple(fields.get('Bases', '').split()))
    if check.runs not in RUNS:
        die(f'{where}: "Runs:" is {check.runs}, not one of {" ".join(RUNS)}')
    if not re.fullmatch(rf'\d+ ({"|".join(_UNITS)})', check.takes):
        die(f'{where}: "Takes:" is {check.takes}, and not a time such as 20 s or 4 min')
    for need in check.needs:
        if need not in NEEDS:
            die(f'{where}: "Needs:" has {need}, which is none of {" ".join(NEEDS)}')
    return check


def load(suite: str) -> List[Check]:
    """The checks of a folder: what takes long last, else the quick ones first."""
    found = [read(path) for path in (FOLDER / suite).iterdir()
             if path.is_file() and not path.name.startswith('.')]
    return sorted(found, key=lambda c: (c.runs in ('long', 'stand-in'), c.seconds,
                                        c.path.name))


def items() -> Iterator[Item]:
    """All that there is, by suite."""
    def item(check: Check, suite: str) -> Item:
        command = [str(check.path)] + [suite] * (check.suite == 'base')
        return Item(suite, check.path.name, tuple(command), check.seconds, check.runs,
                    check.is_long, check.needs)

    for check in load('lint'):
        yield item(check, 'lint')
    scripts = [path for path in sorted(TESTS.glob('*'))
               if path.is_file() and path.stat().st_mode & 0o100]
    for path in scripts:
        yield Item('scripts', path.name, (str(path),), 60 * SCRIPTS_MINUTES // len(scripts))
    of_bases = load('base')
    for base in bases.load():
        for check in of_bases:
            if not check.bases or base.name in check.bases:
                yield item(check, base.name)
    for check in load('sid'):
        yield item(check, 'sid')


def table() -> str:
    """All checks, as Markdown."""
    lines = ['| item | passes if | takes |', '| --- | --- | --- |']
    for is_long in False, True:
        if is_long:
            lines += ['', 'These run with `scripts/check --long`, or by name, such as '
                      "`--only '*/clang'`;", '`scripts/setup --long` installs what they need:',
                      '', *lines[:2]]
        for suite in 'lint', 'base', 'sid':
            for check in load(suite):
                if (check.runs in ('long', 'stand-in')) == is_long:
                    name = _name(check).replace('|', r'\|')    # even in code
                    lines.append(f'| `{name}` | {check.passes} | {check.takes} |')
            if suite == 'lint' and not is_long:
                lines.append('| `scripts/*` | the tests of the commands in `scripts/` pass; each '
                             f'file of `tests/scripts` is an item | {SCRIPTS_MINUTES} min |')
    return '\n'.join(lines) + '\n'


def _name(check: Check) -> str:
    if check.suite != 'base':
        return f'{check.suite}/{check.path.name}'
    return f'{"|".join(check.bases) or "BASE"}/{check.path.name}'


def listing() -> str:
    """All checks, for --help."""
    lines: List[str] = []
    for suite in 'lint', 'base', 'sid':
        for check in load(suite):
            lines.append(f'  {_name(check):26}{check.takes:>7}  {check.runs}')
        if suite == 'lint':
            lines.append(f'  {"scripts/*":26}{f"{SCRIPTS_MINUTES} min":>7}  short')
    return '\n'.join(lines)


def suites(of: Sequence[Item]) -> List[str]:
    """The names of the suites, in order."""
    return list(dict.fromkeys(item.suite for item in of))
