# SPDX-License-Identifier: GPL-2.0-or-later
"""Apply a series, as commits.

Everything is done in a private copy first, which shares the objects of the
tree; the tree itself is then moved forward in one step. So a run that fails,
or is interrupted, leaves the tree as it was.
"""

import argparse
import hashlib
import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from . import layout
from .bases import Base, find, for_version, load
from .export import tree_differs
from .git import GitError, Repo, identity, need_git, scratch, transfer
from .mail import Mail, hunk_at
from .paths import WORK
from .ranges import RANGES, TESTS, UPSTREAM, Range, by_name
from .tree import Tree
from .ui import Parser, die, need_space, run_main, say, scratch_dir, signals_held

USAGE = '''scripts/apply BASE
       scripts/apply --to DIR [--only RANGE...] [--3way]'''

TEXT = '''
Apply a patch series, as commits, to the tree that scripts/tree made of BASE,
or to a QEMU git tree of your own, on the branch that is checked out there.
For the latter the series is the one for the tree's version, or the nearest.

A series has ranges:

  00 upstream     fixes that some point releases lack; applied if they do
  01 core         interrupts on the PCI pin: what this is all about
  02 interrupts   interrupts in every mode, and at every change of mode
  03 hardening    no guest, device or stream brings QEMU down
  04 speed        less work for each event
  09 tests        this project's own tests; --to leaves them out unless named

core and interrupts have to fit exactly. If one does not, the command says
which patch, file and hunk, and restores the tree; so it does if you interrupt
it. Another range that does not fit is left out.
'''


class Misfit(Exception):
    """A patch does not fit, and why."""

    def __init__(self, mail: Mail, why: str) -> None:
        self.mail = mail
        self.why = why
        super().__init__(why)


def sparse_files(repo: Repo, files: Sequence[str]) -> None:
    """Have only some files in a work tree, and VERSION."""
    repo.raw('config', 'core.sparseCheckout', 'true')
    info = repo.path / '.git' / 'info'
    info.mkdir(exist_ok=True)
    patterns = sorted({f'/{name}' for name in (*files, 'VERSION')})
    (info / 'sparse-checkout').write_text('\n'.join(patterns) + '\n')


class Copy:
    """A private copy of a tree at a commit, with only the files that matter."""

    def __init__(self, path: Path, tree: Repo, commit: str, files: Sequence[str],
                 *objects: Path) -> None:
        self.repo = scratch(path, tree.git_path('objects'), *objects,
                            bare=False, like=tree)
        self.start = commit
        sparse_files(self.repo, files)
        try:
            self.repo.raw('update-ref', '--no-deref', 'HEAD', commit)
            self.repo.raw('reset', '-q', '--hard')
        except GitError as error:
            die(f'git cannot read {tree.path}: {error.line}')
        who = identity(tree) or 'scripts/apply <apply@localhost>'
        name, _, address = who.rpartition(' <')
        for role in ('AUTHOR', 'COMMITTER'):
            self.repo.env[f'GIT_{role}_NAME'] = name
            self.repo.env[f'GIT_{role}_EMAIL'] = address.rstrip('>')

    @property
    def head(self) -> str:
        """The commit that it is at."""
        return self.repo.out('rev-parse', 'HEAD')

    def am(self, mail: Mail) -> None:
        """Commit a patch, or raise Misfit."""
        done = self.repo.run('am', '-q', '--no-3way', '--no-scissors', '-', stdin=mail.data)
        if done.returncode:
            text = (done.stderr + done.stdout).decode(errors='replace')
            self.repo.run('am', '--abort')
            raise Misfit(mail, _explain(mail, text))

    def back_to(self, commit: str) -> None:
        """Forget the commits since."""
        self.repo.raw('reset', '-q', '--hard', commit)

    def marker(self, known: Range) -> None:
        """The empty commit with which a range begins."""
        self.repo.raw('commit', '-q', '--allow-empty', '-m', known.marker,
                      env={'GIT_AUTHOR_DATE': '@0 +0000', 'GIT_COMMITTER_DATE': '@0 +0000'})


