# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU versions that have a series, from patches/bases."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from .paths import PATCHES, WORK
from .ui import die, run_main

COLUMNS = ('base', 'releases', 'suite', 'made', 'commit', 'near', 'since')

Version = Tuple[int, ...]


@dataclass(frozen=True)
class Base:
    """A line of patches/bases; `-` there is None or an empty tuple here."""

    name: str
    releases: Tuple[str, ...]
    suite: Optional[str]
    made: str
    commit: Optional[str]
    near: Tuple[str, ...]
    since: Tuple[str, ...]

    def needs(self, code: str, version: str) -> Optional[str]:
        """The point release that a VERSION is too old for, to have a range.

        None if it is not. A range is named by its code, such as 03.
        """
        mine = numbers(version)
        for entry in self.since:
            name, _, release = entry.partition(':')
            first = numbers(release)
            if name == code and mine[:2] == first[:2] and mine < first:
                return release
        return None

    @property
    def origin(self) -> str:
        """What to name to git for the source that it is made on."""
        return self.commit or f'v{self.made}'


def load() -> List[Base]:
    """All bases, oldest first."""
    table = PATCHES / 'bases'
    names: List[str] = []
    found = []
    for line in table.read_text().splitlines():
        if not line.strip() or line.startswith('#'):
            continue
        cells = line.split()
        if not names:
            names = cells
            if sorted(names) != sorted(COLUMNS):
                die('the first line of patches/bases must name the columns '
                    + ' '.join(COLUMNS))
            continue
        if len(cells) != len(names):
            die(f'patches/bases has a line without {len(names)} columns: {line}')
        row = {name: None if cell == '-' else cell
               for name, cell in zip(names, cells)}
        found.append(Base(
            name=row['base'] or '', releases=_list(row['releases']),
            suite=row['suite'], made=row['made'] or '', commit=row['commit'],
            near=_list(row['near']),
            since=_list(row['since'])))
    return found


def _list(cell: Optional[str]) -> Tuple[str, ...]:
    return tuple(cell.split(',')) if cell else ()


def find(name: str) -> Base:
    """The base of this name, or an error that lists them."""
    for base in load():
        if base.name == name:
            return base
    die(f"unknown base '{name}' (there are: "
        + ' '.join(base.name for base in load()) + ')')


def numbers(version: str) -> Version:
    """9.2.4 as (9, 2, 4), to compare by; anything after the digits is cut."""
    found = re.match(r'\d+(\.\d+)*', version)
    return tuple(int(part) for part in found[0].split('.')) if found else ()


def release_of(version: str) -> Optional[str]:
    """The release line that a VERSION belongs to.

    10.0.3 is of 10.0. 10.0.50 and later are the development of 10.1, and
    9.2.50 that of 10.0, as a year has the releases .0, .1 and .2.
    """
    parts = numbers(version)
    if len(parts) < 2:
        return None
    major, minor = parts[:2]
    if len(parts) > 2 and parts[2] >= 50:
        major, minor = (major + 1, 0) if minor == 2 else (major, minor + 1)
    return f'{major}.{minor}'


def for_version(version: str) -> Optional[Tuple[Base, bool]]:
    """The base that serves a VERSION, and whether it is made for it.

    False is with a base that is merely the nearest. A development tree
    whose release has no base is nearest to the release before.
    """
    release = release_of(version)
    if release is None:
        return None
    for base in load():
        if release in base.releases:
            return base, True
    for base in load():
        if release in base.near:
            return base, False
    before = '.'.join(str(part) for part in numbers(version)[:2])
    if before != release:
        for base in load():
            if before in base.releases + base.near:
                return base, False
    return None


def tree_path(base: Base) -> str:
    """Where scripts/tree puts the tree of a base."""
    return str(WORK / 'trees' / base.name)


def local_source(base: Base) -> Optional[Path]:
    """A tarball of the release that it is made on, or of another of its line.

    In the folder that XHCI_SOURCES names, where there is one.
    """
    folder = os.environ.get('XHCI_SOURCES')
    if not folder:
        return None
    line = '.'.join(base.made.split('.')[:-1])
    found = [path for path in Path(folder).glob(f'qemu-{line}.*')
             if re.fullmatch(r'.*\.tar\.(xz|bz2|gz)', path.name)]
    exact = [path for path in found if path.name.startswith(f'qemu-{base.made}.tar.')]
    found = sorted(exact or found, key=lambda path: numbers(path.name[len('qemu-'):]))
    return found[-1] if found else None


def obtainable() -> List[Base]:
    """Those that any machine can get: from a Debian suite, or local_source()."""
    return [base for base in load() if base.suite or local_source(base)]


def default_run() -> List[Base]:
    """What scripts/check looks at by default: v10.0, and the newest and the oldest
    that any machine can get.
    """
    names = {'v10.0', *(base.name for base in (load()[:1] + obtainable()[-1:]))}
    return [base for base in load() if base.name in names]


def main(argv: Sequence[str]) -> int:
    """For the shell scripts: list, default, obtainable, for VERSION, field BASE
    COLUMN, source BASE.
    """
    command, *words = argv or ['list']
    if command in ('list', 'default', 'obtainable'):
        chosen = {'list': load, 'default': default_run, 'obtainable': obtainable}[command]()
        print(*(base.name for base in chosen), sep='\n')
    elif command == 'for':
        found = for_version(words[0])
        if not found:
            return 1
        print(found[0].name, 'exact' if found[1] else 'near')
    elif command == 'field':
        value = {base.name: base for base in load()}.get(words[0])
        if value:
            cell = getattr(value, words[1])
            print(','.join(cell) if isinstance(cell, tuple) and cell else cell or '-')
    elif command == 'source':
        path = local_source(find(words[0]))
        if path:
            print(path)
    else:
        die(f"bases has no command '{command}'")
    return 0


if __name__ == '__main__':
    sys.exit(run_main('bases', lambda: main(sys.argv[1:])))
