# SPDX-License-Identifier: GPL-2.0-or-later
"""Try the series on every release of QEMU, and write down what fits."""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from . import layout
from .apply import Outcome, apply_to, sparse_files
from .bases import for_version, load, numbers
from .git import GitError, Repo, need_git, scratch
from .paths import PATCHES, TOP, WORK
from .ranges import RANGES, TESTS, UPSTREAM, Range, of_patch
from .ui import Error, Parser, die, need_space, run_main, say, scratch_dir

USAGE = '''scripts/releases --source REPOSITORY [COMMIT...]
       scripts/releases --tree DIR... [--run]
       scripts/releases [--check]'''

TEXT = '''
Find out which ranges of which series fit a release of QEMU. With --source: try
each point release that the git repository has a tag for, from 7.2.16 on, and
each COMMIT; with --tree: what is committed in a git tree of QEMU, such as a
distribution's. On each, scripts/apply --to and plain git am have to give the
same tree. The results go to patches/releases, one line for each release, and
the tables in README.md (one line for each series) and docs/releases.md (all
releases) are written from them; without --source and --tree, only that is
done.
'''

RECORD = PATCHES / 'releases'
README = TOP / 'README.md'
FULL = TOP / 'docs' / 'releases.md'
BEGIN = '<!-- releases: written by scripts/releases -->'
END = '<!-- end of releases -->'
FIRST = (7, 2, 16)
COLUMNS = ('release', 'base', 'am', 'ranges', 'left-out', 'qtests')


@dataclass
class Row:
    """A line of patches/releases; what is not so is `-`."""

    release: str
    base: str = '-'
    #: the patches for git am, as a pattern below patches/
    am: str = '-'
    #: the ranges that fit, by number
    ranges: str = '-'
    #: what does not fit, and why
    left_out: str = '-'
    qtests: str = '-'

    @property
    def cells(self) -> Tuple[str, ...]:
        """In the order of COLUMNS."""
        return (self.release, self.base, self.am, self.ranges, self.left_out, self.qtests)

    @property
    def order(self) -> Tuple[Tuple[int, ...], str]:
        """To sort by."""
        return numbers(self.release), self.release

    @property
    def outcome(self) -> Tuple[str, ...]:
        """What has to be the same for releases in one row of the table."""
        return self.base, self.am, self.ranges, re.sub(r' \([^)]*\)', '', self.left_out)


def read_record() -> Dict[str, Row]:
    """patches/releases, by release."""
    if not RECORD.exists():
        return {}
    rows = [line.split('\t') for line in RECORD.read_text().splitlines()
            if line and not line.startswith('#')]
    if not rows or tuple(rows[0]) != COLUMNS:
        return {}
    return {cells[0]: Row(*cells) for cells in rows[1:]}


def write_record(rows: Dict[str, Row]) -> None:
    """Write patches/releases."""
    text = ['# written by scripts/releases', '\t'.join(COLUMNS)]
    text += ['\t'.join(row.cells) for row in sorted(rows.values(), key=lambda row: row.order)]
    RECORD.write_text('\n'.join(text) + '\n')


# --- trying ---------------------------------------------------------------------

def pattern(base: str, outcome: Outcome) -> str:
    """What to give to git am for the ranges that fit, as one shell pattern or two."""
    left = [known for known, _ in outcome.left_out]
    there = [known for known in RANGES if known is not TESTS
             and any(name.startswith(known.code) for name in layout.patch_names(base))]
    wanted = [known for known in there if known not in left]
    if UPSTREAM in wanted and len(outcome.upstream_applied) < \
            len(outcome.upstream_applied) + len(outcome.upstream_present):
        wanted.remove(UPSTREAM)
    elif UPSTREAM in wanted and not outcome.upstream_applied:
        wanted.remove(UPSTREAM)
    names = [f"{mail.name.replace('common/', '')[:len(base) + 5]}*.patch"
             for mail in outcome.upstream_applied if UPSTREAM not in wanted]
    return ' '.join([*names, f'{base}/{_glob(wanted, there)}'])


