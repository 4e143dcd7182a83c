# SPDX-License-Identifier: GPL-2.0-or-later
"""Write the commits of a tree as patches, so that every export is the same bytes."""

import argparse
import difflib
import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from . import cover, layout
from .bases import Base, find, load
from .git import Repo, identity, names, need_git, scratch
from .layout import COMMON, Entry, Files, Link
from .mail import Mail
from .paths import PATCHES, QTEST, TOP, WORK
from .ranges import CORE, RANGES, TESTS, UPSTREAM, Commit, Range, of_tree
from .tree import Tree
from .ui import Parser, die, run_main, say, scratch_dir

USAGE = 'scripts/export [BASE...] [--check]'

TEXT = '''
Write the commits of each BASE's tree (base..series) to patches/BASE, and the
test files that they add to tests/qtest. Without a BASE: of all bases.

A patch that several bases have is a file in the newest of these, and a link
to that file in the others. The range 09xx goes to patches/common.

Each range has a cover letter in the folder cover, with its subject and text
from patches/cover/RANGE.txt, and text for some bases only from
patches/cover/bases.txt. The date of all patches and the version of the series
are in patches/VERSION.

An export that would overwrite uncommitted changes in patches/ or tests/qtest
fails.
'''

#: Every setting that could change a byte is fixed here.
FORMAT = ('format-patch', '-q', '-N', '--no-cover-letter', '--zero-commit',
          '--no-signature', '--full-index', '--no-renames', '--diff-algorithm=myers',
          '-U3', '--no-thread', '--no-attach', '--no-notes', '--no-base',
          '--no-ext-diff', '--no-textconv', '--no-color', '--subject-prefix=PATCH',
          '--stat=72', '--src-prefix=a/', '--dst-prefix=b/')

README = '''The files in this folder are written by scripts/export: do not edit them here.
Change them in a QEMU tree made by scripts/tree and scripts/apply, commit there,
and export; docs/series.md says how.
'''


class Generated:
    """What belongs into the repository by the tree of a base."""

    def __init__(self, base: Base) -> None:
        self.base = base
        #: the series, and what goes to patches/common
        self.files: Files = {}
        self.common: Files = {}
        #: the test files, by their name below tests/qtest
        self.qtest: Files = {}
        #: the point release of the tree
        self.version = ''
        #: mails without a sender who may sign
        self.strangers: List[str] = []

    @property
    def exact(self) -> bool:
        """Is the tree of the point release that the patches are made on?"""
        return self.version == self.base.made


def generate(tree: Tree, temp: Path) -> Generated:
    """Turn the commits of a tree into files. `temp` is a folder for that."""
    made = Generated(tree.base)
    made.version = tree.version
    # A repository without settings, that sees the tree's commits
    repo = scratch(temp / 'git', tree.objects)
    for name in ('base', 'series'):
        commit = tree.repo.commit(name)
        assert commit
        repo.raw('update-ref', f'refs/heads/{name}', commit)
    series = of_tree(repo, str(tree.path))
    date = cover.release().date
    for known, commits in series.items():
        files = format_range(repo, known, commits, temp / known.code, date)
        if known is UPSTREAM:
            files = _merged_upstream(tree, files)
        target = made.common if known is TESTS else made.files
        target.update(files)
        if commits:
            _add_letter(repo, known, commits, files, made, target)
    if UPSTREAM not in series:
        made.files.update(_merged_upstream(tree, {}))
    kept = cover.file_name(UPSTREAM)
    if not series.get(UPSTREAM) and (PATCHES / tree.base.name / kept).exists():
        mails = [Mail(name, data) for name, data in sorted(made.files.items())
                 if name.startswith(UPSTREAM.code)]
        made.files[kept] = cover.renewed(UPSTREAM, tree.base.name, mails,
                                         layout.read(tree.base.name)[kept])
    if 'MAINTAINERS' in repo.out('diff', '--name-only', 'base', 'series').split():
        die(f'a commit of {tree.path} touches MAINTAINERS: no patch may '
            '(MAINTAINERS-snippet has what to add there)')
    added = repo.raw('diff', '-z', '--name-only', '--no-renames', '--diff-filter=A',
                     'base', 'series', '--', 'tests/qtest')
    for name in names(added):
        made.qtest[name[len('tests/qtest/'):]] = repo.raw('show', f'series:{name}')
    return made


