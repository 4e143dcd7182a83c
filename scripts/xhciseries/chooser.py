# SPDX-License-Identifier: GPL-2.0-or-later
"""What the chooser of the page offers, and the commands for each choice.

Where a QEMU is from decides the commands, and its version what stands for the
{names} in them. The page gets both as data, and docs/site/chooser.js puts them
together as commands() does here.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Dict, List, Optional, Sequence, Tuple

from . import debian, dist
from .bases import Base, load, numbers
from .layout import patch_names
from .packagers import PACKAGERS, PREFIX, Packager
from .paths import WORK
from .ranges import Range
from .releases import FIRST, Row, read_record, told_ranges
from .ui import die

#: The first QEMU with the property, which is off there
OPTION_SINCE = (10, 0)
OPTION = {
    'say': 'Without a rebuild, you can add this option instead. It needs no patches and '
           'makes input work, but leaves the other defects.',
    'run': '-global pci-xhci.conditional-intr-mapping=on',
}
#: A Debian suite that no base is made for: its QEMU changes
SID = 'sid'
BUILD = ("Build it, here in QEMU's default configuration with one target. \"A build for daily "
         'use", linked below, has a fuller one.',
         'cd ~/src/{folder} && ./configure --target-list=x86_64-softmmu && make -j"$(nproc)"')

Values = Dict[str, Any]
Steps = List[Dict[str, str]]


@dataclass(frozen=True)
class Source:
    """Where a QEMU may be from."""

    id: str
    name: str
    #: the names of lists in data(), in which its versions are
    lists: Tuple[str, ...]
    #: (what it is about, the command)
    steps: Tuple[Tuple[str, str], ...]
    notes: Tuple[str, ...] = ()

    @property
    def entry(self) -> Values:
        """For the page."""
        return {'id': self.id, 'name': self.name, 'lists': list(self.lists),
                'steps': _steps(self.steps), 'notes': list(self.notes)}


def _steps(steps: Sequence[Tuple[str, str]]) -> Steps:
    return [{'say': say, 'run': run} for say, run in steps]


def fill(text: str, values: Values) -> str:
    """A text with what stands for its {names}."""
    def value(found: 're.Match[str]') -> str:
        if found[1] not in values:
            die(f'the chooser knows no {found[0]} for {values["name"]}: {text}')
        return str(values[found[1]])
    return re.sub(r'\{(\w+)\}', value, text)


def commands(source: Values, values: Values) -> List[str]:
    """What the page has to show for a choice, without what is for all."""
    steps = values.get('steps') or ([] if 'why' in values else source['steps'])
    return [fill(step['run'], values) for step in steps]


# --- versions ---------------------------------------------------------------------

def _release(row: Row) -> Values:
    """A point release."""
    values: Values = {'id': row.release, 'name': row.release, 'release': row.release,
                      'ref': f'v{row.release}'}
    if numbers(row.release)[:2] >= OPTION_SINCE:
        values['option'] = True
    found = re.fullmatch(r'(\S+) \(([0-9a-f]+)\)', row.release)
    if found:
        values.update(id=found[2], name=f'{found[1]}, commit {found[2]}', ref=found[2])
    if row.am == '-':
        values['why'] = f'No series fits QEMU {values["name"]}: {row.left_out}.'
        return values
    codes = row.ranges.split()
    return dict(values, base=row.base,
                files=' '.join(f'patches/{word}' for word in row.am.split()),
                all=told_ranges(row),
                packaged=_names([known for known in debian.DEFAULT if known.code in codes]))


def _names(ranges: Sequence[Range]) -> str:
    return ', '.join(known.name for known in ranges)


def _suite(base: Base, suite: str) -> Values:
    """A Debian suite, the QEMU of which a base is made for or nearest to."""
    there = [known for known in debian.DEFAULT
             if any(name.startswith(known.code) for name in patch_names(base.name))]
    name = suite if suite == SID else f'{suite}, QEMU {base.made}'
    values: Values = {'id': suite, 'name': name, 'suite': suite, 'packaged': _names(there),
                      'untested': ' The package of sid is not tested.' if suite == SID else ''}
    if numbers(base.made)[:2] >= OPTION_SINCE:
        values['option'] = True
    return values


def _other(newest: str, steps: Sequence[Tuple[str, str]], name: str) -> Values:
    return {'id': 'other', 'name': name, 'steps': _steps(steps),
            'why': f'The releases from {".".join(map(str, FIRST))} to {newest} were tried; older '
                   'ones have no series. For any other, this uses the nearest series and says '
                   'what does not fit.'}


# --- sources ----------------------------------------------------------------------

def _source_package(name: str) -> Tuple[Tuple[str, str], ...]:
    """For a source package that is at hand, on the system that it is for."""
    return (
        ('Get the source package. apt needs a `deb-src` line for this.',
         'apt-get source --download-only qemu'),
        ('Add the patches.', f'scripts/package {name} --source qemu_*.dsc'),
        ('Install what its build needs.',
         f'sudo apt-get build-dep ./work/package/{name}/qemu_*{debian.SUFFIX}*.dsc'),
        ('Build the packages.',
         f'cd work/package/{name} && dpkg-source -x qemu_*.dsc tree && cd tree && '
         'dpkg-buildpackage -b -uc -us'),
    )


DEBIAN = Source(
    'debian', 'Debian', ('suites',),
    (('Build the packages, with everything that Debian turns on. This takes about '
      'half an hour.', 'scripts/package {suite} --build'),
     ('Install those that replace packages you have.',
      'sudo apt-get install --only-upgrade ./work/package/{suite}/*.deb')),
    ('Ranges: {packaged}.{untested}',
     'The next security update replaces the packages: run this again, or hold them with '
     '`apt-mark hold`.'))

OTHERS = (
    Source('ubuntu', 'Ubuntu', ('releases',), _source_package('ubuntu'),
           ("Ranges: {packaged}, as far as they fit Ubuntu's own patches. This was not tried.",)),
)

PLAIN = (
    Source('tarball', 'a release tarball', ('releases',), (
        ('Unpack it.', 'tar -xf ~/Downloads/qemu-{release}.tar.xz -C ~/src'),
        ('Add the patches.', 'cat {files} | patch -d ~/src/qemu-{release} -p1'),
        (BUILD[0], BUILD[1].replace('{folder}', 'qemu-{release}'))),
        ('Ranges: {all}.',)),
    Source('git', 'a git clone of QEMU', ('releases', 'commits'), (
        ('Make a branch of the release.', 'git -C ~/src/qemu switch -c xhci {ref}'),
        ('Add the patches, as commits.', 'scripts/apply --to ~/src/qemu'),
        (BUILD[0], BUILD[1].replace('{folder}', 'qemu'))),
        ('Ranges: {all}.',)),
)

#: What packagers do with the files of scripts/dist, which are in {dir}
PACKAGE_STEPS: Dict[str, Tuple[Tuple[str, str], ...]] = {
    'proxmox': (
        ('Copy the patches into a checkout of pve-qemu.',
         'cp {dir}/debian/patches/extra/* ~/pve-qemu/debian/patches/extra/'),
        ('Add them to its series.',
         'cat {dir}/debian/patches/series.xhci >>~/pve-qemu/debian/patches/series'),
        ('Build it.', 'make -C ~/pve-qemu deb')),
    'nixpkgs': (
        ('Make it an overlay.',
         'mkdir -p ~/.config/nixpkgs/overlays && '
         'cp -r {dir}/overlay.nix {dir}/patches ~/.config/nixpkgs/overlays/'),
        ('Build it.', "nix-build '<nixpkgs>' -A qemu")),
    'homebrew': (
        ('Copy the patch beside the formula in a tap of your own.',
         'cp {dir}/qemu-{release}-' + PREFIX + '.patch '
         '"$(brew --repository "$USER/qemu")/Formula/"'),
        ('Put this block into its `class Qemu`, before the first `depends_on`.',
         'cat {dir}/patch.rb'),
        ('Build it.', 'brew install --build-from-source "$USER/qemu/qemu"')),
    'arch': (
        ('Copy the patch beside the PKGBUILD.',
         'cp {dir}/qemu-{release}-' + PREFIX + '.patch ~/qemu/'),
        ('Add these lines to it. If it already has `prepare()`, add the patch line to that '
         'instead: a second `prepare()` silently replaces the first.',
         'cat {dir}/PKGBUILD.' + PREFIX + ' >>~/qemu/PKGBUILD'),
        ('Build and install it.', 'cd ~/qemu && makepkg -si')),
    'gentoo': (
        ('Copy the patches to where Portage looks for them.',
         'sudo cp -r {dir}/etc/portage/patches /etc/portage/'),
        ('Build and install it.', 'sudo emerge --oneshot =app-emulation/qemu-{release}')),
    'fedora': (
        ('Copy the patches beside the spec.', 'cp {dir}/{release}/*.patch ~/qemu/'),
        ('List them after its last `Patch`.',
         'sed -i "$(sed -n /^Patch/= ~/qemu/qemu.spec | tail -n 1)r '
         '{dir}/{release}/qemu.spec.' + PREFIX + '" ~/qemu/qemu.spec'),
        ('Build it.', 'cd ~/qemu && fedpkg local')),
    'utm': (
        ("Add them to UTM's own patch; then build UTM as its documentation says.",
         'cat {dir}/qemu-{release}-' + PREFIX + '.patch '
         '>>~/UTM/patches/qemu-{release}-utm.patch'),),
}


def folder(packager: Packager) -> str:
    """Where scripts/dist writes what a packager takes, from this repository."""
    below = dist.folder_for(packager, '{release}').relative_to(WORK)
    return str(PurePosixPath('work') / below)


def _packaged(packager: Packager) -> Source:
    if packager.folder not in PACKAGE_STEPS:
        die(f'scripts/xhciseries/chooser.py has no commands for {packager.name}')
    first = (f'Write the patches in the form that {packager.name} needs.',
             f'scripts/dist --for {packager.folder}@{{release}}')
    steps = [(say, run.replace('{dir}', folder(packager)))
             for say, run in PACKAGE_STEPS[packager.folder]]
    return Source(packager.folder, packager.name, ('releases',), (first, *steps), (
        'Ranges: {all}.', f'This form was tried with QEMU {", ".join(packager.releases)}. '
        f'Not run: {packager.left}.'))


def sources() -> List[Source]:
    """All, in the order of the chooser."""
    return [DEBIAN, *OTHERS, *map(_packaged, PACKAGERS), *PLAIN]


def data(rows: Optional[Sequence[Row]] = None) -> Values:
    """What the page gets."""
    rows = list(read_record().values()) if rows is None else rows
    # Another distribution's tree, such as `10.0.7 (Debian trixie)`, is no version to choose
    rows = sorted((row for row in rows if not re.search(r'\([A-Z]', row.release)),
                  key=lambda row: row.order, reverse=True)
    plain = [row for row in rows if '(' not in row.release]
    if not plain:
        die('patches/releases has no releases: run scripts/releases --source')
    newest = plain[0].release
    known = load()
    suites = [_suite(base, base.suite) for base in reversed(known) if base.suite]
    apply_to = ('Add the patches, as commits, to a git tree of it.',
                'scripts/apply --to ~/src/qemu')
    return {
        'option': OPTION,
        'lists': {
            'releases': [*map(_release, plain), _other(newest, [apply_to], 'another version')],
            'commits': [_release(row) for row in rows if '(' in row.release],
            'suites': [_suite(known[-1], SID), *suites,
                       _other(newest, _source_package('debian'), 'another suite')],
        },
        'sources': [source.entry for source in sources()],
    }