def _explain(mail: Mail, text: str) -> str:
    """Why git am failed: the file and the hunk, if it says so."""
    for line in text.splitlines():
        found = re.match(r'error: patch failed: (.*):(\d+)$', line)
        if found:
            hunk = hunk_at(mail, found[1], found[2])
            return f'{found[1]}, hunk {hunk}' if hunk else found[1]
    found = re.search(r'^(?:error|fatal): (.*)', text, re.M)
    return found[1] if found else 'git am failed'


class Index:
    """The files of a commit, to try patches on without commits."""

    def __init__(self, copy: Copy, commit: str, path: Path) -> None:
        self.repo = copy.repo
        self.path = path
        self.env = {'GIT_INDEX_FILE': str(path)}
        self.repo.raw('read-tree', commit, env=self.env)

    def take_back(self, patches: Sequence[Mail]) -> bool:
        """Take all of them back, the last first; or none, if one is not there."""
        saved = self.path.with_suffix('.saved')
        shutil.copy(self.path, saved)
        for mail in reversed(patches):
            done = self.repo.run('apply', '--cached', '--reverse', '-',
                                 stdin=mail.data, env=self.env)
            if done.returncode:
                saved.replace(self.path)
                return False
        return True


@dataclass
class Outcome:
    """What was done with a series."""

    #: ranges that the tree had already
    present: List[Range] = field(default_factory=list)
    #: ranges that were applied now
    applied: List[Range] = field(default_factory=list)
    #: patches of upstream's that were applied, and that the tree had
    upstream_applied: List[Mail] = field(default_factory=list)
    upstream_present: List[Mail] = field(default_factory=list)
    #: ranges that do not fit, with the first patch that does not
    left_out: List[Tuple[Range, Misfit]] = field(default_factory=list)


