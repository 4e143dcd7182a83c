# SPDX-License-Identifier: GPL-2.0-or-later
"""Look at the patches of all bases, without a tree and in a second."""

import os
import re
import subprocess
import textwrap
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from . import cover, layout
from .bases import load
from .export import README
from .git import need_git
from .layout import COMMON, Files, Link
from .mail import Mail
from .paths import PATCHES, QTEST
from .ranges import CORE, INTERRUPTS, TESTS, Range, of_patch
from .ui import Parser, run_main, say, scratch_dir

USAGE = 'scripts/lint'

TEXT = '''
Check the patches of all bases, without a QEMU tree and in a second:
numbers, subjects, width, trailers, dates, links and cover letters; and that
the test files that each series adds are those in tests/qtest.
'''

#: The widest line of a message, and of a subject without its [PATCH]
WIDTH = 76

STATUS = re.compile(r'absent|same as [0-9a-f]{12,40}(, in \d+(\.\d+)+( \d+(\.\d+)+)*)?'
                    r'|replaces [0-9a-f]{7,40}')
FIXES = re.compile(r'[0-9a-f]{12} \("[^"].*"\)')
SUBJECT = re.compile(r'[\w./{},*+-]+(: [\w./{},*+-]+)*: \S')
MIRROR = re.compile(r'(deb|ftp|security|archive|snapshot|cdn|mirrors?)[a-z0-9.-]*'
                    r'[.](debian|ubuntu)[.](org|net|com)')


