# SPDX-License-Identifier: GPL-2.0-or-later
"""Carry what changed in the series of one base over to others.

For each commit of FROM there are up to four versions: FROM's as it was when
the patches were committed to this repository (old), FROM's now (new), TO's
now, and what TO's is to be. Only the step from old to new is carried over,
as a fixup of TO's commit, so that what TO has adapted stays adapted. The
rest is `git rebase -i` with a list that we write: what conflicts, stops
there, and goes on by --continue.
"""

import argparse
import difflib
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from . import layout
from .apply import Copy, Misfit
from .bases import Base, find, load
from .compare import without_equals
from .export import format_range
from .git import GitError, Repo, need_git, scratch
from .layout import COMMON
from .mail import Mail, normalized_diff
from .paths import TOP
from .ranges import RANGES, UPSTREAM, Commit, Range, of_tree
from .tree import Tree
from .ui import Parser, die, run_main, say, scratch_dir

USAGE = '''scripts/port FROM TO...|--all [COMMIT...] [--since REVISION]
       scripts/port --continue TO
       scripts/port --abort TO'''

TEXT = '''
Carry over to the trees of the bases TO what changed in the tree of FROM since
its patches were last committed in this repository: commits that are new,
changed, renamed, dropped or moved. Commits are matched by subject.
What TO has adapted for its QEMU stays: only the change itself is merged into
it. With COMMIT, by its hash or subject: only these, changed or not.

At the end, git range-diff shows each TO before and after. Then build TO and
run scripts/export TO.

If something conflicts, TO's tree stops there, as git rebase does: edit the
files, git add them, and run scripts/port --continue TO. scripts/port --abort
TO puts it back to where it was.
'''


@dataclass
class Patch:
    """A commit of a series, and what it says and does."""

    known: Range
    commit: Commit
    mail: Mail

    @property
    def content(self) -> str:
        """What counts in it."""
        return self.mail.content


def patches_of(tree: Tree, temp: Path) -> List[Patch]:
    """The series of a tree."""
    repo = scratch(temp / 'git', tree.objects)
    for name in ('base', 'series'):
        repo.raw('update-ref', f'refs/heads/{name}', tree.repo.commit(name) or '')
    found = []
    for known, commits in of_tree(repo, str(tree.path)).items():
        files = format_range(repo, known, commits, temp / known.code, 'x')
        mails = [Mail(name, files[name]) for name in sorted(files)]
        found += [Patch(known, commit, mail) for commit, mail in zip(commits, mails)]
    return found


class Source:
    """FROM, as it was and as it is."""

    def __init__(self, base: Base, temp: Path, since: str) -> None:
        self.tree = Tree(base).need_series()
        self.base = base
        if not self.tree.is_clean():
            say(f'note: what is not committed in {self.tree.path} is not carried over')
        (temp / 'from').mkdir()
        self.new = patches_of(self.tree, temp / 'from')
        self.old = self.read_old(temp, since)
        self.old_commits = self.commit_old(temp)
        self.renamed = self.find_renamed()

    def read_old(self, temp: Path, since: str) -> Dict[str, Mail]:
        """The patches of FROM in a revision of this repository, by subject."""
        root = temp / 'committed'
        repo = Repo(TOP, users=True)
        try:
            prefix = repo.out('rev-parse', '--show-prefix')
            repo.unpack(root, f'{since}:{prefix}patches')
        except GitError as error:
            if since != 'HEAD':
                die(f'this repository has no patches in {since}: {error.line}')
            return {}
        mails: Dict[str, Mail] = {}
        for folder in (self.base.name, COMMON):
            for name, content in sorted(layout.read(folder, root).items()):
                if not name.startswith('cover/'):
                    mail = Mail(name, content)
                    mails[mail.subject] = mail
        return mails

    def commit_old(self, temp: Path) -> Dict[str, str]:
        """These as commits on FROM's base, by subject, as far as they fit."""
        commit = self.tree.repo.commit('base')
        assert commit
        files = sorted({name for mail in self.old.values() for name in mail.files})
        self.copy = Copy(temp / 'old', self.tree.repo, commit, files)
        found: Dict[str, str] = {}
        for subject, mail in self.old.items():
            try:
                self.copy.am(mail)
                found[subject] = self.copy.head
            except Misfit:
                if not mail.name.startswith(UPSTREAM.code):
                    break
        return found

    def find_renamed(self) -> Dict[str, str]:
        """New subjects of commits that had another before, with the old one."""
        now = {patch.mail.subject for patch in self.new}
        gone = {subject: normalized_diff(mail.diff) for subject, mail in self.old.items()
                if subject not in now}
        found: Dict[str, str] = {}
        for patch in self.new:
            if patch.mail.subject in self.old or not gone:
                continue
            text = normalized_diff(patch.mail.diff)
            ratio, subject = max(
                (difflib.SequenceMatcher(None, text.splitlines(), other.splitlines(),
                                         autojunk=False).ratio(), name)
                for name, other in gone.items())
            if ratio > 0.6:
                found[patch.mail.subject] = subject
                del gone[subject]
        return found

    def old_of(self, patch: Patch) -> Optional[str]:
        """The subject of a commit in the old series, if it was there."""
        subject = self.renamed.get(patch.mail.subject, patch.mail.subject)
        return subject if subject in self.old else None

    def choose(self, words: Sequence[str]) -> List[Patch]:
        """The commits that were named."""
        chosen = []
        for word in words:
            sha = self.tree.repo.commit(word)
            found = [patch for patch in self.new if patch.commit.sha == sha
                     or patch.mail.subject == word]
            if not found:
                die(f"{self.base.name} has no commit '{word}' in its series "
                    f'(bases are: {" ".join(base.name for base in load())})')
            chosen += found
        return chosen


