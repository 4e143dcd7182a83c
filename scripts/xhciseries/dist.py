# SPDX-License-Identifier: GPL-2.0-or-later
"""The series in the form in which others take patches, below dist/."""

import argparse
import hashlib
import shutil
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from . import cover, layout, releases
from .bases import Base, find, load
from .disttry import try_all
from .git import Repo, need_git
from .packagers import PACKAGERS, Packager, Sources, for_release, put_text, write_base
from .paths import TOP, WORK
from .ui import Parser, die, need_space, run_main, say, scratch_dir, signals_held

USAGE = '''scripts/dist [BASE...] [--out DIR] [--source REPOSITORY] [--try]
       scripts/dist --for PACKAGER@RELEASE [--out DIR]'''

TEXT = '''
Write the series below dist/, in the forms that others use: for each base and
range an mbox for git am and a diff, for each of the packagers in the README
there the files for their package, and SHA256SUMS. Two runs give the same
bytes.

With a BASE, such as v10.0, only the mboxes and diffs of that one are written.
The diffs are made on the release of each base: on the trees that scripts/tree
made, or on the tags of a git repository that --source names. Without --source,
a base that has no tree gets its mboxes only. With --try, what
was written is applied to these releases, with the command that each packager
uses, and must give what git am gives; code goes through its linter. Missing
tools are named, and what needs them is skipped. The README says what was run
and what was not.

With --for, only the files for one packager are written, for any release that
patches/releases has patches for. This needs no source of QEMU.
'''


def write_sums(out: Path) -> None:
    """SHA256SUMS of all files, for sha256sum -c."""
    lines = []
    for path in sorted(path for path in out.rglob('*') if path.is_file()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f'{digest}  {path.relative_to(out)}')
    put_text(out / 'SHA256SUMS', *lines)


def what_releases_take() -> List[str]:
    """A table: which of the files a release takes."""
    rows = []
    for row in releases.read_record().values():
        if row.base == '-':
            continue
        there = {name[:2] for name in layout.patch_names(row.base)} - {'00', 'co'}
        if row.am == '-' or '(' in row.release or not there <= set(row.ranges.split()):
            continue
        files = [f'{row.base}/all']
        named = [word.rpartition('/')[2] for word in row.am.split()]
        if row.am.endswith('/*.patch') and any(
                name.startswith('00') for name in layout.patch_names(row.base)):
            files.insert(0, f'{row.base}/00-upstream')
        for word in named[:-1]:
            files.insert(0, f'{row.base}/00-upstream/{word}')
        rows.append((row.release, ', then '.join(files)))
    out = ['| QEMU | takes |', '| --- | --- |']
    first = ''
    for number, (release, takes) in enumerate(rows):
        first = first or release
        if number + 1 == len(rows) or rows[number + 1][1] != takes:
            span = release if first == release else f'{first} to {release}'
            out.append(f'| {span} | {takes} |')
            first = ''
    return out


def write_readme(out: Path, tried: Dict[str, List[str]], without: Sequence[Base]) -> None:
    """What is here, and what was run of it.

    Args:
        without: the bases that have no diffs
    """
    lines = [f'# The patches for xHCI interrupts, {cover.release().version}, for packagers', '',
             'Written by `scripts/dist`. Check what you have with `sha256sum -c SHA256SUMS`.', '',
             '## Any QEMU', '',
             'In `series`, for each base: `NAME.mbox` for `git am`, and `NAME.diff` for '
             '`git apply` or `patch -p1`, which', 'give the same. `all` is every range but 00xx, '
             'which some point releases have from upstream.', '']
    if without:
        lines += [f'Except for 00xx, there are no diffs of {_names(without)}: no source of QEMU '
                  'was at hand.', '']
    lines += [*what_releases_take(), '']
    if 'series' in tried:
        lines += ['Tried:', '', *(f'- {line}' for line in tried['series']), '']
    for packager in PACKAGERS:
        lines += [f'## {packager.name} ({", ".join(packager.releases)})', '',
                  f'In `{packager.folder}`. {packager.use}', '']
        if tried:
            lines += ['Tried:', '', *(f'- {line}' for line in tried[packager.folder]), '']
        else:
            lines += ['Not tried in this run: `scripts/dist --try` does.', '']
        lines += [f'Not run: {packager.left}.', '']
    put_text(out / 'README.md', *lines[:-1])


