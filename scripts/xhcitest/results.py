# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of results: what each test gives, with a column for each QEMU.

tests/stock/results is one. A test that a column does not have is a `-` there.
"""

import collections
import json
import os
import re
import sys
from typing import Dict, List, Sequence, Tuple, Union

from xhciseries.ui import die, run_main

#: pass, fail or skip, and why
Result = Tuple[str, str]

LETTERS = {'pass': 'p', 'fail': 'f', 'skip': 's'}
HEAD = ('# Written by scripts/check --record: p passes, f fails, s is skipped, '
        '- is not there\n')

#: test: {column: letter}
Table = Dict[str, Dict[str, str]]


def read_table(path: str) -> Tuple[List[str], Table]:
    """The names of the columns, and what is in them."""
    with open(path) as file:
        lines = [line for line in file if not line.startswith('#')]
    *columns, _ = lines[0].split()
    table: Table = {}
    for line in lines[1:]:
        *letters, name = line.rstrip('\n').split(None, len(columns))
        table[name] = dict(zip(columns, letters))
    return columns, table


def read_column(path: str, column: str) -> Dict[str, str]:
    """{test: result} of one QEMU."""
    columns, table = read_table(path)
    if column not in columns:
        die(f'{path} has no column {column}')
    results = {letter: result for result, letter in LETTERS.items()}
    return {name: results[row[column]] for name, row in table.items()
            if row[column] in results}


def write_column(path: str, column: str, results: Dict[str, str]) -> None:
    """Replace a column, or add it; the others stay as they are."""
    columns, table = read_table(path) if os.path.exists(path) else ([], {})
    for row in table.values():
        row.pop(column, None)
    for name, result in results.items():
        table.setdefault(name, {})[column] = LETTERS[result]
    columns = sorted({*columns, column}, key=numbers_in_order)
    lines = [' '.join([*columns, 'test'])]
    for name in sorted(table):
        letters = [table[name].get(c, '-') for c in columns]
        if set(letters) != {'-'}:
            cells = [x.ljust(len(c)) for x, c in zip(letters, columns)]
            lines.append(' '.join([*cells, name]))
    with open(path + '.new', 'w') as file:
        file.write(HEAD + '\n'.join(lines) + '\n')
    os.replace(path + '.new', path)


def numbers_in_order(name: str) -> List[Union[int, str]]:
    """To sort v9.2 before v10.0."""
    return [int(part) if part.isdigit() else part
            for part in re.split(r'(\d+)', name)]


def read_json(path: str) -> Dict[str, Result]:
    """What scripts/lib/qtest --json wrote."""
    with open(path) as file:
        found: Dict[str, Result] = json.load(file)
    return found


def by_kind(columns: Dict[str, Dict[str, Result]]) -> List[str]:
    """A table of what passed, by kind of test: what follows the names of buses and
    devices in its path.
    """
    counts: Dict[str, Dict[str, List[int]]] = collections.defaultdict(
        lambda: {name: [0, 0] for name in columns})
    for name, results in columns.items():
        for test, (result, _) in results.items():
            kind = re.search(r'-xhci/(?:.*-tests/)?([^/]+)', test)
            for key in (kind[1] if kind else 'other'), 'all':
                counts[key][name][0] += result == 'pass'
                counts[key][name][1] += result != 'skip'
    counts['all'] = counts.pop('all')
    lines = [' ' * 24 + ''.join(f'{name:>16}' for name in columns)]
    for key, row in counts.items():
        cells = (f'{good} of {of}' for good, of in row.values())
        lines.append(f'  {key:22}' + ''.join(f'{cell:>16}' for cell in cells))
    return lines


def main(argv: Sequence[str]) -> int:
    """For scripts/demo: table NAME=JSON..., or failures JSON."""
    command, *words = argv
    if command == 'table':
        columns = {name: read_json(path) for name, _, path
                   in (word.partition('=') for word in words)}
        print(*by_kind(columns), sep='\n')
    elif command == 'failures':
        print(sum(result == 'fail' for result, _ in read_json(words[0]).values()))
    else:
        die(f"results has no command '{command}'")
    return 0


if __name__ == '__main__':
    sys.exit(run_main('results', lambda: main(sys.argv[1:])))