@dataclass
class Step:
    """A commit of TO as it is to be: what to pick, and what to add to it."""

    known: Range
    pick: str
    subject: str
    fixup: Optional[str] = None
    #: TO's commit that it is made of
    mine: Optional[Patch] = None


class Port:
    """Rebuilding the series of TO."""

    def __init__(self, source: Source, tree: Tree, temp: Path) -> None:
        self.source = source
        self.tree = tree
        self.name = tree.base.name
        #: what a port that stopped needs to go on
        self.folder = tree.path / '.git' / 'port'
        (temp / self.name).mkdir()
        self.mine = patches_of(tree, temp / self.name)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.repo = scratch(self.folder / 'git', tree.objects, source.tree.objects)
        # Commits of the old series are only in a scratch copy
        old = source.copy.repo
        pack = old.raw('pack-objects', '-q', '--stdout', stdin=old.raw(
            'rev-list', '--objects', '--no-object-names', 'HEAD', f'^{source.copy.start}'))
        self.repo.raw('unpack-objects', '-q', stdin=pack)
        for role in ('AUTHOR', 'COMMITTER'):
            self.repo.env[f'GIT_{role}_NAME'] = 'scripts/port'
            self.repo.env[f'GIT_{role}_EMAIL'] = 'port@localhost'
        self.done: List[str] = []

    # --- what is to be done -------------------------------------------------------

    def plan(self, chosen: Sequence[Patch]) -> List[Step]:
        """The commits that TO is to have, in order."""
        by_subject = {patch.mail.subject: patch for patch in self.mine}
        steps: List[Step] = []
        used = set()
        for patch in self.source.new:
            subject = patch.mail.subject
            old = self.source.old_of(patch)
            mine = by_subject.get(subject)
            if mine is None and old is not None:
                mine = by_subject.get(old)
            changed = patch in chosen or not chosen and (
                old is None or self.source.old[old].content != patch.content)
            if mine is not None:
                used.add(mine.mail.subject)
                if changed and mine.content != patch.content:
                    steps.append(self.changed(patch, mine, old))
                else:
                    steps.append(Step(patch.known, mine.commit.sha, mine.mail.subject,
                                      mine=mine))
                continue
            if patch in chosen or not self.mine or (
                    not chosen and old is None and patch.known is not UPSTREAM):
                self.done.append(f'new: {subject}')
                steps.append(Step(patch.known, patch.commit.sha, subject))
            elif changed and not chosen:
                say(f"note: '{subject}' changed, but {self.name} does not have it")
        return self.with_own(steps, used, bool(chosen))

    def with_own(self, steps: List[Step], used: set, keep_all: bool) -> List[Step]:
        """Add the commits that only TO has, each after the one before it."""
        renamed = set(self.source.renamed.values())
        for i, patch in enumerate(self.mine):
            subject = patch.mail.subject
            if subject in used:
                continue
            if subject in self.source.old and subject not in renamed and not keep_all \
                    and not any(subject == new.mail.subject for new in self.source.new):
                self.done.append(f'dropped: {subject}')
                continue
            before = self.mine[i - 1] if i else None
            at = next((n + 1 for n, step in enumerate(steps)
                       if before and step.mine is before
                       and RANGES.index(step.known) <= RANGES.index(patch.known)), None)
            if at is None:
                at = sum(RANGES.index(step.known) < RANGES.index(patch.known)
                         for step in steps)
            steps.insert(at, Step(patch.known, patch.commit.sha, subject, mine=patch))
        steps.sort(key=lambda step: RANGES.index(step.known))
        return steps

    def changed(self, patch: Patch, mine: Patch, old: Optional[str]) -> Step:
        """TO's commit with the change from FROM's old version to the new."""
        self.done.append(f'changed: {patch.mail.subject}')
        was = self.source.old_commits.get(old) if old else None
        if was is None:
            return Step(patch.known, patch.commit.sha, patch.mail.subject, mine=mine)
        before = self.on_parent(was, patch.commit.parent)
        if before is None:
            return Step(patch.known, patch.commit.sha, patch.mail.subject, mine=mine)
        pick = self.with_message(mine.commit, self.merged_message(was, patch, mine))
        tree = self.repo.out('rev-parse', f'{patch.commit.sha}^{{tree}}')
        fixup = None
        if tree != before:
            parent = self.repo.out('commit-tree', '-m', 'before', '-p',
                                   patch.commit.parent, before)
            fixup = self.repo.out('commit-tree', '-m', f'change of {patch.mail.subject}',
                                  '-p', parent, tree)
        return Step(patch.known, pick, patch.mail.subject, fixup, mine)

    def on_parent(self, old: str, parent: str) -> Optional[str]:
        """The files after FROM's old commit, had it been made on `parent`."""
        tree = self.repo.out('rev-parse', f'{old}^{{tree}}', f'{old}^^{{tree}}',
                             f'{parent}^{{tree}}').split()
        if tree[1] == tree[2]:
            return tree[0]
        base = self.repo.out('commit-tree', '-m', 'base', tree[1])
        ours = self.repo.out('commit-tree', '-m', 'ours', '-p', base, tree[2])
        theirs = self.repo.out('commit-tree', '-m', 'theirs', '-p', base, tree[0])
        done = self.repo.run('merge-tree', '--write-tree', ours, theirs)
        return done.stdout.decode().split('\n')[0] if done.returncode == 0 else None

    def merged_message(self, was: str, patch: Patch, mine: Patch) -> str:
        """TO's message, with what changed in FROM's."""
        texts = [self.repo.out('log', '-1', '--format=%B', sha) + '\n'
                 for sha in (mine.commit.sha, was, patch.commit.sha)]
        if texts[1] == texts[2]:
            return texts[0]
        names = []
        for i, text in enumerate(texts):
            names.append(self.folder / f'message-{i}')
            names[-1].write_text(text, errors='surrogateescape')
        done = self.repo.run('merge-file', '-p', *names)
        if done.returncode:
            say(f"note: {self.name}: look at the message of '{patch.mail.subject}': "
                f'it is that of {self.source.base.name} now')
            return texts[2]
        return done.stdout.decode('utf-8', 'surrogateescape')

    def with_message(self, commit: Commit, message: str) -> str:
        """The same commit with another message."""
        if self.repo.out('log', '-1', '--format=%B', commit.sha) == message.rstrip('\n'):
            return commit.sha
        who = self.repo.out('log', '-1', '--format=%an%n%ae%n%ad', '--date=raw',
                            commit.sha).split('\n')
        env = dict(zip(('GIT_AUTHOR_NAME', 'GIT_AUTHOR_EMAIL', 'GIT_AUTHOR_DATE'), who))
        return self.repo.out('commit-tree', '-p', commit.parent, '-m', message,
                             f'{commit.sha}^{{tree}}', env=env)

    def todo(self, steps: Sequence[Step]) -> List[str]:
        """The list for git rebase -i, with a marker before each range."""
        markers: Dict[str, str] = {}
        log = self.repo.out('log', '--format=%H %s',
                            f'{self.tree.repo.commit("base")}..{self.tree.repo.commit("series")}')
        for line in log.splitlines():
            sha, _, subject = line.partition(' ')
            markers[subject] = sha
        rows: List[str] = []
        here = None
        for step in steps:
            if step.known is not here:
                here = step.known
                sha = markers.get(here.marker) or self.repo.out(
                    'commit-tree', '-m', here.marker, '-p', self.tree.repo.commit('base') or '',
                    f'{self.tree.repo.commit("base")}^{{tree}}')
                rows.append(f'pick {sha} {here.marker}')
            rows.append(f'pick {step.pick} {step.subject}')
            if step.fixup:
                rows.append(f'fixup {step.fixup} change of {step.subject}')
        return rows

    # --- doing it -----------------------------------------------------------------

    def run(self, chosen: Sequence[Patch]) -> bool:
        """Rebuild TO. False: manual work is needed."""
        steps = self.plan(chosen)
        rows = self.todo(steps)
        repo = self.tree.repo
        before = repo.out('log', '--reverse', '--format=pick %H %s', 'base..series').split('\n')
        if rows == before:
            say(f'{self.name} has everything that {self.source.base.name} has')
            shutil.rmtree(self.folder)
            return True
        for line in self.done:
            say(f'{self.name}: {line}')
        (self.folder / 'todo').write_text('\n'.join(rows) + '\n', errors='surrogateescape')
        (self.folder / 'old').write_text(repo.commit('series') or '')
        alternates(self.tree).write_text(
            f'{self.source.tree.objects}\n{self.folder / "git" / "objects"}\n')
        editor = f'cp {shlex.quote(str(self.folder / "todo"))}'
        done = repo.run('rebase', '-i', '--empty=drop', '--onto', 'base', 'base', 'series',
                        env={**COMMITTER, 'GIT_SEQUENCE_EDITOR': editor})
        return finish(self.tree, done)