class Lint:
    """All complaints."""

    def __init__(self) -> None:
        self.complaints: List[str] = []
        self.order = [base.name for base in load()]
        self.release = cover.release()
        self.files: Dict[str, Files] = {}

    def bad(self, where: str, what: str) -> None:
        """Note a complaint about a file below patches/."""
        self.complaints.append(f'patches/{where}: {what}')

    def run(self, temp: Path) -> None:
        """Look at everything. `temp` is a folder for the test files."""
        for folder in (*self.order, COMMON):
            self.check_names(folder)
        common = self.files[COMMON]
        for folder in (*self.order, COMMON):
            mails: Dict[Range, List[Mail]] = {}
            for name, data in sorted(self.files[folder].items()):
                known = of_patch(name)
                if not name.startswith('cover/') and known:
                    mail = Mail(name, data)
                    mails.setdefault(known, []).append(mail)
                    self.check_mail(f'{folder}/{name}', mail)
            for known, group in mails.items():
                self.check_numbers(folder, known, group)
                self.check_letter(folder, known, group)
            self.check_letters_without_range(folder, mails)
            if folder != COMMON:
                for known in (CORE, INTERRUPTS):
                    if known not in mails:
                        self.bad(folder, f'there is no range {known}')
        self.check_links()
        for base in self.order:
            self.check_qtest(base, {**self.files[base], **{
                name: data for name, data in common.items()}}, temp / base)

    def check_names(self, folder: str) -> None:
        """Names and links; reads the files."""
        self.files[folder] = {}
        top = PATCHES / folder
        for path in sorted([*top.glob('*'), *top.glob('cover/*')]):
            name = str(path.relative_to(top))
            where = f'{folder}/{name}'
            if path.is_dir() and not path.is_symlink():
                if name != 'cover':
                    self.bad(where, 'is a folder')
                continue
            if not re.fullmatch(r'\d{4}-[\w.-]+\.patch', path.name):
                self.bad(where, 'is not a patch')
                continue
            known = of_patch(path.name)
            letter = path.name[2:] == '00-cover-letter.patch'
            if known is None or (known is TESTS) != (folder == COMMON) or \
                    letter != name.startswith('cover/') or \
                    (path.name[2:4] == '00') != letter:
                self.bad(where, 'does not belong there, by its number')
                continue
            if path.is_symlink() and not path.exists():
                self.bad(where, f'is a link to {os.readlink(path)}, which is not there')
                continue
            self.files[folder][name] = layout.read_bytes(path)

    def check_links(self) -> None:
        """What is the same has to be there once, and in the right place."""
        plan = layout.arrange({base: self.files[base] for base in self.order}, self.order)
        for path, want in sorted(plan.items()):
            file = PATCHES / path
            data = file.read_bytes() if not file.is_symlink() else b''
            there: layout.Entry = Link(os.readlink(file)) if file.is_symlink() else data
            if not isinstance(there, Link) and isinstance(want, Link) and \
                    layout.read_bytes(file) != data:
                there = Link(data.decode())
            if isinstance(want, Link) and not isinstance(there, Link):
                self.bad(path, f'has a newer base, too: it must be a link to {want}')
            elif isinstance(there, Link) and there != want:
                self.bad(path, f'is a link to {there}, but must be '
                         + (f'one to {want}' if isinstance(want, Link) else 'a file'))

    def check_numbers(self, folder: str, known: Range, mails: Sequence[Mail]) -> None:
        """The numbers of a range have no gap."""
        for i, mail in enumerate(mails):
            if int(mail.name[:4]) != known.start + i:
                self.bad(f'{folder}/{mail.name}', f'must have the number {known.start + i:04}')
                return

    def check_mail(self, where: str, mail: Mail) -> None:
        """A patch by itself."""
        subject = mail.headers.get('Subject', '')
        if not subject.startswith('[PATCH] '):
            self.bad(where, f'the subject must begin with [PATCH], without a number: {subject}')
        if not SUBJECT.match(mail.subject):
            self.bad(where, f"the subject lacks a prefix such as hw/usb/hcd-xhci: "
                     f'{mail.subject}')
        if len(mail.subject) > WIDTH:
            self.bad(where, f'the subject has {len(mail.subject)} columns, more than {WIDTH}')
        trailers = mail.trailers
        told = {f'{key}: {value}' for key, value in trailers}
        for line in mail.body.splitlines():
            if len(line) > WIDTH and line not in told and not re.fullmatch(r'\s*\S+', line):
                self.bad(where, f'a line has {len(line)} columns, more than {WIDTH}: '
                         + line[:40] + '...')
                break
        self.check_trailers(where, mail, trailers)
        if mail.headers.get('Date') != self.release.date:
            self.bad(where, f"the date is not that of patches/VERSION: "
                     f"{mail.headers.get('Date')}")
        if 'MAINTAINERS' in mail.files:
            self.bad(where, 'touches MAINTAINERS')
        if not mail.diff:
            self.bad(where, 'changes nothing')
        self.check_mirrors(where, mail)

    def check_trailers(self, where: str, mail: Mail, trailers: Sequence) -> None:
        """Upstream-status, Signed-off-by and Fixes."""
        states = [value for key, value in trailers if key == 'Upstream-status']
        if len(states) != 1:
            self.bad(where, 'there must be one Upstream-status')
        for state in states:
            if not STATUS.fullmatch(state):
                self.bad(where, 'Upstream-status must be one of: absent, same as <sha>[, in '
                         f'<releases>], replaces <sha>: {state}')
        signers = [value for key, value in trailers if key == 'Signed-off-by']
        if signers != [mail.headers.get('From')]:
            self.bad(where, 'there must be one Signed-off-by, that of the author')
        for line in re.findall(r'^Fixes: *(.*)', mail.body, re.M):
            if not FIXES.fullmatch(line):
                self.bad(where, f'Fixes must be 12 digits and a subject: {line}')

    def check_mirrors(self, where: str, mail: Mail) -> None:
        """Where packages come from is the user's choice."""
        if MIRROR.search(mail.data.decode(errors='replace')):
            self.bad(where, 'a mirror host is named')

    def check_letter(self, folder: str, known: Range, mails: Sequence[Mail]) -> None:
        """A range has a cover letter, and it lists the patches that there are."""
        name = cover.file_name(known)
        where = f'{folder}/{name}'
        data = self.files[folder].get(name)
        if data is None:
            self.bad(where, f'is not there: write patches/cover/{known.name}.txt, and export')
            return
        letter = Mail(name, data)
        text = data.decode('utf-8', 'surrogateescape')
        if f'\n\n{cover.shortlog(mails)}\n' not in text:
            self.bad(where, f'does not list the patches of the range {known}: export it')
        if not re.match(rf'\[PATCH 0+/{len(mails)}\] ', letter.headers.get('Subject', '')):
            self.bad(where, f'must have the subject [PATCH 0/{len(mails)}]')
        source = cover.FOLDER / f'{known.name}.txt'
        own = [source.read_text()] if source.exists() else ['']
        subject, _, body = own[0].partition('\n')
        for part in (body.strip('\n'), cover.own_text(known, folder),
                     f'\n\nSeries-version: {self.release.version}\n'):
            if part not in text:
                self.bad(where, 'has another text or version than patches/cover and '
                         'patches/VERSION: export it')
                break
        if not letter.headers.get('Subject', '').endswith('] ' + subject):
            self.bad(where, f'has another subject than patches/cover/{known.name}.txt: '
                     'export it')
        if letter.headers.get('Date') != self.release.date:
            self.bad(where, 'the date is not that of patches/VERSION')
        for line in body.splitlines():
            if len(line) > WIDTH:
                self.bad(where, f'a line has {len(line)} columns, more than {WIDTH}: '
                         + textwrap.shorten(line, 40))
                break
        self.check_mirrors(where, letter)

    def check_letters_without_range(self, folder: str, mails: Dict[Range, List[Mail]]) -> None:
        """No letter is left from a range that is gone."""
        for name in self.files[folder]:
            if name.startswith('cover/') and of_patch(os.path.basename(name)) not in mails:
                self.bad(f'{folder}/{name}', 'is for a range that has no patches')

    def check_qtest(self, base: str, files: Files, temp: Path) -> None:
        """Rebuild the test files that a series adds, and compare."""
        patches = [(name, Mail(name, files[name])) for name in sorted(files)
                   if not name.startswith('cover/')]
        added = {file for _, mail in patches for file in mail.added
                 if file.startswith('tests/qtest/')}
        touching = [mail for _, mail in patches if added & set(mail.files)]
        temp.mkdir()
        if touching:
            subprocess.run(['git', 'init', '-q', '--template=', str(temp)], check=True)
            (temp / '.git' / 'all').mkdir()
            names = []
            for i, mail in enumerate(touching):
                names.append(temp / '.git' / 'all' / f'{i:04}')
                names[-1].write_bytes(mail.data)
            done = subprocess.run(
                ['git', '-C', str(temp), 'apply', '--whitespace=nowarn',
                 *(f'--include={file}' for file in sorted(added)), *map(str, names)],
                check=False, capture_output=True, text=True)
            if done.returncode:
                self.bad(base, 'its patches do not add up to test files: '
                         + done.stderr.splitlines()[0])
                return
        for file in sorted(added):
            path = QTEST / file[len('tests/qtest/'):]
            built = temp / file
            if not path.is_file():
                self.complaints.append(f'{file} is not there, but series {base} adds it: '
                                       'export it')
            elif not built.is_file() or path.read_bytes() != built.read_bytes():
                self.complaints.append(f'{file} is not the file that series {base} adds: '
                                       'all bases must have the same')
        for path in sorted(QTEST.rglob('*')):
            name = f'tests/qtest/{path.relative_to(QTEST)}'
            if path.is_file() and name not in added and (
                    name != 'tests/qtest/README' or path.read_text() != README):
                self.complaints.append(f'{name} is not added by series {base}')


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('lint', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    Parser('lint', USAGE, TEXT).parse(argv)
    need_git()
    lint = Lint()
    with scratch_dir('lint') as temp:
        lint.run(temp)
    for complaint in lint.complaints:
        say(f'lint: error: {complaint}')
    if not lint.complaints:
        count = sum(len(files) for files in lint.files.values())
        say(f'nothing to complain about in {count} files of {len(lint.order)} bases')
    return 1 if lint.complaints else 0
