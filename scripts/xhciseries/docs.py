# SPDX-License-Identifier: GPL-2.0-or-later
"""Check the Markdown files: links, commands, and options of QEMU."""

import argparse
import fnmatch
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple
from urllib.parse import unquote

from . import docstry
from .bases import load, numbers
from .git import Repo
from .paths import PATCHES, TOP
from .ui import Parser, die, run_main, say

USAGE = 'scripts/check-docs [--qemu BINARY] [--tree DIR] [FILE...]'

TEXT = '''
Check the Markdown files of this repository, or only FILE...:

- each link inside the repository leads to a file, and to a heading there;
- each document in docs is in the index, docs/README.md, and the newest version in
  CHANGELOG.md is that of patches/VERSION;
- each command of this repository in code exists, and has the options given;
  where its first argument is a base or a suite, there is such a one;
- with --qemu: BINARY knows each property of nec-usb-xhci, qemu-xhci and
  pci-xhci that is in code here or in docs/recipes, and takes the value; it has
  each trace event; and it starts with each command line of QEMU and each block
  of options in the documents. BINARY has to be a patched one, of 10.0 or later;
- with --tree: configure of the QEMU in DIR has the options given to it, and
  each --enable-* and --disable-* that is named.

QEMU is started with -S, -nodefaults and no display, in a temporary folder that
takes the place of the folders in the example; TCG takes the place of KVM and
HVF, and devices of the host are left out. An example that needs a disk, a
firmware or a variable is not started. What is left out is said on stderr.

Nothing is fetched from the network. The package cmark-gfm is needed. Prints
one line for each error, and fails if there are any.
'''

#: Where text with examples is that is not Markdown.
RECIPES = 'docs/recipes/'
CONTROLLERS = ('nec-usb-xhci', 'qemu-xhci')
#: Trace events that stock QEMU has, and the patched one no longer
STOCK_EVENTS = ('usb_xhci_irq_msix_use', 'usb_xhci_irq_msix_unuse')
#: The parent of both, which -global takes too.
PARENT = 'pci-xhci'
MODEL = f"(?:{'|'.join((*CONTROLLERS, PARENT))})"
#: -device nec-usb-xhci,a=b,c=d, with or without -device
DEVICE = re.compile(rf'(?<![\w.-])({MODEL})((?:,[\w-]+=[^\s,`"\'<)]*)+)')
#: -global nec-usb-xhci.a=b, with or without -global
GLOBAL = re.compile(rf'(?<![\w.-])({MODEL})\.([\w-]+)=([^\s,`"\'<)]*)')
#: A trace event, or a pattern for several
TRACE = re.compile(r'(?<![\w-])(usb_xhci_[\w*]+)')
#: What begins like a command of this repository.
COMMAND = re.compile(r'^(?:\$ )?(?:nice |sudo )*(?:[A-Z_]+=\S+ )*'
                     r'((?:scripts|bench|tests/(?:guest|recipes|faults|stock|scripts))/[\w./-]+)'
                     r'((?: [^|>;#&]*)?)')


@dataclass
class Code:
    """A piece of code: a line of a block, or what is between backticks."""

    where: str
    text: str


@dataclass
class Page:
    """What a Markdown file has in it."""

    #: anchors, as GitHub and GitLab make them from headings
    anchors: Set[str] = field(default_factory=set)
    #: (where, target)
    links: List[Tuple[str, str]] = field(default_factory=list)
    code: List[Code] = field(default_factory=list)
    #: blocks of nothing but options for QEMU, each as one line
    options: List[Code] = field(default_factory=list)
    #: (where, text) of links whose definition is missing
    undefined: List[Tuple[str, str]] = field(default_factory=list)


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


