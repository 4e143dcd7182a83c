# SPDX-License-Identifier: GPL-2.0-or-later
"""Trying what scripts/dist wrote: each form by the command of its packagers.

Whatever the command is, it has to leave the files that git am leaves.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from . import layout
from .apply import Copy, Misfit
from .bases import Base, load
from .git import Repo
from .mail import Mail
from .packagers import PACKAGERS, Packager, Sources, am, for_release
from .ranges import RANGES, TESTS, UPSTREAM
from .ui import die, say

#: patch as packagers call it, but without fuzz
PATCH = ['patch', '-p1', '-F0', '-f', '-s', '-g0', '--no-backup-if-mismatch']

#: Reads a patch block as Homebrew does: prints the file, if it is the one meant
RUBY = '''
require 'digest'
class Block
  attr_reader :url_value, :sum
  def url(value)
    @url_value = value
  end
  def sha256(value)
    @sum = value
  end
end
def patch(&block)
  found = Block.new
  found.instance_eval(&block)
  file = found.url_value.delete_prefix('file://')
  abort "#{file} has another sha256" if Digest::SHA256.file(file).hexdigest != found.sum
  puts file
end
load ARGV[0]
'''

#: Checks the sums of a PKGBUILD, and runs its prepare(), as makepkg does
MAKEPKG = '''
set -e
. "$1"
cd "$srcdir"
((${#source[@]} == 2))
for ((i = 0; i < ${#source[@]}; i++)); do
    echo "${sha256sums[i]}  ${source[i]}" | sha256sum -c --quiet
    echo "${sha512sums[i]}  ${source[i]}" | sha512sum -c --quiet
    echo "${b2sums[i]}  ${source[i]}" | b2sum -c --quiet
done
prepare
'''


class Failed(Exception):
    """Something did not do what it has to; its text is the reason."""


class Missing(Exception):
    """A tool is not installed; its text is what is needed."""


def need(tool: str, package: str) -> None:
    """Raises Missing if there is no such command."""
    if not shutil.which(tool):
        raise Missing(f'{tool} (package {package}) is not installed')


def run(command: Sequence[object], cwd: Path, stdin: Optional[Path] = None,
        env: Optional[Dict[str, str]] = None) -> str:
    """What a command prints. Raises Failed if it fails."""
    with open(stdin or os.devnull, 'rb') as source:
        done = subprocess.run([str(word) for word in command], cwd=cwd, stdin=source,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              env={**os.environ, **(env or {})})
    text = done.stdout.decode(errors='replace')
    if done.returncode:
        raise Failed(f'{command[0]}: {" / ".join(text.splitlines()[-3:]) or done.returncode}')
    return text


class Release:
    """A release, and what git am makes of it with some patches."""

    def __init__(self, repo: Repo, commit: str, mails: Sequence[Mail], temp: Path) -> None:
        self.repo = repo
        self.commit = repo.out('rev-parse', f'{commit}^{{commit}}')
        self.temp = temp
        self.files = sorted({name for mail in mails for name in mail.files})
        self.trees = 0
        self.copy = Copy(temp / 'am', repo, self.commit, self.files)
        am(self.copy, mails)

    def tree(self, name: str = '') -> Path:
        """A new folder with the release: the folders that the series touches."""
        self.trees += 1
        path = self.temp / str(self.trees) / (name or 'qemu')
        folders = sorted({os.path.dirname(name) for name in self.files
                          if self.repo.ok('cat-file', '-e',
                                          f'{self.commit}:{os.path.dirname(name)}')})
        self.repo.unpack(path, self.commit, 'VERSION', *folders)
        return path

    def compare(self, tree: Path) -> None:
        """Raises Failed if a file is not as git am leaves it, or a hunk is left over."""
        for name in self.files:
            wanted = self.copy.repo.raw('show', f'HEAD:{name}')
            if not (tree / name).is_file() or (tree / name).read_bytes() != wanted:
                raise Failed(f'{name} is not what git am makes of it')
        for path in tree.rglob('*.rej'):
            raise Failed(f'{path.name} is left')


# --- by packager: each returns what was done, for the README ----------------------

def try_proxmox(folder: Path, _release: str, it: Release) -> List[str]:
    """quilt, with the files and the lines for series as they are given."""
    need('quilt', 'quilt')
    tree = it.tree()
    shutil.copytree(folder / 'debian', tree / 'debian')
    (tree / 'debian/patches/series.xhci').rename(tree / 'debian/patches/series')
    run(['quilt', '--quiltrc', '-', 'push', '-a', '--fuzz=0'], tree,
        env={'QUILT_PATCHES': 'debian/patches'})
    it.compare(tree)
    return ['`quilt push -a --fuzz=0`']


def try_nixpkgs(folder: Path, _release: str, it: Release) -> List[str]:
    """nix-instantiate, and the patches that the overlay evaluates to."""
    need('nix-instantiate', 'nix-bin')
    env = {'NIX_REMOTE': 'dummy://', 'HOME': str(it.temp)}
    run(['nix-instantiate', '--parse', folder / 'overlay.nix'], folder, env=env)
    package = '{ overrideAttrs = f: f { patches = [ "own" ]; }; }'
    text = run(['nix-instantiate', '--eval', '--strict', '--json', '--expr',
                f'map toString (import {folder}/overlay.nix {{ }} {{ qemu = {package}; }})'
                '.qemu.patches'], folder, env=env)
    found = json.loads(text.splitlines()[-1])
    if found[0] != 'own':
        raise Failed("the package's own patches are gone")
    tree = it.tree()
    for name in found[1:]:
        run(PATCH, tree, Path(name))
    it.compare(tree)
    return ['`nix-instantiate --parse`, and an evaluation of the overlay with a package made up '
            'for it', '`patch -p1` without fuzz, with the patches that this gives']


def try_homebrew(folder: Path, _release: str, it: Release) -> List[str]:
    """ruby, and the file that the block names."""
    need('ruby', 'ruby')
    run(['ruby', '-c', folder / 'patch.rb'], folder)
    name = run(['ruby', '-e', RUBY, folder / 'patch.rb'], folder).strip()
    tree = it.tree()
    run(PATCH, tree, Path(name))
    it.compare(tree)
    return ['`ruby -c`; url and sha256, by a stand-in for Homebrew', '`patch -p1` without fuzz']


def try_arch(folder: Path, release: str, it: Release) -> List[str]:
    """bash, in the place of makepkg."""
    done = ['`bash -n`']
    run(['bash', '-n', folder / 'PKGBUILD.xhci'], folder)
    if shutil.which('shellcheck'):
        run(['shellcheck', folder / 'PKGBUILD.xhci'], folder)
        done.append('shellcheck')
    tree = it.tree(f'qemu-{release}')
    for path in folder.iterdir():
        shutil.copy(path, tree.parent)
    pkgbuild = tree.parent / 'PKGBUILD'
    own = (folder / 'PKGBUILD.xhci').read_bytes()
    pkgbuild.write_text(
        f'pkgver={release}\nsource=(PKGBUILD.xhci)\n'
        f'sha256sums=({hashlib.sha256(own).hexdigest()})\n'
        f'sha512sums=({hashlib.sha512(own).hexdigest()})\n'
        f'b2sums=({hashlib.blake2b(own).hexdigest()})\n' + own.decode())
    run(['bash', '-c', MAKEPKG, 'makepkg', pkgbuild], tree.parent,
        env={'srcdir': str(tree.parent)})
    it.compare(tree)
    return [', '.join(done), 'sums and `prepare()`, by bash in the place of makepkg']


def try_gentoo(folder: Path, release: str, it: Release) -> List[str]:
    """patch, as eapply calls it, in the order of eapply_user."""
    tree = it.tree()
    found = sorted((folder / f'etc/portage/patches/app-emulation/qemu-{release}').iterdir())
    if not found:
        raise Failed('there are no patches')
    for path in found:
        run(PATCH, tree, path)
    it.compare(tree)
    return ['`patch -p1` as `eapply` calls it, but without fuzz']


def try_fedora(folder: Path, release: str, it: Release) -> List[str]:
    """rpmbuild -bp, with a spec that has the lines and %autosetup."""
    need('rpmbuild', 'rpm')
    for options in ('-p1', '-S git_am'):
        tree = it.tree(f'qemu-{release}')
        top = tree.parent
        for name in ('SOURCES', 'BUILD'):
            (top / name).mkdir()
        run(['tar', '-c', '-z', '-f', top / f'SOURCES/qemu-{release}.tar.gz', tree.name], top)
        for path in (folder / release).glob('*.patch'):
            shutil.copy(path, top / 'SOURCES')
        spec = top / 'qemu.spec'
        spec.write_text(
            f'Name: qemu\nVersion: {release}\nRelease: 1\nSummary: QEMU\n'
            'License: GPL-2.0-or-later\nSource0: qemu-%{version}.tar.gz\n'
            + (folder / release / 'qemu.spec.xhci').read_text()
            + f'\n%description\nQEMU.\n\n%prep\n%autosetup {options}\n\n%build\n\n'
              '%install\n\n%files\n\n%changelog\n')
        run(['rpmbuild', '-bp', '--nodeps', '--define', f'_topdir {top}',
             '--define', '_default_patch_fuzz 0', spec], top,
            env={'HOME': str(it.temp), 'GIT_CONFIG_GLOBAL': '/dev/null'})
        built = sorted((top / 'BUILD').rglob('hw/usb/hcd-xhci-pci.c'))
        if len(built) != 1:
            raise Failed('rpmbuild left no sources')
        it.compare(built[0].parents[2])
    done = ['`rpmbuild -bp` with `%autosetup -p1` and with `%autosetup -S git_am`, in a spec '
            'made up for it']
    if shutil.which('rpmlint'):
        text = subprocess.run(['rpmlint', str(spec)], stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT, env={**os.environ, 'HOME': str(it.temp)}
                              ).stdout.decode(errors='replace')
        if 'patch-not-applied' in text or ' checked' not in text:
            raise Failed(f'rpmlint: {text.splitlines()[-1] if text else "nothing"}')
        done.append('rpmlint says nothing of the patches')
    return done


def try_utm(folder: Path, release: str, it: Release) -> List[str]:
    """One file, by patch as UTM's script calls it, and by git."""
    name = folder / f'qemu-{release}-xhci.patch'
    for command in (['patch', '-p1', '-F0'], ['git', 'apply']):
        tree = it.tree()
        run(command, tree, name, env={'GIT_DIR': '/nonexistent', 'GIT_CONFIG_GLOBAL': '/dev/null'})
        it.compare(tree)
    return ['`patch -p1` without fuzz, and `git apply`']