COMMITTER = {'GIT_COMMITTER_NAME': 'scripts/port', 'GIT_COMMITTER_EMAIL': 'port@localhost'}


def alternates(tree: Tree) -> Path:
    """The file that lends the objects of other repositories to a tree."""
    return tree.objects / 'info' / 'alternates'


def is_stopped(tree: Tree) -> bool:
    """Is a rebase under way there?"""
    return (tree.path / '.git' / 'rebase-merge').exists()


def finish(tree: Tree, done: 'subprocess.CompletedProcess[bytes]') -> bool:
    """After git rebase: say what to do, or show what changed."""
    name, repo = tree.base.name, tree.repo
    if is_stopped(tree):
        tell_conflict(tree, (done.stderr + done.stdout).decode(errors='replace'))
        return False
    if done.returncode:
        text = (done.stderr + done.stdout).decode(errors='replace')
        abort(tree)
        die(f'{name}: git rebase failed, the tree is as it was: '
            + GitError(['rebase'], text).line)
    old = (tree.path / '.git' / 'port' / 'old').read_text().strip()
    if old == repo.commit('base'):
        text = repo.out('log', '--reverse', '--format=> %h %s', 'base..series')
    else:
        text = repo.out('range-diff', '--no-color', f'base..{old}', 'base..series')
    keep_objects(tree)
    print(f'{name}, before and after:')
    print(without_equals(text + '\n') or '(nothing but the order or the base of commits)\n',
          end='')
    say(f'{name} is done: build it, then scripts/export {name}; '
        f'to go back: git -C {tree.path} reset --hard {old[:12]}')
    return True