def read_page(path: Path, name: str) -> Page:
    """Parse a Markdown file."""
    try:
        done = subprocess.run(
            ['cmark-gfm', '-e', 'table', '--to', 'xml', '--sourcepos', str(path)],
            check=False, capture_output=True, text=True)
    except FileNotFoundError:
        die('cmark-gfm is missing: install the package cmark-gfm')
    if done.returncode:
        die(f'cmark-gfm cannot read {name}: {done.stderr.strip()}')
    page = Page()
    seen: Dict[str, int] = {}
    where = name
    for node in ElementTree.fromstring(done.stdout).iter():
        tag = node.tag.rpartition('}')[2]
        line = node.get('sourcepos', '').partition(':')[0]
        if line:
            where = f'{name}:{line}'
        text = node.text or ''
        if tag == 'heading':
            anchor = slug(''.join(part.text or '' for part in node.iter()
                                  if part.tag.rpartition('}')[2] in ('text', 'code')))
            count = seen.get(anchor, 0)
            seen[anchor] = count + 1
            page.anchors.add(f'{anchor}-{count}' if count else anchor)
        elif tag in ('link', 'image'):
            page.links.append((where, node.get('destination', '')))
        elif tag == 'code':
            page.code.append(Code(where, text))
        elif tag == 'code_block':
            lines = list(_lines(name, int(line or 0) + 1, text))
            page.code += lines
            if all(one.text.startswith('-') for one in lines):
                page.options.append(Code(lines[0].where, ' '.join(one.text for one in lines)))
        elif tag in ('html_block', 'html_inline'):
            page.anchors.update(re.findall(r'\b(?:id|name)="([^"]+)"', text))
        elif tag == 'text':
            page.undefined += [(where, found) for found in re.findall(r'\]\[[^\]]*\]', text)]
    return page


def _lines(name: str, first: int, text: str) -> Iterator[Code]:
    """The lines of a block, with those joined that end in a backslash."""
    whole, begin = '', first
    for number, line in enumerate(text.splitlines(), first):
        begin = begin if whole else number
        if line.endswith('\\'):
            whole += line[:-1].rstrip() + ' '
            continue
        yield Code(f'{name}:{begin}', whole + line.strip() if whole else line)
        whole = ''
    if whole:
        yield Code(f'{name}:{begin}', whole)