def _names(bases: Sequence[Base]) -> str:
    return ', '.join(base.name for base in bases)


def generate(out: Path, bases: Sequence[Base], sources: Sources, temp: Path) -> List[Base]:
    """Write everything but the README and the sums.

    Returns:
        the bases without diffs, as there is no source
    """
    missing = sources.missing(bases)
    for base in bases:
        say(f'writing {base.name}')
        write_base(out, base, sources, temp)
    for packager in PACKAGERS:
        for release in packager.releases:
            say(f'writing {packager.name} {release}')
            packager.write(out / packager.folder, release, for_release(release))
    if missing:
        say(f'left out: the diffs of {_names(missing)}, as there are no sources of QEMU: '
            f'run scripts/tree {missing[0].name}, or give --source')
    return missing


def replace(new: Path, out: Path, mark: str) -> None:
    """Put a folder in the place of one that an earlier run wrote.

    Args:
        mark: what such a folder has besides SHA256SUMS
    """
    if out.exists() and any(out.iterdir()) and not (
            (out / 'SHA256SUMS').is_file() and (out / mark).exists()):
        die(f'{out} has other files than those of scripts/dist: name another folder with --out')
    with signals_held():
        if out.exists():
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(new, out)


def folder_for(packager: Packager, release: str) -> Path:
    """Where --for writes to, unless it is told."""
    return WORK / 'dist' / f'{packager.folder}-{release}'


def write_one(word: str, out: Optional[Path]) -> Path:
    """What one packager takes for one release. Returns the folder.

    Args:
        word: PACKAGER@RELEASE
    """
    name, _, release = word.partition('@')
    packager = next((known for known in PACKAGERS if known.folder == name), None)
    if not packager:
        die(f"unknown packager '{name}' (there are: "
            + ' '.join(known.folder for known in PACKAGERS) + ')')
    if not release:
        die(f'for which release? (such as --for {name}@{packager.releases[-1]})')
    mails = for_release(release)
    out = out or folder_for(packager, release)
    need_space(20)
    with scratch_dir('dist') as temp:
        new = temp / 'dist'
        packager.write(new, release, mails)
        put_text(new / 'README.md',
                 f'# The patches for xHCI interrupts, {cover.release().version}, '
                 f'for {packager.name} with QEMU {release}', '', packager.use, '',
                 f'Not run: {packager.left}.')
        write_sums(new)
        replace(new, out, 'README.md')
    return out


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('dist', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('dist', USAGE, TEXT)
    parser.add_argument('bases', nargs='*', metavar='BASE', help=argparse.SUPPRESS)
    parser.add_argument('--out', metavar='DIR', type=Path,
                        help='where to, otherwise dist/ of this repository, or with --for '
                        'work/dist/PACKAGER-RELEASE')
    parser.add_argument('--source', metavar='REPOSITORY', type=Path,
                        help='a git repository with the tags of releases')
    parser.add_argument('--try', dest='tries', action='store_true',
                        help='also apply what was written to the releases; prints TAP')
    parser.add_argument('--for', dest='one', metavar='PACKAGER@RELEASE',
                        help='only what this packager takes, such as homebrew@11.1.0')
    args = parser.parse(argv)
    if args.one and (args.bases or args.source or args.tries):
        parser.error('--for takes neither bases nor --source nor --try')
    need_git()
    if args.one:
        print(write_one(args.one, args.out).resolve())
        return 0
    out = args.out or TOP / 'dist'
    repository = None
    if args.source:
        repository = Repo(args.source, users=True)
        if not args.source.is_dir() or not repository.ok('rev-parse', '--git-dir'):
            die(f'no such git repository: {args.source}')
    if args.tries and not repository:
        parser.error('--try needs --source')
    bases = [find(name) for name in args.bases] or \
        [base for base in load() if layout.patch_names(base.name)]
    need_space(200)
    failures = 0
    with scratch_dir('dist') as temp:
        new = temp / 'dist'
        sources = Sources(repository)
        without = generate(new, bases, sources, temp / 'copies')
        tried: Dict[str, List[str]] = {}
        if args.tries:
            tried, failures = try_all(new, sources, temp / 'tries')
        write_readme(new, tried, without)
        write_sums(new)
        replace(new, out, 'series')
    if not args.tries:
        print(out.resolve())
    return 1 if failures else 0
