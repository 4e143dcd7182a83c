# SPDX-License-Identifier: GPL-2.0-or-later
"""The series in a Debian source package: patches, headers, version, changelog."""

import argparse
import contextlib
import email.utils
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import cover, layout
from .apply import apply_to, choose_base
from .git import Repo, identity, need_git
from .mail import Mail
from .paths import TOP
from .ranges import CORE, HARDENING, INTERRUPTS, RANGES, UPSTREAM, Range, by_name
from .ui import Error, Parser, die, run_main, say, scratch_dir

USAGE = '''scripts/lib/debian-series TREE --expected DIR [--only RANGE...]
                                 [--revision N]'''

TEXT = '''
Put the series into the debian/patches of an unpacked Debian source package of
QEMU whose patches are applied, and write an entry in debian/changelog.
The patches themselves are not applied. scripts/package is the command to use.
'''

#: Where the patches go below debian/patches
FOLDER = 'xhci'
#: The ranges to take if nothing is said; what upstream has for them comes along
DEFAULT = (CORE, INTERRUPTS, HARDENING)
#: What a version gets
SUFFIX = '+xhci'

_ENTRY = re.compile(r'(?P<source>\S+) \((?P<version>\S+)\) (?P<suite>[^;]+);.*\n')
_TRAILER = re.compile(r'^ -- .*>  (.*)$', re.M)


class Entry(NamedTuple):
    """The newest entry of a changelog."""

    source: str
    version: str
    suite: str
    date: str


def newest_entry(changelog: str) -> Entry:
    """What debian/changelog begins with. Fails if that cannot be made sense of."""
    head = _ENTRY.match(changelog)
    date = _TRAILER.search(changelog)
    if not head or not date:
        die('debian/changelog does not begin with an entry')
    return Entry(head['source'], head['version'], head['suite'].strip(), date[1])


def _is(one: str, relation: str, other: str) -> bool:
    return subprocess.run(['dpkg', '--compare-versions', one, relation, other],
                          check=False).returncode == 0


def next_versions(version: str) -> List[str]:
    """Versions with which the archive may follow one: the next upload and a
    non-maintainer's upload."""
    last = re.search(r'\d+(?=\D*$)', version)
    assert last
    up = version[:last.start()] + str(int(last[0]) + 1) + version[last.end():]
    return [up, version + '.1']


def new_version(version: str, revision: int) -> str:
    """A version above the archive's and below the archive's next."""
    if SUFFIX in version:
        die(f'version {version} is of a source package that has the series: '
            "take the archive's own")
    new = f'{version}{SUFFIX}{revision}'
    if not _is(new, 'gt', version) or \
            not all(_is(new, 'lt', later) for later in next_versions(version)):
        die(f'{new} does not sort between {version} and the next upload')
    return new


# --- DEP-3 ----------------------------------------------------------------------

def dep3_fields(mail: Mail, date: str) -> List[str]:
    """What DEP-3 wants of a patch beyond From and Subject.

    Args:
        date: of the last change, as YYYY-MM-DD
    """
    fields = [f'Bug: {value}' for key, value in mail.trailers if key == 'Resolves']
    same = re.match(r'same as (\w+)', mail.upstream_status or '')
    if same:
        fields.append(f'Origin: backport, commit:{same[1]}')
        there = mail.upstream_releases
        fields.append(f'Applied-Upstream: {there[-1] + ", " if there else ""}commit:{same[1]}')
    else:
        fields.append('Forwarded: no')
    return [*fields, f'Last-Update: {date}']


def with_dep3(mail: Mail, date: str) -> bytes:
    """The patch with these fields below its Subject."""
    text = mail.data.decode('utf-8', 'surrogateescape')
    head, blank, rest = text.partition('\n\n')
    found = re.search(r'^Subject: .*(\n[ \t].*)*', head, re.M)
    if not found:
        die(f'{mail.name} has no Subject')
    fields = ''.join(f'\n{field}' for field in dep3_fields(mail, date))
    new = head[:found.end()] + fields + head[found.end():] + blank + rest
    return new.encode('utf-8', 'surrogateescape')


# --- the package ----------------------------------------------------------------