class Checker:
    """Collects what is wrong."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        #: files that are, or may soon be, in the repository, and their folders
        self.there: Set[str] = {'.'}
        for name in _listed():
            self.there.update([name, *map(str, Path(name).parents)])
        self.pages = {name: read_page(TOP / name, name) for name in names if name.endswith('.md')}
        self.wrong: List[str] = []
        self.helps: Dict[str, Optional[str]] = {}

    def complain(self, where: str, what: str) -> None:
        """Note that something is wrong."""
        line = f'{where}: {what}'
        if line not in self.wrong:
            self.wrong.append(line)

    # --- links ------------------------------------------------------------------

    def links(self) -> int:
        """Check the links inside the repository. Returns their number."""
        count = 0
        for name, page in self.pages.items():
            for where, text in page.undefined:
                self.complain(where, f'a link without a definition: {text[1:]}')
            for where, target in page.links:
                if re.match(r'[a-z][a-z0-9+.-]*:', target):
                    if not re.match(r'https://[\w.-]+(/|$)|mailto:', target):
                        self.complain(where, f'not an address with https: {target}')
                    continue
                count += 1
                self._link(name, where, target)
        return count

    def _link(self, name: str, where: str, target: str) -> None:
        path, _, anchor = target.partition('#')
        path = name if not path else \
            os.path.normpath(os.path.join(os.path.dirname(name), unquote(path)))
        full = TOP / path
        if path not in self.there:
            self.complain(where, f'no such file in the repository: {target}')
        elif anchor:
            if full.suffix != '.md':
                self.complain(where, f'an anchor in a file that is not Markdown: {target}')
                return
            if path not in self.pages:
                self.pages[path] = read_page(full, path)
            if anchor not in self.pages[path].anchors:
                self.complain(where, f'no such heading: {target}')

    def overview(self) -> None:
        """Check the index of the documents, and the version in the list of changes."""
        index, changes = self.pages.get('docs/README.md'), self.pages.get('CHANGELOG.md')
        if index:
            linked = {os.path.normpath(f'docs/{target.partition("#")[0]}')
                      for _, target in index.links}
            for name in self.names:
                if re.fullmatch(r'docs/[^/]+\.md', name) and name != 'docs/README.md' \
                        and name not in linked:
                    self.complain('docs/README.md', f'does not list {name}')
        if changes:
            found = re.search(r'^version: *(\S+)', (PATCHES / 'VERSION').read_text(), re.M)
            told = re.search(r'^## *(\S+)', (TOP / 'CHANGELOG.md').read_text(), re.M)
            if found and (not told or told[1] != found[1]):
                self.complain('CHANGELOG.md', f'does not begin with version {found[1]}')

    # --- commands ---------------------------------------------------------------

    def commands(self) -> int:
        """Check the commands of this repository. Returns their number."""
        count = 0
        for code in self.all_code():
            found = COMMAND.match(code.text)
            if not found:
                continue
            count += 1
            path, rest = found[1].rstrip('/.'), found[2]
            # BASE, and what else is written in capitals, stands for a name
            if not list(TOP.glob(re.sub(r'(?<=/)[A-Z]+(?=/|$)', '*', path))):
                self.complain(code.where, f'no such command or file: {path}')
                continue
            if not os.access(TOP / path, os.X_OK) or (TOP / path).is_dir():
                continue
            known = self._help(path)
            if known is None:
                continue
            for option in re.findall(r'(?<=\s)--[a-z][\w-]*', rest.partition(' -- ')[0]):
                if not re.search(rf'(?<![\w-]){option}(?![\w-])', known):
                    self.complain(code.where, f'{path} has no option {option}')
            first = re.match(r' ([^-\s]\S*)', rest)
            usage = re.search(rf'(?im)^usage: {path} (\[?BASE|FROM|SUITE)', known)
            # What is written in capitals stands for one
            if first and usage and not first[1].isupper() and not _exists(usage[1], first[1]):
                self.complain(code.where, f'{path}: there is no {first[1]}')
        return count

    def _help(self, path: str) -> Optional[str]:
        """What a command says of itself, or None if it has no --help."""
        if path not in self.helps:
            done = subprocess.run([TOP / path, '--help'], check=False, capture_output=True,
                                  text=True, stdin=subprocess.DEVNULL)
            self.helps[path] = None if done.returncode else done.stdout
        return self.helps[path]

    def all_code(self) -> Iterator[Code]:
        """The code of all pages."""
        for name in self.names:
            if name in self.pages:
                yield from self.pages[name].code

    # --- options ----------------------------------------------------------------

    def options(self, qemu: str) -> int:
        """Check the options of the controllers by a QEMU. Returns their number."""
        known = {model: self._properties(qemu, model) for model in CONTROLLERS}
        known[PARENT] = known[CONTROLLERS[0]] & known[CONTROLLERS[1]]
        events = set(self._ask(qemu, '-trace', 'help').split())
        #: arguments, and where they are
        starts: Dict[Tuple[str, ...], str] = {}
        count = 0
        for code in self.all_code_and_recipes():
            for name in TRACE.findall(code.text):
                count += 1
                if name not in STOCK_EVENTS and events and not fnmatch.filter(events, name):
                    self.complain(code.where, f'{qemu} has no trace event {name}')
            for model, name, value, args in _settings(code.text):
                count += 1
                if name not in known[model]:
                    self.complain(code.where, f'{model} of {qemu} has no property {name}')
                # What stands for a value, such as N, is in no position to be tried
                elif value and not re.search(r'[A-Z$]', value):
                    starts.setdefault(args, code.where)
        for args, where in starts.items():
            error = self._start(qemu, args)
            if error:
                self.complain(where, f"{qemu} does not take {' '.join(args)}: {error}")
        return count

    def examples(self, qemu: str) -> int:
        """Start a QEMU with what the documents show. Returns the number of examples."""
        count = 0
        for name in self.names:
            page = self.pages.get(name, Page())
            shown = [(code, docstry.qemu_options(code.text)) for code in page.code]
            for code, options in [*shown, *((code, code.text) for code in page.options)]:
                if options is None:
                    continue
                count += 1
                outcome = docstry.start(qemu, options)
                if outcome.skipped:
                    say(f'{code.where}: {outcome.skipped}')
                if outcome.error:
                    self.complain(code.where, f'{qemu} does not take {options}: {outcome.error}')
        return count

    def switches(self, tree: Path) -> int:
        """Check the options of configure by a tree of QEMU. Returns their number."""
        configure = docstry.Configure(tree)
        count = 0
        for code in self.all_code():
            for option in docstry.switches(code.text):
                count += 1
                if not configure.knows(option):
                    self.complain(code.where, f'configure of {tree} has no {option}')
        return count

    def all_code_and_recipes(self) -> Iterator[Code]:
        """The code of all pages, and the lines of the recipes."""
        yield from self.all_code()
        for name in self.names:
            if name.startswith(RECIPES) and name not in self.pages:
                yield from _lines(name, 1, (TOP / name).read_text())

    def _properties(self, qemu: str, model: str) -> Set[str]:
        return set(re.findall(r'^\s+([\w-]+)=', self._ask(qemu, '-device', f'{model},help'), re.M))

    @staticmethod
    def _ask(qemu: str, *args: str) -> str:
        try:
            done = subprocess.run([qemu, *args], check=False, capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL)
        except OSError as error:
            die(f'cannot start {qemu}: {error.strerror}')
        if done.returncode:
            die(f"{qemu} {' '.join(args)} fails: {done.stderr.strip()}")
        return done.stdout

    @staticmethod
    def _start(qemu: str, args: Sequence[str]) -> str:
        """Start with some arguments. Returns the error, or nothing."""
        done = subprocess.run(
            [qemu, '-M', 'q35', '-accel', 'tcg', '-nodefaults', '-display', 'none', '-S',
             '-monitor', 'stdio', *args],
            check=False, capture_output=True, text=True, input='quit\n')
        return done.stderr.strip().rpartition('\n')[2].partition(': ')[2] \
            if done.returncode or done.stderr else ''


def _settings(text: str) -> Iterator[Tuple[str, str, str, Tuple[str, ...]]]:
    """Options in a line: (model, property, value, arguments to start with)."""
    for model, rest in DEVICE.findall(text):
        for setting in rest[1:].split(','):
            name, _, value = setting.partition('=')
            if name not in ('id', 'bus', 'addr'):
                device = CONTROLLERS[0] if model == PARENT else model
                yield model, name, value, ('-device', f'{device},{name}={value}')
    for model, name, value in GLOBAL.findall(text):
        device = CONTROLLERS[0] if model == PARENT else model
        yield model, name, value, ('-global', f'{model}.{name}={value}', '-device', device)


def _exists(kind: str, word: str) -> bool:
    """Whether there is such a suite or base, or whether it may be the base to come."""
    bases = load()
    if kind == 'SUITE':
        return word in [base.suite for base in bases] + ['sid']
    return word in [base.name for base in bases] or (
        re.fullmatch(r'v\d+\.\d+', word) is not None
        and numbers(word[1:]) > max(numbers(base.name[1:]) for base in bases))


def _listed() -> List[str]:
    """The files that are, or may soon be, in the repository."""
    listed = Repo(TOP).out('ls-files', '-co', '--exclude-standard').splitlines()
    return sorted({name for name in listed if (TOP / name).is_file()})


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('check-docs', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('check-docs', USAGE, TEXT)
    parser.add_argument('files', nargs='*', metavar='FILE', help=argparse.SUPPRESS)
    parser.add_argument('--qemu', metavar='BINARY', help='a QEMU to ask about the options')
    parser.add_argument('--tree', metavar='DIR', type=Path,
                        help='a tree of QEMU to ask about the options of configure')
    args = parser.parse(argv)
    names = [name for name in _listed() if name.endswith('.md') or name.startswith(RECIPES)]
    for file in args.files:
        path = Path(os.path.abspath(file))
        if not path.is_file() or TOP not in path.parents:
            die(f'no such file in this repository: {file}')
    if args.files:
        names = [str(Path(os.path.abspath(file)).relative_to(TOP)) for file in args.files]
    checker = Checker(names)
    told = [f'{checker.links()} links', f'{checker.commands()} commands']
    checker.overview()
    if args.qemu:
        told.append(f'{checker.options(args.qemu)} options')
        told.append(f'{checker.examples(args.qemu)} starts of QEMU')
    if args.tree:
        told.append(f'{checker.switches(args.tree)} switches')
    for line in checker.wrong:
        print(line, flush=True)
    if checker.wrong:
        die(f'{len(checker.wrong)} things are wrong in the documents, see above')
    say(f"{len(checker.pages)} documents: {', '.join(told)}")
    return 0
