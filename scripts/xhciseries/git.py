# SPDX-License-Identifier: GPL-2.0-or-later
"""git, so that what it does depends on nobody's settings."""

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

from .ui import die

#: What would point git somewhere else than we say.
_DROPPED = ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE', 'GIT_OBJECT_DIRECTORY',
            'GIT_ALTERNATE_OBJECT_DIRECTORIES', 'GIT_COMMON_DIR', 'GIT_NAMESPACE',
            'GIT_PREFIX', 'GIT_EDITOR', 'GIT_EXTERNAL_DIFF', 'GIT_DIFF_OPTS')

#: For every repository: no hooks, no signatures, nothing in the background.
_SETTINGS = {
    'core.hooksPath': '/dev/null', 'commit.gpgSign': 'false', 'gc.auto': '0',
    'maintenance.auto': 'false', 'core.fsmonitor': 'false',
    'am.threeWay': 'false', 'am.keepcr': 'false', 'mailinfo.scissors': 'false',
    'apply.whitespace': 'nowarn', 'apply.ignoreWhitespace': 'no',
    'merge.verifySignatures': 'false', 'merge.conflictStyle': 'merge',
    'rebase.autoStash': 'false', 'rebase.autoSquash': 'false',
    'rebase.updateRefs': 'false', 'rebase.missingCommitsCheck': 'ignore',
    'core.quotePath': 'false', 'advice.detachedHead': 'false',
    'submodule.recurse': 'false', 'sequence.editor': 'true', 'core.editor': 'true',
    'rerere.enabled': 'false',
}


class GitError(Exception):
    """git failed; `line` is the first that it said about it."""

    def __init__(self, args: Sequence[str], text: str) -> None:
        told = [line for line in text.splitlines()
                if line.startswith(('error: ', 'fatal: '))]
        rest = [line for line in text.splitlines() if not line.startswith('hint:')]
        self.line = (told or rest or [f'git {args[0]} failed'])[0]
        self.text = text
        super().__init__(self.line)


class Repo:
    """A git repository.

    Args:
        path: the work tree, or the folder of a bare one
        users: it belongs to the user, whose configuration then says who
            may read it and who commits; otherwise no configuration of the
            user or the system is read
    """

    def __init__(self, path: Union[str, Path], users: bool = False) -> None:
        self.path = Path(path)
        self.env: Dict[str, str] = {key: value for key, value in os.environ.items()
                                    if key not in _DROPPED}
        self.env['LC_ALL'] = 'C.UTF-8'
        self.env['GIT_TERMINAL_PROMPT'] = '0'
        if not users:
            self.env['GIT_CONFIG_GLOBAL'] = '/dev/null'
            self.env['GIT_CONFIG_NOSYSTEM'] = '1'
        self._options = ['--no-optional-locks', '--no-pager']
        for key, value in _SETTINGS.items():
            self._options += ['-c', f'{key}={value}']

    def run(self, *args: Union[str, Path], stdin: Optional[bytes] = None,
            env: Optional[Dict[str, str]] = None,
            session: bool = False) -> 'subprocess.CompletedProcess[bytes]':
        """Run git here, whatever comes of it."""
        command = ['git', '-C', str(self.path), *self._options, *map(str, args)]
        return subprocess.run(
            command, check=False, env={**self.env, **(env or {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=session,
            input=stdin or b'')

    def raw(self, *args: Union[str, Path], stdin: Optional[bytes] = None,
            env: Optional[Dict[str, str]] = None, session: bool = False) -> bytes:
        """What git prints. Raises GitError if it fails."""
        done = self.run(*args, stdin=stdin, env=env, session=session)
        if done.returncode:
            text = (done.stderr + done.stdout).decode(errors='replace')
            raise GitError([str(arg) for arg in args], text)
        return done.stdout

    def out(self, *args: Union[str, Path], env: Optional[Dict[str, str]] = None) -> str:
        """The same as text, without the newline at the end."""
        return self.raw(*args, env=env).decode('utf-8', 'surrogateescape').rstrip('\n')

    def ok(self, *args: Union[str, Path], env: Optional[Dict[str, str]] = None) -> bool:
        """Does git succeed?"""
        return self.run(*args, env=env).returncode == 0

    def unpack(self, folder: Path, tree: str, *paths: str) -> None:
        """Write the files of a commit or tree below a folder, which is made:
        all, or those of paths. Raises GitError if there is no such tree or path."""
        data = self.raw('archive', '--format=tar', tree, '--', *paths)
        folder.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(folder)

    def commit(self, name: str) -> Optional[str]:
        """The commit of that name, or None."""
        done = self.run('rev-parse', '-q', '--verify', f'{name}^{{commit}}')
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def git_path(self, name: str) -> Path:
        """A file in its git directory."""
        return (self.path / self.out('rev-parse', '--git-path', name)).resolve()

    def version(self, commit: str) -> str:
        """QEMU's VERSION in a commit."""
        return self.out('show', f'{commit}:VERSION').strip()


def scratch(path: Path, *objects: Path, bare: bool = True,
            like: Optional[Repo] = None) -> Repo:
    """A new repository that borrows its objects from others.

    Args:
        path: where; the folder is made
        objects: folders of objects of other repositories
        bare: without a work tree
        like: the repository whose history is looked at: its format and
            where its history ends are taken over
    """
    path.mkdir(parents=True)
    repo = Repo(path)
    form = like.out('rev-parse', '--show-object-format') if like else 'sha1'
    repo.raw('init', '-q', f'--object-format={form}', '--template=',
             *(['--bare'] if bare else []))
    inner = path if bare else path / '.git'
    info = inner / 'objects' / 'info'
    info.mkdir(parents=True, exist_ok=True)
    (info / 'alternates').write_text(
        ''.join(f'{folder}\n' for folder in objects if folder.is_dir()))
    if like:
        shallow = like.git_path('shallow')
        if shallow.exists():
            (inner / 'shallow').write_bytes(shallow.read_bytes())
    return repo


def transfer(source: Repo, target: Repo, new: str, old: str) -> None:
    """Copy the objects of old..new from one repository into another."""
    wanted = source.raw('rev-list', '--objects', '--no-object-names', new, f'^{old}')
    pack = source.raw('pack-objects', '-q', '--stdout', stdin=wanted)
    target.raw('unpack-objects', '-q', stdin=pack)


def identity(repo: Repo, role: str = 'COMMITTER') -> Optional[str]:
    """`Name <address>` that git would use there, or None if it has none."""
    done = repo.run('var', f'GIT_{role}_IDENT')
    if done.returncode:
        return None
    return done.stdout.decode('utf-8', 'surrogateescape').rsplit('> ', 1)[0] + '>'


def need_git() -> None:
    """Fail if there is no git."""
    try:
        subprocess.run(['git', '--version'], check=True, stdout=subprocess.DEVNULL)
    except OSError:
        die('git is not installed: run scripts/setup')


def names(listing: bytes) -> List[str]:
    """The entries of a list that git separated by NUL."""
    return [entry for entry in
            listing.decode('utf-8', 'surrogateescape').split('\0') if entry]