def fitting(tree: Path, temp: Path, only: Sequence[Range]) -> Tuple[Repo, Dict[Range, List[Mail]]]:
    """The patches that the sources take, and a tree with them in it.

    That tree has the files that the series touches, as commits of scripts/apply.
    """
    version = (tree / 'VERSION').read_text().strip()
    base = choose_base(version, str(tree))
    patches = layout.series(base.name)
    files = {name for mails in patches.values() for mail in mails for name in mail.files}
    copy = temp / 'tree'
    for name in sorted({*files, 'VERSION', 'hw/usb/hcd-xhci-pci.c'}):
        if (tree / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / name, copy / name)
    repo = Repo(copy)
    repo.raw('init', '-q', '--template=')
    for role in ('AUTHOR', 'COMMITTER'):
        repo.env[f'GIT_{role}_NAME'] = 'scripts/package'
        repo.env[f'GIT_{role}_EMAIL'] = 'package@localhost'
    repo.raw('add', '-f', '-A')
    repo.raw('commit', '-q', '-m', f'QEMU {version}')
    wanted = only or [known for known in DEFAULT if known in patches]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            outcome = apply_to(str(copy), wanted)
    except Error as error:
        die(re.sub(r' does not fit .*?: (.*); the tree .*', r' does not fit: \1', str(error)))
    for line in said.getvalue().splitlines():
        if line.startswith(('left out: ', 'warning: ')):
            say(line.replace(str(copy), f'QEMU {version}'))
    for known, misfit in outcome.left_out:
        if known in only:
            die(f'{known} does not fit: {misfit.mail.name}: {misfit.why}')
    found = {known: patches[known] for known in RANGES
             if known in outcome.applied and known is not UPSTREAM}
    if outcome.upstream_applied:
        found = {UPSTREAM: outcome.upstream_applied, **found}
    if not found:
        die('the package has all of the series already')
    return repo, found


def entry_text(entry: Entry, version: str, found: Dict[Range, List[Mail]], who: str,
               date: str) -> str:
    """An entry for debian/changelog.

    Args:
        entry: the newest that is there
        who: `Name <address>`
        date: in the form of RFC 5322
    """
    of_series = cover.release()[0]
    lines = [f'{entry.source} ({version}) {entry.suite}; urgency=medium', '',
             f'  * Local build with the patches for xHCI interrupts, {of_series},',
             f'    in d/patches/{FOLDER}:']
    for known, mails in found.items():
        lines.append(f'    - {known.code}xx {known.name}: {len(mails)} '
                     f'patch{"es" if len(mails) > 1 else ""}')
    return '\n'.join([*lines, '', f' -- {who}  {date}', '', ''])


def later(one: str, other: str) -> str:
    """The later of two dates in the form of RFC 5322: a changelog does not go
    back in time."""
    first, second = map(email.utils.parsedate_to_datetime, (one, other))
    return one if first >= second else other


def add_series(tree: Path, expected: Path, only: Sequence[Range], revision: int) -> str:
    """Put the series into a source package; the result is its new version.

    Args:
        expected: a folder that gets the files that the series touches, as
            they have to be once all patches are applied
    """
    changelog = tree / 'debian/changelog'
    listing = tree / 'debian/patches/series'
    if not changelog.is_file() or not (tree / 'VERSION').is_file():
        die(f'{tree} is not an unpacked source package of QEMU')
    # QEMU's source has names and code in other encodings
    text = changelog.read_text(encoding='utf-8', errors='surrogateescape')
    entry = newest_entry(text)
    version = new_version(entry.version, revision)
    who = identity(Repo(TOP, users=True))
    if not who:
        die('git knows no name and address for the changelog: set them with '
            'git config user.name and git config user.email')
    series_date = cover.release()[1]
    day = email.utils.parsedate_to_datetime(series_date).strftime('%Y-%m-%d')
    with scratch_dir('package') as temp:
        repo, found = fitting(tree, temp, only)
        folder = tree / 'debian/patches' / FOLDER
        folder.mkdir(parents=True)
        names = []
        for mails in found.values():
            for mail in mails:
                name = f"{FOLDER}/{mail.name.rpartition('/')[2]}"
                (folder.parent / name).write_bytes(with_dep3(mail, day))
                names.append(name)
        old = listing.read_text(encoding='utf-8') if listing.exists() else ''
        if old and not old.endswith('\n'):
            old += '\n'
        listing.write_text(old + ''.join(f'{name}\n' for name in names), encoding='utf-8')
        new = entry_text(entry, version, found, who, later(series_date, entry.date)) + text
        changelog.write_text(new, encoding='utf-8', errors='surrogateescape')
        for name in {name for mails in found.values() for mail in mails for name in mail.files}:
            (expected / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repo.path / name, expected / name)
    say(f'{len(names)} patches in debian/patches/{FOLDER}, version {version}')
    return version


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('package', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = Parser('package', USAGE, TEXT)
    parser.add_argument('tree', metavar='TREE', help=argparse.SUPPRESS)
    parser.add_argument('--expected', metavar='DIR', required=True, type=Path,
                        help='gets the files that the series touches, patched by git')
    parser.add_argument('--only', metavar='RANGE', nargs='+', default=[],
                        help='only these ranges, by name or number')
    parser.add_argument('--revision', metavar='N', type=int, default=1,
                        help='the number in +xhciN')
    args = parser.parse(argv)
    if args.revision < 1:
        parser.error('--revision is a number from 1 on')
    need_git()
    only = [by_name(word) for words in args.only for word in words.split(',') if word]
    print(add_series(Path(args.tree), args.expected, only, args.revision))
