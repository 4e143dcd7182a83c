# SPDX-License-Identifier: GPL-2.0-or-later
"""The forms in which packagers take patches, for scripts/dist."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from . import cover, layout, releases
from .apply import Copy, Misfit
from .bases import Base
from .git import Repo
from .mail import Mail
from .paths import PATCHES
from .ranges import RANGES, TESTS, UPSTREAM, Range
from .tree import Tree
from .ui import die

#: How the name of a patch file of ours begins, where patches of others are beside it
PREFIX = 'xhci'


class Packager(NamedTuple):
    """Somebody who packages QEMU."""

    folder: str
    name: str
    #: the releases for which files are made
    releases: Tuple[str, ...]
    write: Callable[[Path, str, List[Mail]], None]
    #: what to do with the files, for the README
    use: str
    #: what is not tried, and why
    left: str


def file_of(mail: Mail) -> str:
    """The name of the patch file."""
    return mail.name.rpartition('/')[2]


def mbox(mails: Sequence[Mail]) -> bytes:
    """Patches as one file, for git am and patch."""
    return b'\n'.join(mail.data.rstrip(b'\n') + b'\n' for mail in mails)


def diffs(mails: Sequence[Mail]) -> bytes:
    """The diffs of some patches, one after the other."""
    return ''.join(mail.diff.rstrip('\n') + '\n' for mail in mails).encode(
        'utf-8', 'surrogateescape')


def put(path: Path, data: bytes) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def put_text(path: Path, *lines: str) -> None:
    """The same with lines of text."""
    put(path, ('\n'.join(lines) + '\n').encode())


def put_each(folder: Path, mails: Sequence[Mail]) -> List[str]:
    """One file for each patch, with their names as the result, in order."""
    for mail in mails:
        put(folder / file_of(mail), mail.data)
    return [file_of(mail) for mail in mails]


# --- which patches ----------------------------------------------------------------

def for_release(release: str) -> List[Mail]:
    """The patches that a point release takes, as patches/releases says."""
    row = releases.read_record().get(release)
    if row is None or row.am == '-':
        die(f'patches/releases does not say which patches QEMU {release} needs: '
            'run scripts/releases --source')
    found: Dict[str, Mail] = {}
    for word in row.am.split():
        for path in sorted(PATCHES.glob(word)):
            found[path.name] = Mail.read(path)
    if not found:
        die(f'patches/releases names {row.am} for QEMU {release}, and there is no such file')
    return [found[name] for name in sorted(found)]


# --- one mbox and one diff for each base and range --------------------------------

@dataclass
class Sources:
    """Where the releases that the bases are made on can be had."""

    repository: Optional[Repo]

    def of_base(self, base: Base) -> Optional[Tuple[Repo, str]]:
        """A repository and the commit in it, or None."""
        tree = Tree(base)
        if tree.exists():
            return tree.repo, 'base'
        return self.of_release(base.made, base.commit)

    def of_release(self, release: str, commit: Optional[str] = None) -> \
            Optional[Tuple[Repo, str]]:
        """The same for a point release, by its tag or its commit."""
        for name in (f'v{release}', commit):
            if name and self.repository and self.repository.commit(name):
                return self.repository, name
        return None

    def missing(self, bases: Sequence[Base]) -> List[Base]:
        """The bases that cannot be had. Fails if the repository ought to have them."""
        missing = [base for base in bases if not self.of_base(base)]
        if missing and self.repository:
            names = ', '.join(f'{base.made} ({base.name})' for base in missing)
            die(f'the sources of QEMU {names} are needed for the diffs: run scripts/tree '
                f'{missing[0].name}, or name a git repository that has the tag '
                f'v{missing[0].made} with --source')
        return missing


def write_base(out: Path, base: Base, sources: Sources, temp: Path) -> None:
    """The mboxes of a base, and the diffs if there is a source, in out/series/<base>."""
    patches = {known: mails for known, mails in layout.series(base.name).items()
               if known is not TESTS and mails}
    folder = out / 'series' / base.name
    for known, mails in patches.items():
        put(folder / f'{known.code}-{known.name}.mbox', mbox(mails))
        if known is UPSTREAM:
            # Not all releases need all of them
            put(folder / f'{known.code}-{known.name}.diff', diffs(mails))
            put_each(folder / f'{known.code}-{known.name}', mails)
    rest = [mail for known in RANGES if known is not UPSTREAM for mail in patches.get(known, [])]
    put(folder / 'all.mbox', mbox(rest))
    where = sources.of_base(base)
    if where:
        files = sorted({name for mails in patches.values() for mail in mails
                        for name in mail.files})
        commit = where[0].out('rev-parse', f'{where[1]}^{{commit}}')
        write_diffs(folder, base, patches, Copy(temp / base.name, where[0], commit, files))


def write_diffs(folder: Path, base: Base, patches: Dict[Range, List[Mail]], copy: Copy) -> None:
    """What the ranges change, each and all of them."""
    begin = copy.head
    for known in RANGES:
        mails = patches.get(known, [])
        if not mails:
            continue
        before = copy.head
        try:
            am(copy, mails)
        except Misfit as misfit:
            # The release that the base is made on has them
            if known is not UPSTREAM:
                die(f'patches/{misfit.mail.name} does not fit QEMU {base.made}: {misfit.why}')
        if known is UPSTREAM:
            begin = copy.head
        else:
            put(folder / f'{known.code}-{known.name}.diff',
                net_diff(copy.repo, before, copy.head))
    put(folder / 'all.diff', net_diff(copy.repo, begin, copy.head))


def am(copy: Copy, mails: Sequence[Mail]) -> None:
    """Commit patches, all at once. Raises Misfit if one does not fit; then none is there."""
    before = copy.head
    done = copy.repo.run('am', '-q', '--no-3way', '--no-scissors', '-', stdin=mbox(mails))
    if done.returncode:
        copy.repo.run('am', '--abort')
        try:
            for mail in mails:  # again, to know which one
                copy.am(mail)
        except Misfit:
            copy.back_to(before)
            raise
        die(f'{mails[0].name}: git am fails, though not patch by patch')


def net_diff(repo: Repo, old: str, new: str) -> bytes:
    """All changes between two commits."""
    return repo.raw('diff', '--full-index', '--no-color', '--no-ext-diff', '--no-renames',
                    old, new)


# --- the packagers ----------------------------------------------------------------

def write_proxmox(folder: Path, _release: str, mails: List[Mail]) -> None:
    """Files for debian/patches/extra, and lines for debian/patches/series."""
    names = put_each(folder / 'debian/patches/extra', mails)
    put_text(folder / 'debian/patches/series.xhci', *(f'extra/{name}' for name in names))


def write_nixpkgs(folder: Path, release: str, mails: List[Mail]) -> None:
    """An overlay, with the patches beside it."""
    names = put_each(folder / 'patches', mails)
    put_text(folder / 'overlay.nix',
             f'# xHCI on the PCI interrupt pin, {cover.release().version}, for QEMU {release}',
             'final: prev: {',
             '  qemu = prev.qemu.overrideAttrs (old: {',
             '    patches = (old.patches or [ ]) ++ [',
             *(f'      ./patches/{name}' for name in names),
             '    ];',
             '  });',
             '}')


def write_homebrew(folder: Path, release: str, mails: List[Mail]) -> None:
    """A patch block for the formula, with the one file that it names."""
    name = f'qemu-{release}-{PREFIX}.patch'
    data = mbox(mails)
    put(folder / name, data)
    put_text(folder / 'patch.rb',
             f'# xHCI on the PCI interrupt pin, {cover.release().version}, for QEMU {release}:',
             "# goes into class Qemu, before the first depends_on. The file is beside the",
             '# formula.',
             'patch do',
             f'  url "file://#{{__dir__}}/{name}"',
             f'  sha256 "{hashlib.sha256(data).hexdigest()}"',
             'end')


def write_arch(folder: Path, release: str, mails: List[Mail]) -> None:
    """What is added to a PKGBUILD, with the file that it names."""
    name = f'qemu-{release}-{PREFIX}.patch'
    data = mbox(mails)
    put(folder / name, data)
    lines = ['# shellcheck shell=bash disable=SC2034,SC2154',
             '# If the PKGBUILD already has prepare(), add the patch line to it instead: a second',
             '# prepare() silently replaces the first.',
             '#',
             f'# xHCI on the PCI interrupt pin, {cover.release().version}, for QEMU {release}:',
             '# goes to the end of the PKGBUILD.',
             f'source+=({name})']
    for sums, digest in (('sha256sums', hashlib.sha256(data)),
                         ('sha512sums', hashlib.sha512(data)),
                         ('b2sums', hashlib.blake2b(data))):
        lines += [f'if [[ -v {sums} ]]; then', f'  {sums}+=({digest.hexdigest()})', 'fi']
    put_text(folder / 'PKGBUILD.xhci', *lines, 'prepare() {',
             f'  patch -d "qemu-$pkgver" -Np1 -F0 -i "$srcdir/{name}"', '}')


def write_gentoo(folder: Path, release: str, mails: List[Mail]) -> None:
    """Files that Portage applies by itself."""
    put_each(folder / f'etc/portage/patches/app-emulation/qemu-{release}', mails)


def write_fedora(folder: Path, release: str, mails: List[Mail]) -> None:
    """Lines for qemu.spec, with the files that they name."""
    names = put_each(folder / release, mails)
    put_text(folder / release / 'qemu.spec.xhci',
             f'# xHCI on the PCI interrupt pin, {cover.release().version}, for QEMU {release}',
             *(f'Patch{9000 + int(name[:4])}: {name}' for name in names))


def write_utm(folder: Path, release: str, mails: List[Mail]) -> None:
    """One file."""
    put(folder / f'qemu-{release}-{PREFIX}.patch', mbox(mails))


PACKAGERS = (
    Packager('proxmox', 'Proxmox VE', ('11.0.0',), write_proxmox,
             'Copy `debian/patches/extra` into the checkout of pve-qemu, and add the lines of '
             '`debian/patches/series.xhci` to the end of its `debian/patches/series`.',
             "the build of Proxmox's package, with its own patches"),
    Packager('nixpkgs', 'nixpkgs', ('11.0.0',), write_nixpkgs,
             'Add `overlay.nix` to `nixpkgs.overlays`, with the folder `patches` beside it.',
             'an evaluation with nixpkgs, and a build by Nix'),
    Packager('homebrew', 'Homebrew', ('11.1.0',), write_homebrew,
             'Put the patch file beside the formula of a tap of your own, and paste the block '
             'from `patch.rb` into the formula.',
             '`brew install` and `brew style`: there is no Homebrew in Debian'),
    Packager('arch', 'Arch Linux', ('11.1.0',), write_arch,
             'Put the patch file beside the PKGBUILD, and add `PKGBUILD.xhci` to its end. If the '
             'PKGBUILD already has `prepare()`, add the patch line to it instead, and leave out '
             'that of `PKGBUILD.xhci`: a second `prepare()` silently replaces the first.',
             "the build, with Arch's own PKGBUILD"),
    Packager('gentoo', 'Gentoo', ('10.2.4', '11.0.3', '11.1.0'), write_gentoo,
             'Copy `etc/portage/patches` to `/etc/portage`; `emerge qemu` does the rest.',
             '`emerge`: what is run is the command line of `eapply`'),
    Packager('fedora', 'Fedora', ('10.2.4', '11.1.0'), write_fedora,
             'Put the patch files of your release beside `qemu.spec`, and the lines of '
             '`qemu.spec.xhci` after its last `Patch`. `%autosetup` does the rest.',
             "the build, with Fedora's own spec and patches"),
    Packager('utm', 'UTM', ('10.0.2',), write_utm,
             'UTM applies one file for each of its sources: add this one to the end of '
             '`patches/qemu-RELEASE-utm.patch` in its repository.',
             "a build of UTM, which needs a Mac, and UTM's own patch"),
)