def tell_conflict(tree: Tree, text: str) -> None:
    """Say exactly what a person has to do."""
    name, repo = tree.base.name, tree.repo
    files = repo.out('diff', '--name-only', '--diff-filter=U').split('\n')
    state = tree.path / '.git' / 'rebase-merge'
    done = (state / 'done').read_text().splitlines() if (state / 'done').exists() else []
    at = done[-1].split(' ', 2)[2] if done and len(done[-1].split(' ', 2)) > 2 else '?'
    if files == ['']:
        say(f"{name}: stopped at '{at}': {GitError(['rebase'], text).line}")
    else:
        say(f"{name}: conflict at '{at}' in {' '.join(files)}")
    say(f'  1. edit the files in {tree.path}\n'
        f'  2. git -C {tree.path} add {" ".join(files) or "FILE"}\n'
        f'  3. scripts/port --continue {name}    (or: scripts/port --abort {name})')


def keep_objects(tree: Tree) -> None:
    """Take over what was borrowed from other repositories."""
    repo = tree.repo
    wanted = repo.raw('rev-list', '--objects', '--no-object-names', '--ignore-missing',
                      '--all', '--reflog', '^base')
    pack = repo.raw('pack-objects', '-q', '--stdout', stdin=wanted)
    alternates(tree).unlink()
    repo.raw('unpack-objects', '-q', stdin=pack)
    shutil.rmtree(tree.path / '.git' / 'port')