class Job:
    """Applying a series to a copy."""

    def __init__(self, base: Base, patches: Dict[Range, List[Mail]], temp: Path,
                 tree: Repo, where: str, version: str) -> None:
        self.base = base
        self.patches = patches
        self.temp = temp
        self.tree = tree
        self.where = where
        self.version = version
        self.start = tree.out('rev-parse', 'HEAD')
        self.three_way = False
        self.markers = False
        self.outcome = Outcome()
        self._reference: Optional[Dict[str, str]] = None
        self.files = sorted({name for mails in patches.values()
                             for mail in mails for name in mail.files})
        self.copy = Copy(temp / 'copy', tree, self.start, self.files,
                         *_objects_at_hand())

    def run(self, wanted: Sequence[Range]) -> Outcome:
        """Apply what is wanted and not there yet.

        Raises Misfit if a range that is required does not fit.
        """
        out = self.outcome
        out.present = self.find_present()
        for known in wanted:
            for before in RANGES[:RANGES.index(known)]:
                if before.required and self.patches.get(before) and \
                        before not in (*wanted, *out.present):
                    die(f'{known} comes after {before}, which {self.where} does not have: '
                        f'add {before.name} to --only')
        for known in RANGES:
            mails = self.patches.get(known)
            if known not in wanted or not mails or known in out.present:
                continue
            if known is UPSTREAM:
                self.apply_upstream(mails)
                continue
            needed = self.base.needs(known.code, self.version)
            if needed:
                out.left_out.append((known, Misfit(
                    mails[0], f'it uses what came with QEMU {needed}')))
                continue
            head = self.copy.head
            try:
                if self.markers:
                    self.copy.marker(known)
                for mail in mails:
                    self.apply_one(mail)
                out.applied.append(known)
            except Misfit as misfit:
                if known.required:
                    raise
                out.left_out.append((known, misfit))
                self.copy.back_to(head)
        return out

    def find_present(self) -> List[Range]:
        """The ranges that come off the tree: it has them already.

        The patches of upstream's that it has go to outcome.upstream_present.
        """
        index = Index(self.copy, 'HEAD', self.temp / 'index')
        present = [known for known in reversed(RANGES)
                   if known is not UPSTREAM and self.patches.get(known)
                   and index.take_back(self.patches[known])]
        for mail in self.patches.get(UPSTREAM, ()):
            if index.take_back([mail]):
                self.outcome.upstream_present.append(mail)
        return present[::-1]

    def apply_upstream(self, mails: Sequence[Mail]) -> None:
        """Apply the fixes that the tree lacks."""
        out = self.outcome
        before = self.copy.head
        if self.markers:
            self.copy.marker(UPSTREAM)
        for mail in mails:
            name = mail.name.rpartition('/')[2]
            if mail in out.upstream_present:
                say(f'left out: {name}: {self.where} has this already')
                continue
            try:
                self.apply_one(mail)
                out.upstream_applied.append(mail)
            except Misfit as misfit:
                has = mail.is_in_release(self.version)
                if has:
                    say(f'left out: {name}: QEMU {self.version} has this already')
                    out.upstream_present.append(mail)
                else:
                    say(f'warning: {name} does not fit {self.where}, which lacks it: '
                        f'{misfit.why}' if has is False else
                        f'left out: {name} does not fit {self.where}: {misfit.why}')
        if out.upstream_applied:
            out.applied.append(UPSTREAM)
        else:
            self.copy.back_to(before)

    def apply_one(self, mail: Mail) -> None:
        """Apply a patch as it is or, if that was asked for, by a merge."""
        try:
            self.copy.am(mail)
        except Misfit:
            if not self.three_way:
                raise
            self.merge(mail)

    def merge(self, mail: Mail) -> None:
        """Let git merge what the patch does to the files it was made on."""
        if self._reference is None:
            self._reference = self.make_reference()
        commit = self._reference.get(mail.name)
        if commit is None:
            raise Misfit(mail, f'the files of QEMU {self.base.made} are needed for it: '
                         f'run scripts/tree {self.base.name} first')
        repo = self.copy.repo
        done = repo.run('cherry-pick', '--keep-redundant-commits', commit)
        if done.returncode:
            files = repo.out('diff', '--name-only', '--diff-filter=U').split()
            why = ('conflict in ' + ' '.join(files) if files
                   else GitError(['cherry-pick'], done.stderr.decode(errors='replace')).line)
            repo.run('cherry-pick', '--abort')
            raise Misfit(mail, why)

    def make_reference(self) -> Dict[str, str]:
        """The series as commits on what it was made on; by a patch's name.

        Empty if that is not at hand.
        """
        for name, repo in ((self.base.origin, self.tree),
                           ('base', Tree(self.base).repo)):
            if repo.path.exists() and repo.commit(name):
                break
        else:
            return {}
        made = repo.commit(name)
        assert made
        copy = Copy(self.temp / 'reference', repo, made, self.files,
                    self.tree.git_path('objects'), *_objects_at_hand())
        with open(self.copy.repo.git_path('objects/info/alternates'), 'a',
                  encoding='utf-8') as alternates:
            alternates.write(f"{copy.repo.git_path('objects')}\n")
        found: Dict[str, str] = {}
        for known in RANGES:
            for mail in self.patches.get(known, ()):
                try:
                    copy.am(mail)
                    found[mail.name] = copy.head
                except Misfit:
                    if known is not UPSTREAM:
                        return found
        return found

    def finish(self) -> int:
        """Move the tree forward. Returns the number of commits added."""
        head = self.copy.head
        if head == self.start:
            return 0
        count = int(self.copy.repo.out('rev-list', '--count', f'{self.start}..{head}'))
        try:
            transfer(self.copy.repo, self.tree, head, self.start)
            with signals_held():
                self.tree.raw('merge', '-q', '--ff-only', head, session=True)
        except GitError as error:
            die(f'git cannot move {self.where} forward, it is as it was: '
                + re.sub('^(error|fatal): ', '', error.line))
        return count


def _objects_at_hand() -> List[Path]:
    return sorted((WORK / 'trees').glob('*/.git/objects'))


# --- a tree of the user's -----------------------------------------------------

def check_users_tree(repo: Repo, to: str, base: str, added: Sequence[str]) -> None:
    """Fail if the tree is in a state in which nothing should be applied."""
    if not repo.ok('rev-parse', '--git-dir'):
        die(f'{to} is not a git tree: make it one (git init && git add -f . && git '
            f'commit), or apply patches/{base}/*.patch with patch -p1')
    if repo.out('rev-parse', '--show-prefix'):
        die(f'{to} lies inside another git tree: make it one of its own '
            '(git init && git add -f . && git commit)')
    if repo.commit('HEAD') is None:
        die(f'{to} has no commit yet: git add -f . && git commit')
    for state in ('rebase-apply', 'rebase-merge', 'MERGE_HEAD', 'CHERRY_PICK_HEAD',
                  'REVERT_HEAD'):
        if repo.git_path(state).exists():
            die(f'{to} is in the middle of an am, rebase, merge or cherry-pick: '
                'finish or abort that first')
    changed = repo.out('status', '--porcelain', '-uno', '--ignore-submodules=all')
    if changed:
        die(f'{to} has changes that are not committed ({changed.splitlines()[0][3:]}): '
            'commit or stash them first')
    for name in added:
        path = repo.path / name
        if (path.exists() or path.is_symlink()) and \
                not repo.ok('ls-files', '--error-unmatch', '--', name):
            die(f'{to} has an untracked file that the series adds: {name}')


