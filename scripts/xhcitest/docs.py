# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the docs that are made from the code."""

import re
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from xhciseries.paths import TOP
from xhciseries.ui import Parser, die, run_main, say

from . import checks, structure

USAGE = 'scripts/docs [--check]'

TEXT = '''
Write the parts of the docs that come from the code: the table of checks in
docs/testing.md, from the declarations in scripts/checks, and the picture in
docs/structure.md, from what the programs use of each other. These parts are
between the comments "NAME: written by scripts/docs" and "end of NAME".

Fails if an arrow of the picture points up, if files need each other, or if
anything but scripts/export writes patches.
'''

#: document: what is made in it, and by what
PARTS: Dict[str, List[Tuple[str, Callable[[], str]]]] = {
    'docs/testing.md': [('checks', checks.table)],
    'docs/structure.md': [('picture', structure.picture)],
}


def renewed(path: Path) -> str:
    """A document with its parts made anew."""
    text = path.read_text()
    where = str(path.relative_to(TOP))
    for name, make in PARTS[where]:
        pattern = rf'(<!-- {name}: written by scripts/docs -->\n).*?(<!-- end of {name} -->)'
        found = list(re.finditer(pattern, text, re.S))
        if len(found) == 1:
            text = ''.join((text[:found[0].end(1)], make(), text[found[0].start(2):]))
        else:
            die(f'{where} must have the comments "{name}: written by scripts/docs" and '
                f'"end of {name}" once')
    return text


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('docs', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('docs', USAGE, TEXT)
    parser.add_argument('--check', action='store_true',
                        help='write nothing; fail if something is not current')
    args = parser.parse(argv)
    wrong = structure.amiss()
    for line in wrong:
        say(f'docs: error: {line}')
    for where in PARTS:
        path = TOP / where
        text = renewed(path)
        if text == path.read_text():
            continue
        if args.check:
            die(f'{where} is not what the code says: run scripts/docs')
        path.write_text(text)
        print(path)
    return 1 if wrong else 0
