# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch as a mail, as git format-patch writes it."""

import re
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from .bases import numbers
from .ui import die

_LINK = re.compile(r'\.\./[^\n]*\.patch')
_TRAILER = re.compile(r'([A-Z][A-Za-z-]*[a-z]): (.*)')


def read_bytes(path: Path) -> bytes:
    """A patch file, with links followed.

    Where a checkout cannot have symbolic links, git writes the name that a
    link points to into a file: that is followed, too.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            die(f'{path} is a link to a file that is not there')
        raise
    if len(data) < 500 and _LINK.fullmatch(data.decode(errors='replace')):
        return read_bytes(path.parent / data.decode())
    return data


class Mail:
    """A patch mail, or a cover letter."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        text = data.decode('utf-8', 'surrogateescape')
        head, _, rest = text.partition('\n\n')
        self.headers: Dict[str, str] = {}
        for line in re.sub(r'\n[ \t]+', ' ', head).splitlines()[1:]:
            key, _, value = line.partition(': ')
            self.headers.setdefault(key, value)
        found = re.search(r'^diff --git ', rest, re.M)
        self.diff = rest[found.start():] if found else ''
        before = rest[:found.start()] if found else rest
        #: The commit message without its subject
        self.body = re.split(r'^---$', before, maxsplit=1, flags=re.M)[0].rstrip('\n')

    @classmethod
    def read(cls, path: Path) -> 'Mail':
        """The mail in a file."""
        return cls(path.name, read_bytes(path))

    @property
    def subject(self) -> str:
        """The subject without its [PATCH]."""
        return re.sub(r'^\[PATCH[^]]*\] ', '', self.headers.get('Subject', ''))

    @property
    def trailers(self) -> List[Tuple[str, str]]:
        """The lines `Key: value` of the last paragraph."""
        last = self.body.rsplit('\n\n', 1)[-1]
        return [(found[1], found[2])
                for found in map(_TRAILER.fullmatch, last.splitlines()) if found]

    @property
    def upstream_status(self) -> Optional[str]:
        """What the trailer says of how upstream stands."""
        return next((value for key, value in self.trailers
                     if key == 'Upstream-status'), None)

    @property
    def upstream_releases(self) -> List[str]:
        """The releases that have it, as `same as <sha>, in A B C` names them."""
        found = re.match(r'same as \w+, in ([\d. ]+)$', self.upstream_status or '')
        return found[1].split() if found else []

    def is_in_release(self, version: str) -> Optional[bool]:
        """Does the trailer say that this release has it? None: it is silent.

        The releases named are the first of their line that have it, and
        lines after the last that is named have it from the start.
        """
        named = [numbers(release) for release in self.upstream_releases]
        mine = numbers(version)
        if not named:
            return None
        same_line = [release for release in named if release[:2] == mine[:2]]
        if same_line:
            return mine >= min(same_line)
        return mine[:2] > max(named)[:2]

    @property
    def normalized(self) -> str:
        """What counts: without line numbers and hashes of QEMU's files."""
        text = self.data.decode('utf-8', 'surrogateescape')
        if not self.diff:
            return text
        return text[:-len(self.diff)] + normalized_diff(self.diff)

    @property
    def content(self) -> str:
        """The same without what is no part of the commit, such as the date."""
        return '\n'.join((self.subject, self.body, normalized_diff(self.diff)))

    @property
    def files(self) -> List[str]:
        """The files that it touches."""
        return re.findall(r'^diff --git a/.* b/(.*)$', self.diff, re.M)

    @property
    def added(self) -> List[str]:
        """The files that it adds."""
        return re.findall(r'^diff --git a/.* b/(.*)\nnew file mode', self.diff, re.M)


def normalized_diff(diff: str) -> str:
    """A diff without `index` lines and line numbers."""
    return re.sub(r'^@@ .*', '@@', re.sub(r'^index .*\n', '', diff, flags=re.M), flags=re.M)


def hunk_at(mail: Mail, path: str, line: str) -> Optional[str]:
    """The head of the hunk of a file that begins at a line."""
    here = False
    for row in mail.diff.splitlines():
        if row.startswith('diff --git '):
            here = row.endswith(f' b/{path}')
        elif here and re.match(rf'@@ -{line}[, ]', row):
            return row[:row.index(' @@') + 3]
    return None
