# SPDX-License-Identifier: GPL-2.0-or-later
"""The Test Anything Protocol, read and written in one place.

https://testanything.org/tap-specification.html, version 12. GLib's dialect
gives no number to a test that aborts.
"""

import re
import sys
from dataclasses import dataclass
from typing import Iterable, Iterator, List, Optional, TextIO

_POINT = re.compile(r'(?P<bad>not )?ok\b(?: +(?P<number>\d+)\b)?(?P<rest>.*)')
_SKIP = re.compile(r'(?:^|\s)# *skip\b\S*\s*(?P<why>.*)', re.I)
_PLAN = re.compile(r'1\.\.(\d+)\s*(#.*)?')


@dataclass(frozen=True)
class Point:
    """One line of a result."""

    ok: bool
    number: Optional[int]
    #: what follows the number, as it stands there
    rest: str

    @property
    def title(self) -> str:
        """What is tested, without what is said about it."""
        return re.sub(r'^\s*(- )?', '', _SKIP.sub('', self.rest)).strip()

    @property
    def skip(self) -> Optional[str]:
        """Why it was skipped; None if it was not."""
        found = _SKIP.search(self.rest)
        return found['why'].strip() if found else None


def parse(line: str) -> Optional[Point]:
    """The result that a line is, or None."""
    found = _POINT.fullmatch(line.rstrip('\r\n'))
    if not found:
        return None
    return Point(not found['bad'], int(found['number']) if found['number'] else None,
                 found['rest'])


class Counter:
    """Counts the results of one stream, line by line."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0
        self.plan: Optional[int] = None
        #: of the first that was skipped
        self.why = ''

    def feed(self, line: str) -> None:
        """Take a line, whatever it is."""
        point = parse(line)
        plan = _PLAN.fullmatch(line.strip())
        if plan and self.plan is None:
            self.plan = int(plan[1])
        if not point:
            return
        if not point.ok:
            self.failed += 1
        elif point.skip is None:
            self.passed += 1
        else:
            self.skipped += 1
            self.why = self.why or point.skip

    def end(self, status: int) -> None:
        """The process is over. One that prints no TAP is one test."""
        seen = self.passed + self.failed + self.skipped
        if not seen and not status:
            self.passed = 1
        elif not self.failed and (status or seen != self.plan):
            self.failed = 1         # it ended early


class Writer:
    """Writes one stream, a line at a time.

    Args:
        plan: the number of results, if it is known before
    """

    def __init__(self, plan: Optional[int] = None, file: Optional[TextIO] = None) -> None:
        self.file = file or sys.stdout
        self.number = self.failed = 0
        self.plan = plan
        if plan is not None:
            self._print(f'1..{plan}')

    def _print(self, text: str) -> None:
        print(text, file=self.file, flush=True)

    def point(self, good: bool, title: str, why: Iterable[str] = (), dash: str = '- ') -> None:
        """A result, and below it what there is to say of it."""
        self.number += 1
        self.failed += not good
        self._print(f'{"ok" if good else "not ok"} {self.number} {dash}{title}')
        for line in why:
            self.note(f'  {line}')

    def note(self, text: str) -> None:
        """A line for the reader."""
        self._print(f'# {text}')

    def end(self) -> None:
        """The plan, unless it was at the top."""
        if self.plan is None:
            self._print(f'1..{self.number}')


def labelled(lines: Iterable[str], label: str) -> Iterator[str]:
    """A stream whose titles all begin with a label."""
    for line in lines:
        point = parse(line)
        if point and point.number is not None:
            title = re.sub(r'^ *(- )?', lambda m: f' {m[1] or ""}{label} ', point.rest, count=1)
            line = f'{"ok" if point.ok else "not ok"} {point.number}{title}'
        yield line.rstrip('\n')


def joined(lines: Iterable[str]) -> Iterator[str]:
    """One stream of several that follow each other."""
    number = 0
    for line in lines:
        line = line.rstrip('\n')
        point = parse(line)
        if point:
            number += 1
            line = f'{"ok" if point.ok else "not ok"} {number}{point.rest}'
        elif _PLAN.fullmatch(line):
            continue
        yield line
    yield f'1..{number}'


def main(argv: List[str]) -> int:
    """A filter: `label TEXT`, or `join`."""
    if argv[:1] == ['label'] and len(argv) == 2:
        stream = labelled(sys.stdin, argv[1])
    elif argv == ['join']:
        stream = joined(sys.stdin)
    else:
        print('tap: error: label TEXT, or join', file=sys.stderr)
        return 1
    for line in stream:
        print(line, flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
