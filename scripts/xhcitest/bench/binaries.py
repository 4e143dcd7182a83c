# SPDX-License-Identifier: GPL-2.0-or-later
"""The two QEMUs that a benchmark compares: given, or built by the scripts."""

import argparse
import os
import subprocess
from pathlib import Path
from typing import Collection, Dict, Set, Tuple

from xhciseries import bases
from xhciseries.git import Repo
from xhciseries.paths import TOP
from xhciseries.ui import die

#: stock or patched: the path of its qemu-system-x86_64
Binaries = Dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """BASE, --stock and --patched."""
    parser.add_argument('base', metavar='BASE', nargs='?', default='v10.0',
                        help='take the binaries of scripts/build BASE '
                             '(default: %(default)s)')
    parser.add_argument('--stock', metavar='PATH',
                        help='the unpatched qemu-system-x86_64, instead')
    parser.add_argument('--patched', metavar='PATH',
                        help='the patched qemu-system-x86_64, instead')


def given(args: argparse.Namespace) -> Tuple[Binaries, Set[str]]:
    """Those that the user gave, and the names of the others."""
    found = {name: os.path.abspath(path)
             for name, path in (('stock', args.stock), ('patched', args.patched))
             if path}
    for path in found.values():
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            die(f'{path} is not a program')
    missing = {'stock', 'patched'} - found.keys()
    if missing:
        bases.find(args.base)
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
    tree = Repo(bases.tree_path(bases.find(name)))
    if not (tree.path / '.git').exists():
        _script(TOP / 'scripts' / 'tree', name)
    paths = {}
    if 'stock' in want:
        paths['stock'] = _script(TOP / 'scripts' / 'build', name, '--stock')
    if 'patched' in want:
        if tree.commit('HEAD') == tree.commit('base'):
            _script(TOP / 'scripts' / 'apply', name)
        paths['patched'] = _script(TOP / 'scripts' / 'build', name)
    return paths
