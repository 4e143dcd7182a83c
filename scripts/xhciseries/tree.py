# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU trees that scripts/tree makes: tag `base`, branch `series`."""

import contextlib
import fcntl
from pathlib import Path
from typing import Iterator

from .bases import Base
from .git import Repo
from .paths import WORK
from .ui import die, say


class Tree:
    """The tree of a base."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.path = WORK / 'trees' / base.name
        self.repo = Repo(self.path)

    def exists(self) -> bool:
        """Was it made?"""
        return (self.path / '.git').exists()

    def need(self) -> 'Tree':
        """Fail if it was not made. If a killed script left it on another
        commit than its branch, put it back."""
        if not self.exists():
            die(f'there is no tree of {self.base.name} yet: '
                f'run scripts/tree {self.base.name}')
        mark = self.path / '.git' / 'scripts-detached'
        if mark.exists():
            if self.is_clean():
                say(f'putting {self.path} back on its branch')
                self.repo.raw('checkout', '-q', mark.read_text().strip())
            mark.unlink()
        return self

    def need_series(self) -> 'Tree':
        """Fail if it has no branch series with commits."""
        self.need()
        if self.repo.commit('series') is None:
            die(f'{self.path} has no branch series')
        if self.repo.out('rev-list', '--count', 'base..series') == '0':
            die(f'the tree of {self.base.name} holds no patches: '
                f'run scripts/apply {self.base.name}')
        return self

    def is_clean(self) -> bool:
        """Is all of it committed?"""
        return not self.repo.out('status', '--porcelain')

    @property
    def version(self) -> str:
        """The point release that it is a tree of."""
        return self.repo.version('base')

    @property
    def objects(self) -> Path:
        """Its git objects."""
        return self.path / '.git' / 'objects'

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One script at a time works on it. Held until the end."""
        WORK.mkdir(parents=True, exist_ok=True)
        with open(WORK / f'.lock-{self.base.name}', 'w', encoding='ascii') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f'waiting for another script to finish with {self.base.name}')
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