TRIES = {'proxmox': try_proxmox, 'nixpkgs': try_nixpkgs, 'homebrew': try_homebrew,
         'arch': try_arch, 'gentoo': try_gentoo, 'fedora': try_fedora, 'utm': try_utm}


def try_base(out: Path, base: Base, it: Release, with_upstream: bool) -> None:
    """The mboxes and diffs of a base, all ways."""
    folder = out / 'series' / base.name
    names = sorted(path.stem for path in folder.glob('0*.mbox') if not path.stem.startswith('00'))
    first = ['00-upstream'] if with_upstream else []
    for chain in (first + names, first + ['all']):
        for command in (PATCH, ['git', 'apply']):
            tree = it.tree()
            for name in chain:
                run(command, tree, folder / f'{name}.diff',
                    env={'GIT_DIR': '/nonexistent', 'GIT_CONFIG_GLOBAL': '/dev/null'})
            it.compare(tree)
        copy = Copy(it.temp / f'mbox-{len(chain)}-{chain[-1]}', it.repo, it.commit, it.files)
        for name in chain:
            copy.repo.raw('am', '-q', '--no-3way', folder / f'{name}.mbox')
        if copy.repo.out('rev-parse', 'HEAD^{tree}') != \
                it.copy.repo.out('rev-parse', 'HEAD^{tree}'):
            raise Failed(f'git am of {" and ".join(chain)} gives other files')


