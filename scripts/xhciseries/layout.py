# SPDX-License-Identifier: GPL-2.0-or-later
"""The folder patches/: which patch is a file, and which a link to one.

A series is a set of files, by their names below patches/<base>/. What
several bases have in common exists once: the newest base that has it holds
the file, the others a relative link to it. Which file that is follows from
the series alone, so that it is never a matter of taste or history.
"""

import os
from pathlib import Path
from typing import Dict, List, Sequence, Union

from .mail import Mail, read_bytes
from .paths import PATCHES
from .ranges import TESTS, Range, of_patch
from .ui import die

#: The folder of the patches that are applied after the series of any base
COMMON = 'common'

#: What a series holds: names such as 0101-x.patch and
#: cover/0100-cover-letter.patch, with links followed
Files = Dict[str, bytes]


class Link(str):
    """A symbolic link, as the text that it holds."""


Entry = Union[bytes, Link]


def patch_names(folder: str, root: Path = PATCHES) -> List[str]:
    """The names of patches and cover letters in patches/<folder>."""
    top = root / folder
    found = sorted(top.glob('[0-9]*.patch')) + sorted(top.glob('cover/[0-9]*.patch'))
    return [str(path.relative_to(top)) for path in found]


def read(folder: str, root: Path = PATCHES) -> Files:
    """What patches/<folder> holds, or the same folder of another checkout."""
    return {name: read_bytes(root / folder / name) for name in patch_names(folder, root)}


def mails(folder: str, files: Files) -> Dict[Range, List[Mail]]:
    """The patches among some files, by range and in order."""
    found: Dict[Range, List[Mail]] = {}
    for name in sorted(files):
        if name.startswith('cover/'):
            continue
        where = of_patch(name)
        if where is None or name[2:4] == '00' or (where is TESTS) != (folder == COMMON):
            die(f'patches/{folder}/{name} is in no range')
        found.setdefault(where, []).append(Mail(f'{folder}/{name}', files[name]))
    return found


def series(base: str) -> Dict[Range, List[Mail]]:
    """The patches of a base, those that all bases have included."""
    own = mails(base, read(base))
    if not own:
        die(f'there is no series {base} yet: patches/{base} holds no patches')
    own.update(mails(COMMON, read(COMMON)))
    return own


def path_of(mail: Mail) -> Path:
    """The file of a mail that series() gave."""
    return PATCHES / mail.name


def _key(name: str, data: bytes) -> str:
    kind = 'cover' if name.startswith('cover/') else 'patch'
    return kind + Mail(name, data).normalized


def arrange(all_files: Dict[str, Files], order: Sequence[str]) -> Dict[str, Entry]:
    """What is to be where below patches/, by path.

    Args:
        all_files: each base's series
        order: the names of the bases, oldest first
    """
    plan: Dict[str, Entry] = {}
    holders: Dict[str, str] = {}
    for base in reversed(order):
        for name, data in sorted(all_files[base].items()):
            path = f'{base}/{name}'
            key = _key(name, data)
            holder = holders.setdefault(key, path)
            if holder.startswith(f'{base}/'):
                plan[path] = data
            else:
                plan[path] = Link(os.path.relpath(holder, os.path.dirname(path)))
    return plan


def on_disk(folders: Sequence[str]) -> Dict[str, Entry]:
    """What is where below patches/."""
    found: Dict[str, Entry] = {}
    for folder in folders:
        for name in patch_names(folder):
            path = PATCHES / folder / name
            entry: Entry = (Link(os.readlink(path)) if path.is_symlink()
                            else path.read_bytes())
            if isinstance(entry, bytes) and read_bytes(path) != entry:
                entry = Link(entry.decode())
            found[f'{folder}/{name}'] = entry
    return found


def write_entry(path: Path, entry: Entry) -> None:
    """Put a file or a link there, in place of whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + '.new')
    if new.is_symlink() or new.exists():
        new.unlink()
    if isinstance(entry, Link):
        new.symlink_to(str(entry))
    else:
        new.write_bytes(entry)
    os.replace(new, path)