def format_range(repo: Repo, known: Range, commits: Sequence[Commit], folder: Path,
                 date: str) -> Files:
    """The commits of a range as patches, by file name."""
    if not commits:
        return {}
    repo.raw(*FORMAT, '-o', folder, f'--start-number={known.start}',
             f'{commits[0].parent}..{commits[-1].sha}')
    return {path.name: re.sub(rb'^Date: .*$', b'Date: ' + date.encode(),
                              path.read_bytes(), count=1, flags=re.M)
            for path in sorted(folder.iterdir())}


def _merged_upstream(tree: Tree, made: Files) -> Files:
    """Range 00 where the tree may have some of it from upstream.

    Such patches cannot be commits of the tree: they stay as they are.
    """
    old = {name: data for name, data in layout.read(tree.base.name).items()
           if name.startswith(UPSTREAM.code)}
    fresh = {Mail(name, data).subject: data for name, data in made.items()}
    result: List[bytes] = []
    for name, data in sorted(old.items()):
        mail = Mail(name, data)
        if mail.subject in fresh:
            result.append(fresh.pop(mail.subject))
        elif _has_already(tree, mail):
            result.append(data)
    result += fresh.values()
    return {_file_name(UPSTREAM.start + i, Mail('', data).subject): data
            for i, data in enumerate(result)}


def _has_already(tree: Tree, mail: Mail) -> bool:
    with tempfile.TemporaryDirectory(dir=WORK / 'tmp') as temp:
        env = {'GIT_INDEX_FILE': f'{temp}/index'}
        tree.repo.raw('read-tree', 'base', env=env)
        done = tree.repo.run('apply', '--cached', '--check', '--reverse', '-',
                             stdin=mail.data, env=env)
    return done.returncode == 0 or mail.is_in_release(tree.version) is True


def _file_name(number: int, subject: str) -> str:
    """The name that git format-patch gives to a patch."""
    words = re.sub(r'[^A-Za-z0-9._]+', '-', subject)
    words = re.sub(r'\.+', '.', words).strip('-').rstrip('.-')
    return f'{number:04}-{words}'[:57] + '.patch'


def _add_letter(repo: Repo, known: Range, commits: Sequence[Commit], files: Files,
                made: Generated, target: Files) -> None:
    mails = [Mail(name, data) for name, data in sorted(files.items())]
    stat = repo.out('diff', '--stat=72', '--summary', '--no-renames', '--no-color',
                    '--diff-algorithm=myers', commits[0].parent, commits[-1].sha)
    folder = COMMON if known is TESTS else made.base.name
    data = cover.letter(known, folder, mails, stat)
    if data is not None:
        target[cover.file_name(known)] = data


# --- who signs ------------------------------------------------------------------

def check_senders(made: Generated, before: Files) -> None:
    """Fail if a patch is by somebody else than the repository's git identity.

    Patches that were by somebody else before stay so.
    """
    who = identity(Repo(TOP, users=True), 'AUTHOR')
    known = {Mail(name, data).headers.get('From') for name, data in before.items()}
    for name, data in sorted({**made.files, **made.common}.items()):
        mail = Mail(name, data)
        sender = mail.headers.get('From', '')
        if sender != who and sender not in known:
            die(f"'{mail.subject}' is by {sender}, but this repository's git identity "
                f'is {who}: git commit --amend --reset-author')
        if name.startswith('cover/'):
            continue
        signers = [value for key, value in mail.trailers if key == 'Signed-off-by']
        if signers != [sender]:
            die(f"'{mail.subject}' must have one Signed-off-by, of its author: "
                'git commit --amend --signoff')


# --- what differs ------------------------------------------------------------------

def is_same(name: str, new: bytes, old: Optional[bytes], exact: bool) -> bool:
    """Is a generated file the one that is there?"""
    if old is None:
        return False
    return new == old if exact else \
        Mail(name, new).normalized == Mail(name, old).normalized


def tree_differs(tree: Tree) -> bool:
    """Does a tree hold other commits than the patches of its base?"""
    with scratch_dir('export') as temp:
        made = generate(tree, temp)
    there = layout.read(tree.base.name), layout.read(COMMON)
    return any(set(new) != set(old)
               or any(not is_same(name, new[name], old[name], False) for name in new)
               for new, old in zip((made.files, made.common), there))


class Drift:
    """Differences, in a log that is named once for each kind."""

    def __init__(self, base: str) -> None:
        self.log = WORK / 'log' / f'drift-{base}.log'
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text('')
        self.found: List[str] = []

    def add(self, message: str, name: str, old: bytes, new: bytes) -> None:
        """Note a difference, and write it to the log."""
        if message not in self.found:
            self.found.append(message)
        before, after = (data.decode('utf-8', 'surrogateescape').splitlines(True)
                         for data in (old, new))
        with open(self.log, 'a', encoding='utf-8', errors='surrogateescape') as log:
            log.writelines(difflib.unified_diff(before, after, f'there/{name}', f'tree/{name}'))

    def report(self) -> None:
        """Say what was found."""
        for message in self.found:
            say(f'export: error: {message} (log: {self.log})')


