# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMUs that a benchmark compares: given, or built by the scripts."""

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import Collection, Dict, Set, Tuple

from xhciseries import bases
from xhciseries.git import Repo
from xhciseries.paths import TOP, WORK
from xhciseries.ranges import CORE, INTERRUPTS, UPSTREAM, of_tree
from xhciseries.ui import die

#: stock, interrupts or patched: the path of its qemu-system-x86_64
Binaries = Dict[str, str]


def add_arguments(parser: argparse.ArgumentParser, interrupts: bool = False) -> None:
    """BASE, --stock and --patched; with `interrupts`, also --interrupts."""
    parser.add_argument('base', metavar='BASE', nargs='?', default='v10.0',
                        help='take the binaries of scripts/build BASE '
                             '(default: %(default)s)')
    parser.add_argument('--stock', metavar='PATH',
                        help='the unpatched qemu-system-x86_64, instead')
    parser.add_argument('--patched', metavar='PATH',
                        help='the patched qemu-system-x86_64, instead')
    if interrupts:
        parser.add_argument('--interrupts', metavar='PATH',
                            help='one with core and interrupts only, instead; '
                                 'without it, --stock and --patched have no such '
                                 'column')


def given(args: argparse.Namespace) -> Tuple[Binaries, Set[str]]:
    """Those that the user gave, and the names of those to build."""
    found = {name: os.path.abspath(path) for name, path in vars(args).items()
             if name in ('stock', 'interrupts', 'patched') and path}
    for path in found.values():
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            die(f'{path} is not a program')
    missing = {'stock', 'patched'} - found.keys()
    if missing:
        bases.find(args.base)
        if 'interrupts' in vars(args) and not args.interrupts:
            missing.add('interrupts')
    return found, missing


def _script(path: Path, *args: str) -> str:
    """Run one of the scripts; the last line of its output."""
    done = subprocess.run([str(path), *args], check=False,
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        die(f'{" ".join((str(path), *args))} failed')
    return (done.stdout.strip().splitlines() or [''])[-1]


def build(name: str, want: Collection[str]) -> Binaries:
    """The binaries in want, of the tree of a base as it stands."""
    if not want:
        return {}
    tree = Repo(bases.tree_path(bases.find(name)))
    if not (tree.path / '.git').exists():
        _script(TOP / 'scripts' / 'tree', name)
    paths = {}
    if 'stock' in want:
        paths['stock'] = _script(TOP / 'scripts' / 'build', name, '--stock')
    if {'interrupts', 'patched'} & set(want) and tree.commit('HEAD') == tree.commit('base'):
        _script(TOP / 'scripts' / 'apply', name)
    if 'interrupts' in want:
        paths['interrupts'] = _build_interrupts(name, tree)
    if 'patched' in want:
        paths['patched'] = _script(TOP / 'scripts' / 'build', name)
    return paths


def _build_interrupts(name: str, tree: Repo) -> str:
    """The tree up to the end of 02xx; at once if that was done before."""
    ranges = of_tree(tree, str(tree.path), tip='HEAD')
    if not ranges.get(INTERRUPTS):
        die(f'{tree.path} has no commits in {INTERRUPTS}: apply the series to it '
            '(scripts/apply)')
    commit = [one for known in (UPSTREAM, CORE, INTERRUPTS)
              for one in ranges.get(known, [])][-1].sha
    folder = WORK / 'bench' / name / 'interrupts'
    path, stamp = folder / 'qemu-system-x86_64', folder / 'commit'
    if os.access(path, os.X_OK) and stamp.exists() and stamp.read_text() == commit:
        return str(path)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    shutil.copy(_script(TOP / 'scripts' / 'build', name, '--at', commit), path)
    stamp.write_text(commit)
    return str(path)
