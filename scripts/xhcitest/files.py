# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the repository, or those of a language: files all, shell or python."""

import re
import subprocess
import sys
from pathlib import Path
from typing import List, Optional

from xhciseries.paths import TOP

_FIRST_LINES = {
    'shell': rb'#!.*\b(ba|da)?sh\b|# shellcheck shell=',
    'python': rb'#!.*\bpython',
}


def language(path: Path) -> Optional[str]:
    """What a file is written in: shell, python, or None."""
    if path.suffix == '.py':
        return 'python'
    with open(path, 'rb') as file:
        first = file.readline(200)
    for name, pattern in _FIRST_LINES.items():
        if re.match(pattern, first):
            return name
    return None


def tracked(of: str = 'all') -> List[Path]:
    """What is in git, or may soon be, from the top of the repository."""
    done = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=TOP,
                          check=True, stdout=subprocess.PIPE)
    paths = [Path(name) for name in done.stdout.decode().split('\0') if name]
    return [path for path in sorted(set(paths)) if (TOP / path).is_file()
            and (of == 'all' or language(TOP / path) == of)]


if __name__ == '__main__':
    print(*tracked(*sys.argv[1:]), sep='\n')