def choose_base(version: str, to: str) -> Base:
    """The series for a version, and say which it is."""
    found = for_version(version)
    if found is None:
        there = ', '.join(f'{base.name} for {" and ".join(base.releases)}.x'
                          for base in load())
        die(f'no series fits QEMU {version} ({to}); there are: {there}')
    base, exact = found
    if exact:
        say(f'QEMU {version}: taking the series {base.name}')
    else:
        say(f'QEMU {version} has no series of its own: trying the nearest, {base.name}')
    return base


def does_not_fit(misfit: Misfit, job: Job) -> str:
    """The message about a patch that stops everything."""
    name = f'patches/{misfit.mail.name}'
    if job.three_way:
        return (f'{name} cannot be merged into {job.where}: {misfit.why}; '
                'the tree is as it was')
    return (f'{name} does not fit {job.where}: {misfit.why}; the tree is as it was '
            f'(the series is made on QEMU {job.base.made}; --3way lets git try to merge)')


def same_subject(repo: Repo, mails: Sequence[Mail]) -> Optional[str]:
    """A commit near the tip that has the subject of a patch."""
    subjects = {mail.subject for mail in mails}
    for line in repo.out('log', '-n', '300', '--format=%h %s').splitlines():
        sha, _, subject = line.partition(' ')
        if subject in subjects:
            return f"{sha} ('{subject}')"
    return None


def apply_to(to: str, only: Sequence[Range] = (), three_way: bool = False) -> Outcome:
    """Apply the series for a tree of the user's to it."""
    path = Path(to)
    if not path.is_dir():
        die(f'no such folder: {to}')
    if not ((path / 'VERSION').is_file() and (path / 'hw/usb/hcd-xhci-pci.c').is_file()):
        die(f'{to} is not a QEMU source tree: it has no VERSION or no hw/usb/hcd-xhci-pci.c')
    version = (path / 'VERSION').read_text().strip()
    if not re.match(r'\d+\.\d+', version):
        die(f'{to}: cannot make sense of VERSION: {version}')
    base = choose_base(version, to)
    patches = layout.series(base.name)
    wanted = choose_ranges(only, patches, base)
    repo = Repo(path.resolve(), users=True)
    check_users_tree(repo, to, base.name,
                     [name for known in wanted for mail in patches.get(known, ())
                      for name in mail.added])
    need_space(60)
    with scratch_dir('apply') as temp:
        job = Job(base, patches, temp, repo, to, version)
        job.three_way = three_way
        try:
            out = job.run(wanted)
        except Misfit as misfit:
            there = same_subject(repo, [mail for mails in patches.values() for mail in mails])
            if there and not job.outcome.present:
                die(f'{to} has a commit of this or another version of the series '
                    f'already, {there}, and patches/{misfit.mail.name} does not fit '
                    f'on it: {misfit.why}; the tree is as it was')
            die(does_not_fit(misfit, job))
        report(job, wanted, job.finish())
        return out


def choose_ranges(only: Sequence[Range], patches: Dict[Range, List[Mail]],
                  base: Base) -> List[Range]:
    """The ranges to apply: those named, with what upstream has for them."""
    for known in only:
        if known is not UPSTREAM and not patches.get(known):
            die(f'the series {base.name} has no range {known}')
    chosen = [known for known in RANGES
              if known in only or (not only and known is not TESTS)]
    if UPSTREAM not in chosen and patches.get(UPSTREAM) and chosen != [TESTS]:
        chosen.insert(0, UPSTREAM)
    return chosen


