# SPDX-License-Identifier: GPL-2.0-or-later
"""Cover letters: one for each range of a base.

The text is in patches/cover/<range>.txt, whose first line is the subject.
What is to be said of some bases alone is in patches/cover/bases.txt, in
paragraphs after a line such as `[core v7.2 v8.2]`.
"""

import re
import textwrap
from typing import Dict, List, NamedTuple, Optional, Sequence

from .mail import Mail
from .paths import PATCHES
from .ranges import Range
from .ui import die

FOLDER = PATCHES / 'cover'
PER_BASE = FOLDER / 'bases.txt'


class Release(NamedTuple):
    """What all patches and letters share."""

    version: str
    date: str


def release() -> Release:
    """Version and date of the series, from patches/VERSION."""
    path = PATCHES / 'VERSION'
    try:
        pairs = dict(line.split(': ', 1) for line in path.read_text().splitlines()
                     if line and not line.startswith('#'))
        return Release(pairs['version'].strip(), pairs['date'].strip())
    except (OSError, KeyError, ValueError):
        die("patches/VERSION must have a line 'version: 1.0' and a line "
            "'date: Tue, 24 Nov 2026 00:00:00 +0000'")


def file_name(known: Range) -> str:
    """The name of a letter, below the folder of its base."""
    return f'cover/{known.code}00-cover-letter.patch'


def own_text(known: Range, base: str) -> str:
    """What is to be said of this range of one base alone."""
    if not PER_BASE.exists():
        return ''
    parts = re.split(r'^\[(.*)\]$', PER_BASE.read_text(), flags=re.M)
    found = []
    for head, text in zip(parts[1::2], parts[2::2]):
        words = head.split()
        if words and words[0] in (known.name, known.code) and base in words[1:]:
            found.append(text.strip('\n'))
    return '\n\n'.join(found)


def shortlog(mails: Sequence[Mail]) -> str:
    """The patches by author, as git shortlog shows them."""
    authors: Dict[str, List[str]] = {}
    for mail in mails:
        name = re.sub(r'\s*<.*', '', mail.headers['From']).strip('"')
        authors.setdefault(name, []).append(mail.subject)
    parts = []
    for name, subjects in sorted(authors.items()):
        wrapped = (textwrap.fill(subject, 72, initial_indent='  ',
                                 subsequent_indent='    ', break_long_words=False,
                                 break_on_hyphens=False) for subject in subjects)
        parts.append(f'{name} ({len(subjects)}):\n' + '\n'.join(wrapped) + '\n')
    return '\n'.join(parts)


def letter(known: Range, base: str, mails: Sequence[Mail], stat: str) -> Optional[bytes]:
    """A cover letter, or None if there is no text for this range.

    Args:
        mails: the patches of the range
        stat: what git says about their files
    """
    source = FOLDER / f'{known.name}.txt'
    if not source.exists():
        return None
    about = release()
    subject, _, text = source.read_text().partition('\n')
    extra = own_text(known, base)
    width = len(str(len(mails)))
    head = f'Subject: [PATCH {0:0{width}}/{len(mails)}] {subject}'
    body = [text.strip('\n')] + ([extra] if extra else [])
    body.append(f'Series-version: {about.version}')
    return '\n'.join((
        'From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001',
        _folded('From: ' + mails[-1].headers['From']),
        f'Date: {about.date}',
        _folded(head),
        '',
        '\n\n'.join(body),
        '',
        shortlog(mails),
        stat.rstrip('\n'),
        '')).encode('utf-8', 'surrogateescape')


def renewed(known: Range, base: str, mails: Sequence[Mail], old: bytes) -> bytes:
    """The letter of patches that a tree cannot hold: of these only the text is new."""
    stat = old.decode('utf-8', 'surrogateescape').partition(f'\n\n{shortlog(mails)}\n')[2]
    return letter(known, base, mails, stat) or old


def _folded(line: str) -> str:
    return textwrap.fill(line, 76, subsequent_indent=' ', break_long_words=False,
                         break_on_hyphens=False)
