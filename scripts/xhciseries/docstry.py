# SPDX-License-Identifier: GPL-2.0-or-later
"""Trying what the documents show: command lines of QEMU, switches of configure."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

from .ui import die

#: Seconds; a bound, not a delay
TIMEOUT = 120
#: A command line of QEMU, or what scripts/diagnose passes on to one
QEMU = re.compile(r'(?:\$ )?(?:[A-Z_]+=\S+ )*'
                  r'(?:[^\s=]*\bqemu-system-x86_64|scripts/diagnose .*? --) +(\S.*)')
CONFIGURE = re.compile(r'(?:\$ )?\S*\bconfigure (.*)')
#: Switches of configure, wherever they are
SWITCH = re.compile(r'(?<![\w-])--(?:enable|disable)-[\w-]+')
OPTION = re.compile(r'(?<![\w-])--[a-z][\w-]*')
#: What a machine may lack, and what is for a person, in the order of replacing
REPLACED = (
    (r'(?<=-cpu )\.\.\.', 'max'),
    (r'(?<!\S)\.\.\.(?!\S)', ''),
    (r'(-accel |accel=)(?:kvm|hvf)\b', r'\1tcg'),
    (r'(?<!\S)--?enable-kvm(?!\S)', '-accel tcg'),
    # stdin and stdout are those of our monitor
    (r'(?<!\S)--?(?:monitor|qmp|serial) stdio(?!\S)', ''),
    (r'(?<!\S)2>', '>'),
    (r'(?<![\w./-])[~.]?/(?:[\w.-]+/)*(?=\w)', ''),
)
HOST_DEVICE = re.compile(r'(?<!\S)-device usb-host(?:,\S*)?(?!\S)')
#: What an example needs that nobody can make up: a disk, firmware, a variable
NEEDS = re.compile(r'[\w.-]+\.(?:qcow2|fd|img|iso|raw|cfg)\b|\$\w+|(?<!\S)-kernel(?!\S)')


class Outcome(NamedTuple):
    """What came of an example."""

    #: why QEMU does not take it, or nothing
    error: str = ''
    #: what was not tried, and why, or nothing
    skipped: str = ''


def qemu_options(text: str) -> Optional[str]:
    """What a line passes to QEMU, or None if it does not start one."""
    found = QEMU.match(text)
    return found[1] if found else None


def start(qemu: str, options: str) -> Outcome:
    """Start QEMU with the options of an example, without letting it run."""
    needs = NEEDS.search(options)
    if needs:
        return Outcome(skipped=f'not started: {needs[0]} is not here')
    skipped = ''
    for found in HOST_DEVICE.findall(options):
        skipped = f'started without {found}, a device of the host'
    options = HOST_DEVICE.sub('', options)
    for pattern, new in REPLACED:
        options = re.sub(pattern, new, options)
    try:
        words = list(_words(options))
    except ValueError as error:
        return Outcome(f'the shell cannot read it: {error}')
    program = os.path.abspath(shutil.which(qemu) or qemu)
    # What it writes, such as the file of -D, goes there
    with tempfile.TemporaryDirectory(prefix='check-docs.') as folder:
        try:
            done = subprocess.run(
                [program, '-nodefaults', '-display', 'none', '-S', '-monitor', 'stdio', *words],
                cwd=folder, check=False, capture_output=True, text=True, input='quit\n',
                timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return Outcome(f'it does not end in {TIMEOUT} s', skipped)
    unknown = re.search(r'warning: (trace event .*)', done.stderr)
    if done.returncode:
        last = done.stderr.strip().rpartition('\n')[2]
        return Outcome(last.partition(': ')[2] or f'status {done.returncode}', skipped)
    return Outcome(unknown[1] if unknown else '', skipped)


def _words(text: str) -> Iterator[str]:
    """The words of a command, up to a comment or to what follows it."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if re.fullmatch('[();<>|&]+', word):
            return
        yield word


def switches(text: str) -> List[str]:
    """The options of configure in a line."""
    found = CONFIGURE.match(text)
    return OPTION.findall(found[1]) if found else SWITCH.findall(text)


class Configure:
    """What the configure of a QEMU tree knows."""

    def __init__(self, tree: Path) -> None:
        # It writes into the current folder, also for --help
        with tempfile.TemporaryDirectory(prefix='check-docs.') as folder:
            try:
                done = subprocess.run([tree.resolve() / 'configure', '--help'], cwd=folder,
                                      check=False, capture_output=True, text=True,
                                      stdin=subprocess.DEVNULL)
            except OSError as error:
                die(f'cannot run {tree}/configure: {error.strerror}')
        if done.returncode:
            die(f'{tree}/configure --help fails: {done.stderr.strip()}')
        self.help = done.stdout

    def knows(self, option: str) -> bool:
        """Whether it has an option. Features are listed without --enable-."""
        feature = re.sub('^--(enable|disable)-', '', option)
        names = [rf'(?<![\w-])--{prefix}{re.escape(feature)}(?![\w-])'
                 for prefix in ('enable-', 'disable-')] + [rf'(?m)^  {re.escape(feature)}\s'] \
            if feature != option else [rf'(?<![\w-]){re.escape(option)}(?![\w-])']
        return any(re.search(name, self.help) for name in names)