def need_port(tree: Tree) -> None:
    """Fail if no port of this tree is under way."""
    if not tree.exists() or not (tree.path / '.git' / 'port' / 'old').exists():
        die(f'no port to {tree.base.name} is under way')


def go_on(tree: Tree) -> bool:
    """--continue"""
    need_port(tree)
    if not is_stopped(tree):
        return finish(tree, subprocess.CompletedProcess([], 0, b'', b''))
    done = tree.repo.run('rebase', '--continue', env={**COMMITTER, 'GIT_EDITOR': 'true'})
    return finish(tree, done)


def abort(tree: Tree) -> None:
    """--abort"""
    need_port(tree)
    old = (tree.path / '.git' / 'port' / 'old').read_text().strip()
    if is_stopped(tree):
        tree.repo.run('rebase', '--abort')
    tree.repo.raw('checkout', '-q', '-f', '-B', 'series', old)
    keep_objects(tree)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('port', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('port', USAGE, TEXT)
    parser.add_argument('words', nargs='*', metavar='FROM TO...', help=argparse.SUPPRESS)
    parser.add_argument('--all', action='store_true',
                        help='to all bases whose tree is there')
    parser.add_argument('--since', metavar='REVISION', default='HEAD',
                        help='of this repository: what changed since the patches there; '
                        'for when the patches of FROM are committed already')
    parser.add_argument('--continue', dest='go_on', metavar='TO',
                        help='go on after a conflict')
    parser.add_argument('--abort', metavar='TO', help='put TO back to where it was')
    args = parser.parse(argv)
    need_git()
    if args.go_on or args.abort:
        if args.words or args.all or (args.go_on and args.abort):
            parser.error('--continue and --abort take one base, and nothing else')
        tree = Tree(find(args.go_on or args.abort))
        with tree.locked():
            if args.go_on:
                return 0 if go_on(tree) else 1
            abort(tree)
            say(f'{tree.path} is as it was')
        return 0
    if not args.words:
        parser.error('from which base?')
    names = {base.name: base for base in load()}
    origin = find(args.words[0])
    targets = [names[word] for word in args.words[1:] if word in names]
    commits = [word for word in args.words[1:] if word not in names]
    if args.all:
        if targets:
            parser.error('give bases or --all, not both')
        targets = [base for base in load() if base != origin and Tree(base).exists()]
    if not targets:
        parser.error('to which bases?' if not args.all else
                     'no other base has a tree: make one with scripts/tree')
    if origin in targets:
        parser.error(f'{origin.name} cannot be ported to itself')
    with scratch_dir('port') as temp:
        source = Source(origin, temp, args.since)
        chosen = source.choose(commits)
        stopped = [base.name for base in targets if not port_to(source, base, chosen, temp)]
    if stopped:
        die('manual work is needed, see above, for: ' + ' '.join(stopped))
    return 0


def port_to(source: Source, base: Base, chosen: Sequence[Patch], temp: Path) -> bool:
    """Port to one base. False: manual work is needed."""
    tree = Tree(base)
    with tree.locked():
        tree.need()
        if is_stopped(tree) or (tree.path / '.git' / 'port' / 'old').exists():
            die(f'a port or rebase in {tree.path} is not finished: '
                f'scripts/port --continue {base.name}, or --abort {base.name}')
        if not tree.is_clean():
            die(f'{tree.path} has uncommitted changes: commit or remove them first')
        if tree.repo.out('rev-parse', '--abbrev-ref', 'HEAD') != 'series':
            die(f'{tree.path} is not on its branch series: git checkout series')
        try:
            return Port(source, tree, temp).run(chosen)
        except GitError as error:
            if (tree.path / '.git' / 'port' / 'old').exists():
                abort(tree)
            die(f'{base.name}: {error.line}')