class Tap:
    """Results, as TAP on stdout."""

    def __init__(self) -> None:
        self.count = self.failures = 0

    def result(self, name: str, why: str = '', skipped: bool = False) -> None:
        """A line: passed if there is no reason, else failed or skipped."""
        self.count += 1
        if not why:
            print(f'ok {self.count} - {name}', flush=True)
        elif skipped:
            print(f'ok {self.count} - {name} # SKIP {why}', flush=True)
        else:
            self.failures += 1
            print(f'not ok {self.count} - {name}\n# {why}', flush=True)


def try_packager(out: Path, packager: Packager, release: str, sources: Sources,
                 temp: Path) -> List[str]:
    """Try the files for one release. Raises Failed, Missing or Misfit."""
    where = sources.of_release(release)
    if not where:
        raise Missing(f'the repository has no tag v{release}')
    it = Release(where[0], where[1], for_release(release), temp)
    return TRIES[packager.folder](out / packager.folder, release, it)


def try_all(out: Path, sources: Sources, temp: Path) -> Tuple[Dict[str, List[str]], int]:
    """Try everything. What was done, by folder of out, and the number of failures."""
    tap = Tap()
    tried: Dict[str, List[str]] = {'series': []}
    for base in load():
        where = sources.of_base(base)
        if not (out / 'series' / base.name).is_dir() or not where:
            continue
        say(f'trying {base.name}')
        try:
            it, with_upstream = of_base(base, where, temp / base.name)
            try_base(out, base, it, with_upstream)
            tap.result(f'series {base.name} on QEMU {base.made}')
            tried['series'].append(f'{base.name} on QEMU {base.made}: `git am`, `git apply` and '
                                   '`patch -p1` without fuzz, range by range and `all`')
        except Failed as error:
            tap.result(f'series {base.name} on QEMU {base.made}', str(error))
        shutil.rmtree(temp / base.name, ignore_errors=True)
    for packager in PACKAGERS:
        tried[packager.folder] = []
        for release in packager.releases:
            name = f'{packager.name} {release}'
            here = temp / f'{packager.folder}-{release}'
            say(f'trying {name}')
            try:
                done = try_packager(out, packager, release, sources, here)
                tap.result(name)
                tried[packager.folder] += [f'{release}: {line}' for line in done]
            except Missing as error:
                tap.result(name, str(error), skipped=True)
                tried[packager.folder].append(f'{release}: nothing, as {error}')
            except (Failed, Misfit) as error:
                tap.result(name, str(error))
                tried[packager.folder].append(f'{release}: failed: {error}')
            shutil.rmtree(here, ignore_errors=True)
    print(f'1..{tap.count}')
    return tried, tap.failures


def of_base(base: Base, where: Tuple[Repo, str], temp: Path) -> Tuple[Release, bool]:
    """The release that a base is made on with its series, and whether it takes 00xx."""
    patches = layout.series(base.name)
    rest = [mail for known in RANGES if known not in (UPSTREAM, TESTS)
            for mail in patches.get(known, [])]
    first = patches.get(UPSTREAM, [])
    try:
        return Release(where[0], where[1], first + rest, temp / 'with'), bool(first)
    except Misfit:
        if not first:
            die(f'the series {base.name} does not fit QEMU {base.made}')
    return Release(where[0], where[1], rest, temp / 'without'), False
