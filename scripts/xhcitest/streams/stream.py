# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream of a VM state: where each field of each device is.

A stream ends with a description of itself in JSON, which has the size of every field
in the order in which they are in the stream (docs/devel/migration/main.rst in the
QEMU tree). So the sections of the devices, which come last, are found from the end.
Numbers are big-endian.
"""

import collections
import itertools
import json
import re
import struct
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, Tuple

from xhciseries.ui import Error

SECTION_FULL, FOOTER = 4, 0x7e
#: The description, and how long it is
VMDESCRIPTION = re.compile(rb'\x06(.{4})\{"', re.DOTALL)
#: A request of a SCSI device, after the byte that says that there is one: its CDB...
CDB_SIZE = 16
#: ... and what follows
REQUEST = (('tag', 4), ('lun', 4), ('sector', 8), ('sector_count', 4), ('buflen', 4))
#: Of these types, the bytes are no numbers
BYTES = ('buffer', 'pci config', 'pci irq state', 'msix state', 'scsi-requests',
         'unused_buffer', 'bitmap')


@dataclass(frozen=True)
class Field:
    """A number in a section, or one byte of what is no number.

    Args:
        name: where it is in the structures of the device
        offset: from the beginning of the section
        group: the same for all elements of an array
    """

    name: str
    offset: int
    size: int
    group: str = ''


@dataclass(frozen=True)
class Section:
    """What one device saved.

    Args:
        name: of the device, and of its kind
        start: of the header, in the stream
        body: where its fields begin, from the start
        size: of all, with header and footer
    """

    name: str
    start: int
    body: int
    size: int
    fields: Tuple[Field, ...]

    def find(self, name: str) -> Field:
        """A field by its name, or a byte by its offset from the start, as +N."""
        if name.startswith('+'):
            return Field(name, int(name[1:], 0), 1)
        for field in self.fields:
            if field.name == name:
                return field
        raise Error(f'{self.name} has no field {name}')


class Stream:
    """A stream that QEMU wrote."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sections: Dict[str, Section] = {}
        start = next((match.start() + 5 for match in VMDESCRIPTION.finditer(data)
                      if struct.unpack('>I', match[1])[0] == len(data) - match.start() - 5),
                     None)
        if start is None:
            raise Error('the stream has no description of itself')
        devices = json.loads(data[start:])['devices']
        end = start - 6                 # before the byte that ends all sections
        for device in reversed(devices):
            section = self._section(device, end)
            self.sections[section.name] = section
            end = section.start

    def _section(self, device: Dict[str, Any], end: int) -> Section:
        """The section of a device that ends there."""
        name = device['name'].encode()
        fields = list(_Description(device).fields())
        size = sum(field.size for field in fields)
        body = 1 + 4 + 1 + len(name) + 4 + 4
        start = end - 5 - size - body
        header = self.data[start:start + body]
        if (header[:1] + header[5:-8] != bytes([SECTION_FULL, len(name)]) + name
                or self.data[end - 5] != FOOTER
                or self.data[end - 4:end] != header[1:5]):
            raise Error(f'the section of {device["name"]} is not where it should be')
        title = device['name']
        if device['instance_id']:
            title += f'#{device["instance_id"]}'
        placed, offset = [], body
        for field in fields:
            for part in self._parts(field, start + offset):
                if part.name:
                    placed.append(Field(part.name, part.offset - start, part.size,
                                        part.group))
            offset += field.size
        return Section(title, start, body, end - start, tuple(placed))

    def _parts(self, field: Field, start: int) -> Iterator[Field]:
        """What can be changed in a field that is at this offset of the stream."""
        name, _, kind = field.name.partition(' ')
        if kind not in BYTES:
            yield Field(name, start, field.size, field.group)
            return
        if kind == 'scsi-requests':
            yield from self._requests(name, start)
            return
        for i in range(field.size):
            # Below 0x100 no two bytes of config space have the same meaning.
            group = '' if kind == 'pci config' and i < 0x100 else f'{name} byte'
            yield Field(f'{name}[{i:#x}]', start + i, 1, group)

    def _requests(self, name: str, start: int) -> Iterator[Field]:
        """Of a SCSI device with its requests, the first one."""
        yield Field(f'{name}.retry', start, 1)
        if not self.data[start]:
            return
        for i in range(CDB_SIZE):
            yield Field(f'{name}.cdb[{i}]', start + 1 + i, 1)
        offset = start + 1 + CDB_SIZE
        for part, size in REQUEST:
            yield Field(f'{name}.{part}', offset, size)
            offset += size
        # In a request that writes, this is data.
        yield Field(f'{name}.len', offset, 4)

    def value(self, section: Section, field: Field) -> int:
        """What a field is in the stream."""
        start = section.start + field.offset
        return int.from_bytes(self.data[start:start + field.size], 'big')

    def change(self, section: Section, field: Field, value: int) -> None:
        """Give a field another value."""
        start = section.start + field.offset
        self._splice(start, start + field.size, value.to_bytes(field.size, 'big'))

    def cut(self, section: Section, offset: int) -> None:
        """End the stream at an offset of a section."""
        self.data = self.data[:section.start + offset]

    def repeat_request(self, section: Section) -> None:
        """Have the request of a SCSI device in the stream twice."""
        names = [field.name for field in section.fields]
        first = next((i for i, name in enumerate(names) if name.endswith('.retry')), None)
        if first is None or not self.value(section, section.fields[first]):
            raise Error(f'{section.name} has no request')
        after = next(field for field in section.fields[first:]
                     if not field.name.startswith(names[first][:-len('retry')]))
        start = section.start + section.fields[first].offset
        end = section.start + after.offset - 1      # a byte says that there is no other
        self._splice(end, end, self.data[start:end])

    def omit(self, section: Section) -> None:
        """Leave a section out."""
        self._splice(section.start, section.start + section.size, b'')
        del self.sections[section.name]

    def _splice(self, start: int, end: int, new: bytes) -> None:
        self.data = self.data[:start] + new + self.data[end:]
        moved = len(new) - (end - start)
        if moved:
            self.sections = {
                name: replace(section, start=section.start + moved)
                if section.start >= end else section
                for name, section in self.sections.items()}


class _Description:
    """Walks through what the JSON says of a device.

    The fields that it yields have their type after the name, and no offset.
    """

    def __init__(self, device: Dict[str, Any]) -> None:
        self.device = device

    def fields(self) -> Iterator[Field]:
        """All of them, in order; those without a name are no data of the device."""
        yield from self._struct(self.device, '', '')

    def _struct(self, struct_: Dict[str, Any], prefix: str, group: str) -> Iterator[Field]:
        fields = [field for field in struct_.get('fields', ()) if field['size']]
        # Elements that are not all alike are there one by one.
        count = collections.Counter(field['name'] for field in fields)
        number: Dict[str, Iterator[int]] = collections.defaultdict(itertools.count)
        for field in fields:
            name = prefix + field['name']
            for i in range(field.get('array_len', 1)):
                element, of = name, group + field['name']
                if 'array_len' in field or count[field['name']] > 1:
                    element += f'[{next(number[name])}]'
                if 'struct' in field:
                    yield from self._struct(field['struct'], element + '.', of + '.')
                else:
                    yield Field(f'{element} {field["type"]}', 0, field['size'], of)
        for sub in struct_.get('subsections', ()):
            name = sub['vmsd_name']
            yield Field('', 0, 1 + 1 + len(name) + 4)
            yield from self._struct(sub, f'{prefix}{name.rpartition("/")[2]}.', group)
