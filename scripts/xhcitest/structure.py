# SPDX-License-Identifier: GPL-2.0-or-later
"""The structure of the repository, read from the programs themselves.

What a file uses: modules that it imports, shell libraries that it sources and
modules that it runs. What it runs: other programs of the repository. Both are
found in the text; a name that is put together while a program runs is not.
"""

import ast
import re
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Set, Tuple

from xhciseries.paths import TOP
from xhciseries.ui import die

from .files import language, tracked


@dataclass(frozen=True)
class Room:
    """A part of the repository. Those further up may use those further down."""

    name: str
    #: folders and files; the longest that fits a file counts
    places: Tuple[str, ...]
    about: str


ROOMS = [
    Room('ci', ('.ci', 'meson.build'), 'what continuous integration and meson run'),
    Room('tests/scripts', ('tests/scripts',), 'tests of the commands'),
    Room('scripts/checks', ('scripts/checks',), 'one file for each check'),
    Room('tests/diagnose', ('tests/diagnose',), 'guests and logs for scripts/diagnose'),
    Room('tests/recipes', ('tests/recipes',), 'test of docs/recipes'),
    Room('scripts', ('scripts',), 'the commands'),
    Room('tests/guest', ('tests/guest',), 'guests: their own code, and the commands for them'),
    Room('bench', ('bench',), 'benchmarks: the commands'),
    Room('scripts/lib', ('scripts/lib',), 'what shell scripts share'),
    Room('scripts/xhcitest', ('scripts/xhcitest',),
         'Python: TAP, processes, QMP, QEMU, guests, benchmarks, checks'),
    Room('scripts/xhciseries', ('scripts/xhciseries',),
         'Python: bases, git, patches, and what all commands share'),
]

#: What writes files below patches/ and tests/qtest/, and who may call it
WRITES = 'write_entry'
WRITER = 'scripts/xhciseries/export.py'

_PACKAGES = ('xhciseries', 'xhcitest')


def room_of(path: str) -> Optional[Room]:
    """Where a file is."""
    fits = [(len(place), room) for room in ROOMS for place in room.places
            if path == place or path.startswith(f'{place}/')]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


class Code:
    """All programs, and what each uses and runs, by their paths."""

    def __init__(self) -> None:
        self.files = {str(path) for path in tracked()}
        self.uses: Dict[str, Set[str]] = {}
        self.runs: Dict[str, Set[str]] = {}
        for name in sorted(self.files):
            kind = language(TOP / name)
            text = (TOP / name).read_text() if kind else ''
            if kind == 'python':
                try:
                    tree = ast.parse(text, name)
                except SyntaxError as error:
                    die(f'{name} is not valid Python: line {error.lineno}: {error.msg}')
                self.uses[name], self.runs[name] = self._python(name, tree)
            elif kind == 'shell' or name == 'meson.build':
                self.uses[name], self.runs[name] = self._shell(text)

    def _module(self, name: str) -> Optional[str]:
        path = 'scripts/' + name.replace('.', '/')
        return next((file for file in (f'{path}.py', f'{path}/__init__.py')
                     if file in self.files), None)

    def _python(self, name: str, tree: ast.AST) -> Tuple[Set[str], Set[str]]:
        package = name[len('scripts/'):].split('/')[:-1]
        uses, runs = set(), set()
        for node in ast.walk(tree):
            for module in _imported(node, package):
                if module.split('.')[0] in _PACKAGES:
                    uses.add(self._module(module))
            for word in _paths(node):
                if word in self.files and (language(TOP / word) or '') and word != name:
                    runs.add(word)
        return {file for file in uses if file}, runs

    def _shell(self, text: str) -> Tuple[Set[str], Set[str]]:
        text = re.sub(r'(?m)^\s*#.*', '', text)
        uses: Set[Optional[str]] = set()
        for module in re.findall(rf'\b((?:{"|".join(_PACKAGES)})\.[\w.]+)', text):
            uses.add(self._module(module))
        for library in re.findall(r'(?m)^\s*\. "[^"]*?(?:\w\)?"?\)?/)?([\w-]+\.sh)"', text):
            uses |= {file for file in self.files
                     if file in (f'scripts/lib/{library}', f'tests/scripts/{library}')}
        runs = {file for file in re.findall(
            r'''(?:"\$(?:TOP|ROOT|REPO)/|exec |find_program\(')([\w./-]+)''', text)
            if file in self.files and language(TOP / file)}
        return {file for file in uses if file}, runs

    def cycle(self) -> List[str]:
        """Files that use or run each other in a ring, or nothing. Tests may run
        anything."""
        done: Set[str] = set()

        def walk(name: str, path: List[str]) -> List[str]:
            if name in path:
                return [*path[path.index(name):], name]
            if name in done:
                return []
            for other in sorted(self.uses.get(name, set()) | self.runs.get(name, set())):
                found = walk(other, [*path, name])
                if found:
                    return found
            done.add(name)
            return []

        for name in sorted(self.uses):
            found = [] if name.startswith('tests/scripts/') else walk(name, [])
            if found:
                return found
        return []


def _imported(node: ast.AST, package: List[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[:len(package) - node.level + 1] if node.level else []
        module = '.'.join([*base, *([node.module] if node.module else [])])
        yield module
        yield from (f'{module}.{alias.name}' for alias in node.names)


def _paths(node: ast.AST) -> Iterator[str]:
    """TOP / 'one' / 'word' / 'after another', or GUEST."""
    words: List[str] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) \
            and isinstance(node.right, ast.Constant):
        words.insert(0, str(node.right.value))
        node = node.left
    if words and isinstance(node, ast.Name):
        yield '/'.join([{'GUEST': 'tests/guest'}.get(node.id, ''), *words]).lstrip('/')


def arrows(of: Dict[str, Set[str]]) -> Set[Tuple[str, str]]:
    """From room to room."""
    found = set()
    for name, others in of.items():
        for other in others:
            one, two = room_of(name), room_of(other)
            if one and two and one != two:
                found.add((one.name, two.name))
    return found


def picture() -> str:
    """The rooms and the arrows between them, for Mermaid."""
    code = Code()
    uses, runs = arrows(code.uses), arrows(code.runs)
    names = [room.name for room in ROOMS]
    lines = ['```mermaid', 'flowchart TD']
    lines += [f'    {_id(room.name)}["{room.name}<br>{room.about}"]' for room in ROOMS]
    for one in names:
        for two in names:
            if (one, two) in uses:
                lines.append(f'    {_id(one)} --> {_id(two)}')
            elif (one, two) in runs:
                lines.append(f'    {_id(one)} -.-> {_id(two)}')
    return '\n'.join([*lines, '```', ''])


def _id(name: str) -> str:
    return re.sub(r'\W', '_', name)


def amiss() -> List[str]:
    """What is not as the picture says that it must be, one line each."""
    found = []
    code = Code()
    order = [room.name for room in ROOMS]
    for name, others in code.uses.items():
        for other in sorted(others):
            one, two = room_of(name), room_of(other)
            if not one or not two:
                found.append(f'{name} uses {other}: one of them is in no component')
            elif order.index(one.name) > order.index(two.name):
                found.append(f'{name} uses {other}, which is further up')
    ring = code.cycle()
    if ring:
        found.append('files that need each other: ' + ' -> '.join(ring))
    for name in sorted(code.uses):
        if not name.endswith('.py'):
            continue
        calls = re.findall(rf'(?<!def )\b{WRITES}\(', (TOP / name).read_text())
        if calls and name != WRITER:
            found.append(f'{name} writes patches, which only {WRITER} may')
    return found