def _glob(wanted: Sequence[Range], there: Sequence[Range]) -> str:
    if list(wanted) == list(there):
        return '*.patch'
    digits = [int(known.code) for known in wanted]
    if len(digits) == 1:
        return f'0{digits[0]}*.patch'
    if digits == list(range(digits[0], digits[-1] + 1)) and len(digits) > 2:
        return f'0[{digits[0]}-{digits[-1]}]*.patch'
    return '0[' + ''.join(map(str, digits)) + ']*.patch'


def try_release(repo: Repo, release: str) -> Row:
    """Try the series on what is checked out."""
    row = Row(release)
    start = repo.out('rev-parse', 'HEAD')
    version = repo.version('HEAD')
    found = for_version(version)
    if not found:
        row.left_out = 'no series is for it'
        return row
    row.base = found[0].name
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            outcome = apply_to(str(repo.path))
    except Error as error:
        row.left_out = re.sub(r'^patches/[^/]*/(\S*) does not fit [^:]*: (.*); the tree .*',
                              r'\1 (\2)', str(error))
        return row
    by_apply = repo.out('rev-parse', 'HEAD^{tree}')
    row.am = pattern(row.base, outcome)
    fit = [known for known in RANGES if known in outcome.applied]
    row.ranges = ' '.join(known.code for known in fit)
    row.left_out = '; '.join(
        f'{known}: {misfit.mail.name.rpartition("/")[2]} ({misfit.why})'
        for known, misfit in outcome.left_out) or '-'
    repo.raw('reset', '-q', '--hard', start)
    done = subprocess.run(
        ['bash', '-c', f'git am -q {_quoted(row.am)}'], cwd=repo.path, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=repo.env)
    if done.returncode:
        repo.run('am', '--abort')
        die(f'{release}: git am patches/{row.am} fails, though scripts/apply --to does '
            f'not: {GitError(["am"], done.stderr).line}')
    if repo.out('rev-parse', 'HEAD^{tree}') != by_apply:
        die(f'{release}: git am patches/{row.am} and scripts/apply --to give different trees')
    return row


def _quoted(am: str) -> str:
    return ' '.join(f"'{PATCHES}'/{word}" for word in am.split())


def scratch_tree(temp: Path, source: Repo) -> Repo:
    """A tree with the files that the series touch, to try on."""
    repo = scratch(temp / 'tree', source.git_path('objects'), bare=False, like=source)
    files = {name for base in load() for mails in _series_or_none(base.name).values()
             for mail in mails for name in mail.files}
    sparse_files(repo, [*files, 'hw/usb/hcd-xhci-pci.c'])
    for role in ('AUTHOR', 'COMMITTER'):
        repo.env[f'GIT_{role}_NAME'] = 'scripts/releases'
        repo.env[f'GIT_{role}_EMAIL'] = 'releases@localhost'
    return repo


def _series_or_none(base: str) -> Dict[Range, list]:
    try:
        return layout.series(base)
    except Error:
        return {}


def releases_of(source: Repo, commits: Sequence[str]) -> List[Tuple[str, str]]:
    """What to try: (name, commit)."""
    tags = [tag for tag in source.out('tag', '--list', 'v*').split()
            if re.fullmatch(r'v\d+\.\d+\.\d+', tag) and numbers(tag[1:]) >= FIRST]
    found = []
    for tag in sorted(tags, key=lambda tag: numbers(tag[1:])):
        sha = source.commit(tag)
        if sha:
            found.append((tag[1:], sha))
    for word in commits:
        sha = source.commit(word)
        if not sha:
            die(f'{source.path} has no commit {word}')
        found.append((f'{source.version(sha)} ({sha[:12]})', sha))
    if not found:
        die(f'{source.path} has no tags of releases from '
            + '.'.join(map(str, FIRST)) + ' on, and no commit is given')
    return found