def check_base(made: Generated, newest: bool, order: Sequence[str]) -> bool:
    """Is everything in the repository as the tree has it?"""
    name = made.base.name
    drift = Drift(name)
    if not made.exact:
        say(f'{name}: made on {made.base.made}, the tree is {made.version}: '
            'comparing without line numbers and hashes')
    there = layout.on_disk([name])
    wrong = (f'patches/{name} is not what the tree holds: run scripts/export {name}, '
             f'or scripts/tree {name} --reset')
    for new, folder, exact in ((made.files, name, made.exact),
                               (made.common, COMMON, made.exact and newest)):
        old = layout.read(folder)
        for file in sorted(set(new) | set(old)):
            linked = isinstance(there.get(f'{folder}/{file}'), Link)
            if file not in new or not is_same(file, new[file], old.get(file),
                                              exact and not linked):
                drift.add(wrong if folder == name else
                          f'patches/{COMMON} is not what the tree of {name} holds: '
                          f'run scripts/export {name}, or scripts/port',
                          f'{folder}/{file}', old.get(file, b''), new.get(file, b''))
    if not drift.found:
        plan = layout.arrange({base: layout.read(base) for base in order}, order)
        for path, entry in sorted(there.items()):
            if isinstance(entry, Link) != isinstance(plan[path], Link) or (
                    isinstance(entry, Link) and entry != plan[path]):
                drift.add(f'patches/{name} has files where links belong, or links to '
                          f'other files: run scripts/export {name}', path,
                          _told(entry), _told(plan[path]))
    for file, data in sorted({**made.qtest, 'README': README.encode()}.items()):
        old_file = QTEST / file
        old_data = old_file.read_bytes() if old_file.is_file() else b''
        if old_data != data:
            drift.add(f'tests/qtest/{file} is not the file that series {name} adds: '
                      'all bases must have the same', f'qtest/{file}', old_data, data)
    for test in sorted(QTEST.rglob('*')):
        file = str(test.relative_to(QTEST))
        if test.is_file() and file not in made.qtest and file != 'README':
            drift.add(f'series {name} does not add tests/qtest/{file}', f'qtest/{file}',
                      test.read_bytes(), b'')
    drift.report()
    return not drift.found


def _told(entry: Entry) -> bytes:
    return f'link to {entry}\n'.encode() if isinstance(entry, Link) else b'file\n'


# --- writing ----------------------------------------------------------------------

class Writer:
    """Changes to the repository, that take nothing away that is nowhere else."""

    def __init__(self) -> None:
        self.repo = Repo(TOP, users=True)
        self.tracked = self.repo.ok('rev-parse', '--git-dir')
        self.note = self.repo.git_path('xhci-exported') if self.tracked else None
        #: what earlier runs wrote, by path: that may be written again
        self.written: Dict[str, str] = {}
        if self.note and self.note.exists():
            self.written = json.loads(self.note.read_text())
        self.changes: Dict[Path, Optional[Entry]] = {}

    def put(self, path: Path, entry: Optional[Entry]) -> None:
        """Plan to write a file or link, or to remove it."""
        if _entry_at(path) != entry:
            self.changes[path] = entry

    def check(self) -> None:
        """Fail if somebody's changes would be lost."""
        if not self.tracked:
            return
        status = self.repo.raw('status', '--porcelain', '-z', '--untracked-files=all',
                               '--no-renames', '--', 'patches', 'tests/qtest')
        prefix = self.repo.out('rev-parse', '--show-prefix')
        for line in names(status):
            path = TOP / line[3:][len(prefix):]
            there = _entry_at(path)
            if path not in self.changes or there is None:
                continue
            if self.written.get(str(path)) != _digest(there):
                die(f'{path.relative_to(TOP)} has changes that are not committed, and '
                    'the export would overwrite them: commit or discard them '
                    '(these files are exported, see docs/series.md)')

    def write(self) -> None:
        """Do it."""
        for path, entry in self.changes.items():
            if entry is None:
                path.unlink()
                self.written.pop(str(path), None)
            else:
                layout.write_entry(path, entry)
                self.written[str(path)] = _digest(entry)
        if self.note:
            self.note.write_text(json.dumps(self.written, indent=0, sort_keys=True))


