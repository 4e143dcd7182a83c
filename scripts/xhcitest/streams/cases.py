# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to a stream, and a name for it."""

import copy
import random
from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, Tuple

from xhciseries.ui import Error

from .guest import ORDERS
from .machine import Scenario
from .stream import Field, Section, Stream

#: Of the controller, and of all that is behind it
PATH = '0000:00:04.0/'
#: What a field is looked at with only: the Data Stage of a control transfer is under way
COMPANIONS = dict.fromkeys(('dev.setup_len', 'dev.setup_index'),
                           (('dev.setup_state', 2), ('dev.setup_buf[0]', 0)))
#: Elements of an array that have the same value: so many of them are changed
ALIKE = 2


@dataclass(frozen=True)
class Change:
    """One thing that is done to a section.

    Args:
        what: `cut`, `repeat`, `omit`, or nothing: a field is given a value
        field: of the section, by its name, or +N for a byte
    """

    section: str
    what: str = ''
    field: str = ''
    value: int = 0

    def __str__(self) -> str:
        if self.what:
            return f'{self.what}={self.section}:{self.field}'
        return f'{self.section}:{self.field}={self.value:#x}'

    @classmethod
    def parse(cls, text: str) -> 'Change':
        """From what str() gives."""
        for what in 'cut', 'repeat', 'omit':
            if text.startswith(f'{what}='):
                section, _, field = text[len(what) + 1:].rpartition(':')
                return cls(section, what, field)
        name, _, value = text.rpartition('=')
        section, _, field = name.rpartition(':')
        try:
            return cls(section, '', field, int(value, 0))
        except ValueError:
            raise Error(f'{text} is no change: SECTION:FIELD=VALUE, cut=SECTION:+OFFSET, '
                        'or repeat=SECTION:') from None

    def apply(self, stream: Stream) -> None:
        """Do it."""
        section = stream.sections.get(self.section)
        if not section:
            raise Error(f'the stream has no section {self.section}')
        if self.what == 'cut':
            stream.cut(section, int(self.field, 0))
        elif self.what == 'repeat':
            stream.repeat_request(section)
        elif self.what == 'omit':
            stream.omit(section)
        else:
            stream.change(section, section.find(self.field), self.value)


@dataclass(frozen=True)
class Case:
    """A changed stream."""

    scenario: Scenario
    changes: Tuple[Change, ...]

    def __str__(self) -> str:
        return ' '.join([str(self.scenario), *map(str, self.changes)])

    @classmethod
    def parse(cls, text: str) -> 'Case':
        """From what str() gives."""
        scenario, *changes = text.split()
        return cls(Scenario.parse(scenario), tuple(map(Change.parse, changes)))

    def stream(self, stream: Stream) -> bytes:
        """The stream, changed."""
        changed = copy.copy(stream)
        for change in self.changes:
            change.apply(changed)
        return changed.data


def sections(stream: Stream) -> List[Section]:
    """Those of the controller, and of what is behind it."""
    return [section for name, section in stream.sections.items() if name.startswith(PATH)]


def values(size: int, now: int) -> List[int]:
    """What to try for a number of so many bytes."""
    top = (1 << 8 * size) - 1
    tried = [0, 1, top, top >> 1, (top >> 1) + 1, now ^ 1, now ^ 0x10]
    if size > 1:
        tried += [2, 3, 4, 0x11, 0x1000, top - 1, now ^ 1 << 8 * size - 4]
    return [value for value in dict.fromkeys(tried) if value != now]


def distinct(stream: Stream, section: Section) -> Iterator[Field]:
    """The fields, without most of the elements of arrays that are all alike."""
    seen: Dict[Tuple[str, int], int] = {}
    for field in section.fields:
        key = field.group, stream.value(section, field)
        seen[key] = seen.get(key, 0) + 1
        if not field.group or seen[key] <= ALIKE:
            yield field


def of_fields(stream: Stream, section: Section) -> Iterator[Tuple[Change, ...]]:
    """One field after the other gets other values."""
    for field in distinct(stream, section):
        with_it = tuple(Change(section.name, '', name, value)
                        for name, value in COMPANIONS.get(field.name, ()))
        for value in values(field.size, stream.value(section, field)):
            yield (Change(section.name, '', field.name, value), *with_it)


def of_frame(stream: Stream, section: Section) -> Iterator[Change]:
    """The header and the footer get other values, byte by byte, and the stream ends."""
    for offset in (*range(section.body), *range(section.size - 5, section.size)):
        now = stream.data[section.start + offset]
        for value in {0, 0xff, now ^ 1, now ^ 0x80} - {now}:
            yield Change(section.name, '', f'+{offset:#x}', value)
    for offset in {0, section.body // 2, section.size - 1,
                   *(field.offset for field in distinct(stream, section))}:
        yield Change(section.name, 'cut', f'+{offset:#x}')


def of_requests(section: Section) -> Iterator[Change]:
    """More requests than a device can have."""
    if any(field.name.endswith('.tag') and 'requests' in field.name
           for field in section.fields):
        yield Change(section.name, 'repeat')


def sweep(scenario: Scenario, stream: Stream) -> Iterator[Case]:
    """All changes of one thing. What is wrong with a device may show at its unplug."""
    for section in sections(stream):
        for frame in (Change(section.name, 'omit'), *of_requests(section),
                      *of_frame(stream, section)):
            yield Case(scenario, (frame,))
        for changes in of_fields(stream, section):
            yield Case(scenario, changes)
            if not section.name.endswith('/xhci'):
                yield Case(replace(scenario, then='unplug'), changes)


def mix(scenario: Scenario, stream: Stream, rng: random.Random) -> Case:
    """Several fields at once, mostly of one section."""
    changes = []
    chosen = rng.choice(sections(stream))
    for _ in range(rng.randint(2, 6)):
        section = chosen if rng.random() < .7 else rng.choice(sections(stream))
        field = rng.choice(list(distinct(stream, section)))
        value = rng.choice(values(field.size, stream.value(section, field)))
        changes.append(Change(section.name, '', field.name, value))
    return Case(replace(scenario, then=rng.choice(ORDERS)), tuple(changes))