def report(job: Job, wanted: Sequence[Range], count: int) -> None:
    """Say what was done, what was left out and why, and what comes next."""
    out, to = job.outcome, job.where
    there = [known for known in out.present if known in wanted]
    if there:
        names = ', '.join(str(known) for known in there)
        say(f'{to} has {names} of the series {job.base.name} already')
    for known, misfit in out.left_out:
        name = misfit.mail.name.rpartition('/')[2]
        say(f'left out: {known}: {name} does not fit ({misfit.why}); '
            f'it is made for QEMU {job.base.made}')
    if not count:
        if not there:
            die(f'nothing of the series {job.base.name} was applied to {to}, '
                'it is as it was')
        if not out.left_out:
            say(f'the series {job.base.name} is already applied to {to}')
        return
    names = ', '.join(str(known) for known in out.applied)
    say(f'added {count} commits to {to}: {names}')
    say(f'to go back to {job.start[:12]}: git -C {shlex.quote(to)} reset --hard {job.start}')
    say('now configure and build')


# --- a tree of ours -----------------------------------------------------------

def apply_base(base: Base) -> Path:
    """Apply all of a series to the tree that scripts/tree made."""
    tree = Tree(base)
    with tree.locked(), scratch_dir('apply') as temp:
        tree.need()
        patches = layout.series(base.name)
        repo = tree.repo
        added = [name for mails in patches.values() for mail in mails for name in mail.added]
        check_users_tree(repo, str(tree.path), base.name, added)
        note = tree.path / '.git' / 'scripts-applied'
        digest = hashlib.sha1(b''.join(mail.data for known in RANGES for mail
                                       in patches.get(known, ()))).hexdigest()
        head = repo.out('rev-parse', 'HEAD')
        if head != repo.commit('base'):
            was = note.read_text().split() if note.exists() else ['', '']
            if was[0] == head and was[1] != digest:
                say(f'the patches have changed: taking {tree.path} back to base')
                repo.raw('checkout', '-q', '-B', 'series', 'base')
            else:
                if was[0] != head and tree_differs(tree):
                    die(f'{tree.path} holds commits that patches/{base.name} does not: '
                        f'scripts/export {base.name} keeps them, '
                        f'scripts/tree {base.name} --reset takes it back to base')
                say(f'the series {base.name} is already applied to {tree.path}')
                return tree.path
        need_space(60)
        # Who applies it there is of no importance, but must be somebody
        repo.env['GIT_COMMITTER_NAME'] = 'scripts/apply'
        repo.env['GIT_COMMITTER_EMAIL'] = 'apply@localhost'
        job = Job(base, patches, temp, repo, str(tree.path), tree.version)
        job.markers = True
        try:
            job.run([known for known in RANGES if patches.get(known)])
        except Misfit as misfit:
            die(does_not_fit(misfit, job))
        if job.outcome.left_out:
            die(does_not_fit(job.outcome.left_out[0][1], job))
        say(f'applied {job.finish()} commits to {tree.path}')
        note.write_text(f'{repo.out("rev-parse", "HEAD")} {digest}\n')
    return tree.path


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('apply', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = Parser('apply', USAGE, TEXT)
    parser.add_argument('base', nargs='?', metavar='BASE', help=argparse.SUPPRESS)
    parser.add_argument('more', nargs='*', help=argparse.SUPPRESS)
    parser.add_argument('--to', metavar='DIR', help='a QEMU git tree of your own')
    parser.add_argument('--only', metavar='RANGE', nargs='+', default=[],
                        help='only these ranges, by name or number')
    parser.add_argument('--3way', dest='three_way', action='store_true',
                        help='let git merge what does not fit exactly; look at the commits, '
                        'and build them, before you trust them. The files that the series '
                        'was made on have to be at hand: in the history of DIR, or by '
                        'scripts/tree BASE')
    args = parser.parse(argv)
    if args.more:
        parser.error('one base at a time')
    if args.to == '':
        parser.error('--to needs a folder')
    if args.base and args.to:
        parser.error('give a base or --to, not both')
    if not args.base and not args.to:
        parser.error('which base, or which tree?')
    if args.three_way and not args.to:
        parser.error('--3way goes with --to')
    if args.only and not args.to:
        parser.error('--only goes with --to')
    need_git()
    if args.to:
        only = [by_name(word) for words in args.only for word in words.split(',') if word]
        apply_to(args.to, only, args.three_way)
        print(Path(args.to).resolve())
    else:
        print(apply_base(find(args.base)))