def _entry_at(path: Path) -> Optional[Entry]:
    if path.is_symlink():
        return Link(os.readlink(path))
    return path.read_bytes() if path.is_file() else None


def _digest(entry: Entry) -> str:
    data = b'link ' + entry.encode() if isinstance(entry, Link) else b'file ' + entry
    return hashlib.sha1(data).hexdigest()


def settled(made: Files, old: Files, exact: bool) -> Files:
    """What to write: the old bytes where only line numbers differ, and those
    of the old are of the point release that the patches are made on."""
    return {name: old[name] if not exact and is_same(name, data, old.get(name), False)
            else data for name, data in made.items()}


def write_bases(all_made: Sequence[Generated], order: Sequence[str]) -> None:
    """Write what the trees of some bases hold."""
    before = {base: layout.read(base) for base in order}
    after = dict(before)
    common = layout.read(COMMON)
    writer = Writer()
    qtest: Files = {}
    for made in all_made:
        name = made.base.name
        after[name] = settled(made.files, before[name], made.exact)
        common = settled(made.common, common, made.exact and name == order[-1])
        qtest = made.qtest
    plan = layout.arrange(after, order)
    plan.update({f'{COMMON}/{name}': data for name, data in common.items()})
    there = layout.on_disk([*order, COMMON])
    for path in sorted(set(plan) | set(there)):
        writer.put(PATCHES / path, plan.get(path))
    for file, data in {**qtest, 'README': README.encode()}.items():
        writer.put(QTEST / file, data)
    for test in sorted(QTEST.rglob('*')):
        if test.is_file() and str(test.relative_to(QTEST)) not in (*qtest, 'README'):
            writer.put(test, None)
    writer.check()
    writer.write()
    for made in all_made:
        if not made.exact:
            say(f'note: the tree of {made.base.name} is {made.version}: where more than '
                'line numbers differs, its patches are now made on that; write it into '
                'patches/bases')
    told = [made.base.name for made in all_made]
    for made in reversed(all_made):
        told += tell_followers(made.base.name, before, after, order, told)


def tell_followers(name: str, before: Dict[str, Files], after: Dict[str, Files],
                   order: Sequence[str], done: Sequence[str]) -> List[str]:
    """Say which bases had a patch in common with this one, and no more do."""
    def contents(files: Files) -> Dict[str, str]:
        return {mail.subject: mail.normalized for mail in
                (Mail(file, data) for file, data in files.items()
                 if not file.startswith('cover/'))}
    old, new = contents(before[name]), contents(after[name])
    left: Dict[str, List[str]] = {}
    for base in order:
        if base in done:
            continue
        for subject, text in contents(before[base]).items():
            if old.get(subject) == text and new.get(subject) != text:
                left.setdefault(base, []).append(subject)
    for base, subjects in left.items():
        say(f'note: {base} had this in common with {name}, and keeps it as it was: '
            + '; '.join(subjects))
    if left:
        bases = ' '.join(left)
        say(f'carry the change over with scripts/port {name} {bases}, '
            f'then scripts/export {bases}')
    return list(left)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('export', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('export', USAGE, TEXT)
    parser.add_argument('bases', nargs='*', metavar='BASE', help=argparse.SUPPRESS)
    parser.add_argument('--check', action='store_true',
                        help='write nothing; fail if anything differs from what is there')
    args = parser.parse(argv)
    need_git()
    order = [base.name for base in load()]
    wanted = [find(name) for name in args.bases] or load()
    all_made = []
    with scratch_dir('export') as temp:
        for base in wanted:
            tree = Tree(base).need_series()
            if not tree.is_clean():
                say(f'note: what is not committed in {tree.path} is not exported')
            (temp / base.name).mkdir()
            made = generate(tree, temp / base.name)
            if CORE not in _ranges(made.files):
                die(f'the tree of {base.name} has no commits in range {CORE}')
            all_made.append(made)
            shutil.rmtree(temp / base.name)
    if args.check:
        results = [check_base(made, made.base.name == order[-1], order)
                   for made in all_made]
        if not all(results):
            return 1
        say('no drift: ' + ' '.join(made.base.name for made in all_made))
        return 0
    for made in all_made:
        check_senders(made, {**layout.read(made.base.name), **layout.read(COMMON)})
    write_bases(all_made, order)
    for made in all_made:
        print(PATCHES / made.base.name)
    return 0


def _ranges(files: Files) -> List[Range]:
    return [known for known in RANGES
            if any(name.startswith(known.code) for name in files)]
