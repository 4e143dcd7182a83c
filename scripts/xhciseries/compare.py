# SPDX-License-Identifier: GPL-2.0-or-later
"""Show where the series of two bases differ."""

import argparse
import re
import sys
from typing import List, Optional, Sequence

from .bases import find
from .git import GitError, need_git, scratch
from .ranges import MARKER
from .tree import Tree
from .ui import Parser, die, run_main, scratch_dir

USAGE = 'scripts/compare BASE1 BASE2 [-- OPTION...]'

TEXT = '''
Show where the series of two bases differ, patch by patch, with git
range-diff: `!` marks a patch that differs, and the differences follow; `<` or
`>` marks one that only one of them has. Patches that are the same are not
printed. It compares the trees that scripts/tree and scripts/apply made.

OPTION is for git range-diff, such as --creation-factor=90 or --no-patch.
'''

_HEAD = re.compile(r' *(?:\d+|-):  (?:[0-9a-f]+|-+) ([=!<>]) +(?:\d+|-):  (?:[0-9a-f]+|-+) (.*)')


def without_equals(text: str) -> str:
    """The output of git range-diff without what is the same, and the markers."""
    kept: List[str] = []
    show = True
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            show = head[1] != '=' and not MARKER.match(head[2])
        if show:
            kept.append(line)
    return ''.join(f'{line}\n' for line in kept)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('compare', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    options: List[str] = []
    if '--' in words:
        options = words[words.index('--') + 1:]
        words = words[:words.index('--')]
    parser = Parser('compare', USAGE, TEXT)
    parser.add_argument('bases', nargs='*', metavar='BASE', help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args(words)
    if rest:
        parser.error(f"unknown option '{rest[0]}' (those of git range-diff come after --)")
    if len(args.bases) != 2:
        parser.error('which two bases?')
    need_git()
    trees = [Tree(base) for base in [find(name) for name in args.bases]]
    for tree in trees:
        tree.need_series()
    with scratch_dir('compare') as temp:
        both = scratch(temp / 'both', *(tree.objects for tree in trees))
        series = [f'{tree.repo.commit("base")}..{tree.repo.commit("series")}'
                  for tree in trees]
        try:
            text = both.out('range-diff', '--no-color', *options, *series)
        except GitError as error:
            die(re.sub('^(error|fatal): ', '', error.line))
    sys.stdout.write(without_equals(text))
