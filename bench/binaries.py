# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMUs that a benchmark compares: given, or built by the scripts."""

import os
import shutil
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
WORK = os.path.abspath(os.environ.get('XHCI_WORK') or os.path.join(TOP, 'work'))
# The commit that ends core and interrupts: the one before this marker
MARKER = 'range 03xx: hardening'


class Failed(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def bases():
    with open(os.path.join(TOP, 'patches', 'bases')) as f:
        rows = [line.split() for line in f if line.strip() and line[0] != '#']
    return [row[rows[0].index('base')] for row in rows[1:]]


def add_arguments(parser, interrupts=False):
    """With interrupts, also for QEMU without the ranges after that one."""
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


def given(args):
    """Those that the user gave, and the names of the others."""
    found = {name: os.path.abspath(path)
             for name, path in vars(args).items()
             if name in ('stock', 'interrupts', 'patched') and path}
    for path in found.values():
        if not os.access(path, os.X_OK) or os.path.isdir(path):
            raise Failed(f'{path} is not a program')
    missing = {'stock', 'patched'} - found.keys()
    if missing and 'interrupts' in vars(args) and not args.interrupts:
        missing.add('interrupts')
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
    if not want:
        return {}
    tree = os.path.join(WORK, 'trees', base)
    if not os.path.exists(os.path.join(tree, '.git')):
        script('tree', base)
    paths = {}
    if 'stock' in want:
        paths['stock'] = script('build', base, '--stock')
    if want & {'interrupts', 'patched'} and \
            git(tree, 'rev-parse', 'HEAD') == git(tree, 'rev-parse', 'base'):
        script('apply', base)
    if 'interrupts' in want:
        paths['interrupts'] = build_interrupts(base, tree)
    if 'patched' in want:
        paths['patched'] = script('build', base)
    return paths


def build_interrupts(base, tree):
    """The tree without the ranges after interrupts; at once if done before."""
    marker = git(tree, 'log', '-1', '--format=%H', '--fixed-strings',
                 f'--grep={MARKER}', 'base..HEAD')
    commit = git(tree, 'rev-parse', f'{marker}^' if marker else 'HEAD')
    folder = os.path.join(WORK, 'bench', base, 'interrupts')
    path = os.path.join(folder, 'qemu-system-x86_64')
    stamp = os.path.join(folder, 'commit')
    try:
        with open(stamp) as f:
            if f.read() == commit and os.access(path, os.X_OK):
                return path
    except OSError:
        pass
    os.makedirs(folder, exist_ok=True)
    shutil.copy(script('build', base, '--at', commit), path)
    with open(stamp, 'w') as f:
        f.write(commit)
    return path