def try_source(path: Path, commits: Sequence[str]) -> List[Row]:
    """Try all releases of a repository."""
    source = Repo(path, users=True)
    if not path.is_dir() or not source.ok('rev-parse', '--git-dir'):
        die(f'no such git repository: {path}')
    need_space(200)
    rows = []
    with scratch_dir('releases') as temp:
        wanted = releases_of(source, commits)
        repo = scratch_tree(temp, source)
        for release, sha in wanted:
            repo.raw('checkout', '-q', '-f', '--detach', sha)
            row = try_release(repo, release)
            tell(row)
            rows.append(row)
    return rows


def tell(row: Row) -> None:
    """Progress."""
    if row.am == '-':
        say(f'{row.release}: no: {row.left_out}')
    else:
        rest = '' if row.left_out == '-' else f', without {row.left_out}'
        say(f'{row.release}: {row.am}{rest}')


def try_tree(path: Path, run: bool) -> Row:
    """Try what is committed in a tree, and build and test it if `run`."""
    source = Repo(path, users=True)
    if not source.ok('cat-file', '-e', 'HEAD:hw/usb/hcd-xhci-pci.c'):
        die(f'{path} is not a git tree of QEMU')
    release = source.version('HEAD')
    done = source.run('show', 'HEAD:debian/changelog')
    found = re.match(r'\S+ \(\S*\) ([a-z]+)', done.stdout.decode(errors='replace'))
    if found:
        release += ' (' + ('Ubuntu ' if 'ubuntu' in done.stdout.decode(errors='replace')
                           .split('\n')[0] else 'Debian ') + found[1] + ')'
    with scratch_dir('releases') as temp:
        repo = scratch_tree(temp, source)
        head = source.commit('HEAD')
        repo.raw('checkout', '-q', '-f', '--detach', head or '')
        row = try_release(repo, release)
        tell(row)
        if run and row.am != '-':
            row.qtests = run_tests(temp, source, row)
    return row


