# SPDX-License-Identifier: GPL-2.0-or-later
"""The ranges of a series, and how commits of a tree are told apart by them."""

import re
from dataclasses import dataclass
from typing import Dict, List, Optional

from .git import Repo
from .ui import die


@dataclass(frozen=True)
class Range:
    """Patches NN01 and on. Each end of a range is a finished product."""

    code: str
    name: str
    #: apply refuses a tree that these do not fit; others may be left out
    required: bool = False

    @property
    def marker(self) -> str:
        """The subject of the empty commit with which it begins in a tree."""
        return f'range {self.code}xx: {self.name}'

    @property
    def start(self) -> int:
        """The number of its first patch."""
        return int(self.code) * 100 + 1

    def __str__(self) -> str:
        return f'{self.code}xx {self.name}'


UPSTREAM = Range('00', 'upstream')
CORE = Range('01', 'core', required=True)
INTERRUPTS = Range('02', 'interrupts', required=True)
HARDENING = Range('03', 'hardening')
SPEED = Range('04', 'speed')
TESTS = Range('09', 'tests')

#: In the order in which they are applied.
RANGES = (UPSTREAM, CORE, INTERRUPTS, HARDENING, SPEED, TESTS)

MARKER = re.compile(r'range (\d\d)xx: (\w+)$')


def by_name(word: str) -> Range:
    """`core`, `01` and `01xx` are the same range."""
    for known in RANGES:
        if word in (known.name, known.code, known.code + 'xx'):
            return known
    die(f"unknown range '{word}' (there are: "
        + ' '.join(known.name for known in RANGES) + ')')


def of_patch(name: str) -> Optional[Range]:
    """The range of a patch file, by its number."""
    return next((known for known in RANGES if name.startswith(known.code)), None)


@dataclass(frozen=True)
class Commit:
    """A commit of a series in a tree."""

    sha: str
    parent: str
    subject: str


def of_tree(repo: Repo, where: str, since: str = 'base',
            tip: str = 'series') -> Dict[Range, List[Commit]]:
    """The commits of a tree by range, without the markers.

    Only ranges that have a marker are in the result. Args:
        where: the tree's name, for messages
    """
    if repo.out('rev-list', '--merges', f'{since}..{tip}'):
        die(f'the branch {tip} of {where} has merges: a series is one line of commits')
    found: Dict[Range, List[Commit]] = {}
    here: Optional[Range] = None
    log = repo.out('log', '--reverse', '--topo-order',
                   '--format=%H%x09%P%x09%T%x09%s', f'{since}..{tip}')
    before = repo.out('rev-parse', f'{since}^{{tree}}')
    for line in log.splitlines():
        sha, parent, tree, subject = line.split('\t', 3)
        marker = MARKER.match(subject)
        if marker:
            begun = next((known for known in RANGES if known.marker == subject), None)
            if begun is None:
                die(f'{where}: no such range: {subject}')
            if tree != before:
                die(f"{where}: the marker '{subject}' has changes: it must be an empty commit")
            if here and RANGES.index(begun) <= RANGES.index(here):
                die(f"{where}: '{subject}' comes after '{here.marker}'")
            here = begun
            found[here] = []
        elif here is None:
            die(f"{where}: '{subject}' comes before the first range: begin one "
                f"with git commit --allow-empty -m '{CORE.marker}'")
        elif tree == before:
            die(f"{where}: the commit '{subject}' is empty")
        else:
            found[here].append(Commit(sha, parent, subject))
        before = tree
    return found
