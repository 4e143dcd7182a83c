# SPDX-License-Identifier: GPL-2.0-or-later
"""The two QEMUs that a benchmark compares: given, or built by the scripts."""

import os
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
WORK = os.path.abspath(os.environ.get('XHCI_WORK') or os.path.join(TOP, 'work'))


class Failed(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def bases():
    with open(os.path.join(TOP, 'scripts', 'bases')) as f:
        return [line.split()[0] for line in f if line.strip() and line[0] != '#']


def add_arguments(parser):
    parser.add_argument('base', metavar='BASE', nargs='?', default='v10.0',
                        help='take the binaries of scripts/build BASE '
                             '(default: %(default)s)')
    parser.add_argument('--stock', metavar='PATH',
                        help='the unpatched qemu-system-x86_64, instead')
    parser.add_argument('--patched', metavar='PATH',
                        help='the patched qemu-system-x86_64, instead')


def given(args):
    """Those that the user gave, and the names of the others."""
    found = {name: os.path.abspath(path)
             for name, path in (('stock', args.stock), ('patched', args.patched))
             if path}
    for path in found.values():
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            raise Failed(f'{path} is not a program')
    missing = {'stock', 'patched'} - found.keys()
    if missing and args.base not in bases():
        raise Failed(f"unknown base '{args.base}' (there are: {' '.join(bases())})")
    return found, missing


def script(name, *args):
    """Run one of the scripts; the last line of its output."""
    command = [os.path.join(TOP, 'scripts', name), *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failed(f'scripts/{" ".join((name, *args))} failed')
    return (done.stdout.strip().splitlines() or [''])[-1]


def git(tree, *args):
    done = subprocess.run(['git', '-C', tree, *args], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else None


def build(base, want):
    """The binaries in want, of the tree of base as it stands."""
    tree = os.path.join(WORK, 'trees', base)
    if not os.path.exists(os.path.join(tree, '.git')):
        script('tree', base)
    paths = {}
    if 'stock' in want:
        paths['stock'] = script('build', base, '--stock')
    if 'patched' in want:
        if git(tree, 'rev-parse', 'HEAD') == git(tree, 'rev-parse', 'base'):
            script('apply', base)
        paths['patched'] = script('build', base)
    return paths