def run_tests(temp: Path, source: Repo, row: Row) -> str:
    """Build a copy with the series and run the new qtests on it."""
    copy = temp / 'copy'
    source.raw('clone', '-q', '--shared', '--no-hardlinks', str(source.path.resolve()), str(copy))
    with contextlib.redirect_stderr(io.StringIO()):
        apply_to(str(copy))
    env = dict(os.environ, XHCI_WORK=str(WORK))
    done = subprocess.run([TOP / 'scripts/build', '--tree', copy], env=env, check=False,
                          stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        for folder in (WORK / 'build').glob('tree-copy-*'):
            shutil.rmtree(folder)
        return 'does not build'
    qemu = Path(done.stdout.splitlines()[-1])
    say(f'{row.release}: running the new qtests')
    results = temp / 'results.json'
    subprocess.run([TOP / 'scripts' / 'lib' / 'qtest', '--qemu', qemu, '--cwd', qemu.parent,
                    '--timeout', '120', '--match', 'xhci', '--exclude', 'pci-device-tests',
                    '--json', results, qemu.parent / 'tests/qtest/qos-test'],
                   check=False, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    shutil.rmtree(qemu.parent)
    all_results = [result for result, *_ in json.loads(results.read_text()).values()] \
        if results.exists() else []
    if not all_results:
        return 'do not run'
    return f'{all_results.count("pass")} passed, {all_results.count("fail")} failed'


# --- the tables -----------------------------------------------------------------

def full_table(rows: Sequence[Row]) -> List[str]:
    """The table for docs/releases.md: neighbours with the same outcome share a line."""
    groups: List[List[Row]] = []
    for row in sorted(rows, key=lambda row: row.order):
        plain = '(' not in row.release
        if groups and plain and '(' not in groups[-1][-1].release and \
                groups[-1][-1].outcome == row.outcome:
            groups[-1].append(row)
        else:
            groups.append([row])
    out = ['| QEMU | `git am` | ranges |', '| --- | --- | --- |']
    for group in groups:
        first = group[0]
        if first.am == '-':
            out.append(f'| {_span(group)} | - | {_why_not(first)} |')
        else:
            out.append(f'| {_span(group)} | `{_files(first)}` | {told_ranges(first)} |')
    return out


def short_table(rows: Sequence[Row]) -> List[str]:
    """The table for README.md: a line for each series that a release takes."""
    out = ['| QEMU | series | `git am`, for the newest of these |', '| --- | --- | --- |']
    for base in load():
        releases = sorted(
            (row for row in rows if row.base == base.name and '(' not in row.release),
            key=lambda row: row.order)
        fit = [row for row in releases if row.am != '-']
        if fit:
            some = '' if len(fit) == len(releases) else ', not all of them'
            out.append(f'| {_span(fit)}{some} | {base.name} | `{_files(fit[-1])}` |')
    return out


def _span(group: Sequence[Row]) -> str:
    first, last = group[0].release, group[-1].release
    return first if first == last else f'{first} to {last}'


def _files(row: Row) -> str:
    return ' '.join(f'patches/{word}' for word in row.am.split())


def told_ranges(row: Row) -> str:
    """The ranges that a release takes, and those that it cannot have."""
    fit = ', '.join(known.name for known in RANGES if known.code in row.ranges.split())
    if row.left_out == '-':
        return fit
    without = [known.name for known in RANGES if f'{known}:' in row.left_out]
    made = next((base.made for base in load() if base.name == row.base), '')
    mine, theirs = numbers(row.release), numbers(made)
    if mine[:2] == theirs[:2] and mine < theirs:
        need = 'needs' if len(without) == 1 else 'need'
        return f"{fit}; {' and '.join(without)} {need} {made}"
    return f"{fit}; not {', '.join(without)}"


def _why_not(row: Row) -> str:
    if row.base == '-':
        return row.left_out
    known = of_patch(row.left_out)
    return f'none: {known.name} does not fit' if known else 'none'


def write_tables(rows: Sequence[Row], check: bool) -> None:
    """Put the tables into the documents, or fail if others are there."""
    tables = {README: short_table(rows), FULL: full_table(rows)}
    new = {path: _with_table(path, table) for path, table in tables.items()}
    for path, text in new.items():
        if text == path.read_text():
            continue
        if check:
            die(f'the table of releases in {path.relative_to(TOP)} is not that of '
                'patches/releases: run scripts/releases')
        path.write_text(text)


def _with_table(path: Path, table: Sequence[str]) -> str:
    name = path.relative_to(TOP)
    if not path.is_file():
        die(f'{name} is missing: restore it with git checkout {name}')
    text = path.read_text()
    if text.count(BEGIN + '\n') != 1 or text.count(END) != 1:
        die(f'{name} lacks the lines around the table: {BEGIN} and {END}')
    head, _, rest = text.partition(BEGIN + '\n')
    tail = rest.partition(END)[2]
    return head + BEGIN + '\n' + '\n'.join(table) + '\n' + END + tail


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('releases', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> None:
    parser = Parser('releases', USAGE, TEXT)
    parser.add_argument('commits', nargs='*', metavar='COMMIT', help=argparse.SUPPRESS)
    parser.add_argument('--source', metavar='REPOSITORY',
                        help='a git repository with the tags of releases')
    parser.add_argument('--tree', metavar='DIR', nargs='+', default=[],
                        help='git trees of QEMU')
    parser.add_argument('--run', action='store_true',
                        help='also build each DIR with the series, and run the new qtests on it')
    parser.add_argument('--check', action='store_true',
                        help='write nothing; fail if the documents have other tables')
    args = parser.parse(argv)
    if args.commits and not args.source:
        parser.error(f"commits go with --source: '{args.commits[0]}'")
    if args.run and not args.tree:
        parser.error('--run needs --tree')
    if args.check and (args.source or args.tree):
        parser.error('--check takes neither --source nor --tree')
    need_git()
    rows = read_record()
    new: List[Row] = []
    if args.source:
        new = try_source(Path(args.source), args.commits)
        # What was tried before of other trees stays
        rows = {name: row for name, row in rows.items() if re.search(r'\([A-Z]', name)}
    for tree in args.tree:
        new.append(try_tree(Path(tree), args.run))
    for row in new:
        rows[row.release] = row
        print('\t'.join(row.cells))
    if new:
        write_record(rows)
    write_tables(list(rows.values()), args.check)
