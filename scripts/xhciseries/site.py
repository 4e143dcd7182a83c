# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation as one page for a browser. See scripts/site --help."""

import base64
import html
import json
import os
import re
import string
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import unquote

from . import chooser, cover, flowchart
from .paths import TOP, WORK
from .releases import full_table, read_record
from .ui import Parser, die, run_main

USAGE = 'scripts/site [--out DIR]'

TEXT = '''
Write the documentation as one web page, index.html: the beginning
of README.md, a chooser that shows which commands a QEMU needs, the table of
releases, and all documents that docs/README.md leads to. The page needs no
network and no server: open the file, or send it to somebody.

The commands follow from patches/releases, patches/bases and what scripts/dist
writes; the frame of the page is in docs/site. Prints the path of the page. The
packages pandoc and graphviz are needed.
'''

README = 'README.md'
INDEX = 'docs/README.md'
#: What of README.md is at the top of the page ends here
AFTER_INTRO = '\n## Quick start\n'
#: What the text files that the documents link to may end in. Others, and
#: folders, are named in the page, but not in it
SHOWN = re.compile(r'docs/.*\.(args|cfg|sh|xml)')
PICTURES = {'.svg': 'image/svg+xml', '.png': 'image/png'}

_LINK = re.compile(r'<a\s+href="([^"]*)"([^>]*)>(.*?)</a>', re.S)
_FLOWCHART = re.compile(r'<pre class="mermaid"><code>(.*?)</code></pre>', re.S)
_IMAGE = re.compile(r'(<img\s+src=")([^"]*)"')


class Document(NamedTuple):
    """A file that is in the page."""

    #: from the top of the repository
    path: str
    #: the anchor, and how those of its headings begin
    id: str
    title: str
    body: str


def anchor_of(path: str) -> str:
    """The anchor of a document: docs/using.md is `using`."""
    if path == INDEX:
        return 'documentation'
    name = re.sub(r'^docs/|\.md$', '', path)
    name = re.sub(r'(.)/README$', r'\1', name)
    return name.replace('/', '-').lower()


def to_html(markdown: str, prefix: str) -> str:
    """Markdown, as GitHub and GitLab read it, in HTML.

    Args:
        prefix: how the anchors of headings are to begin
    """
    # With fewer columns, pandoc gives all columns of a table with a long line
    # the same width
    command = ['pandoc', '--from=gfm', '--to=html', '--no-highlight', '--wrap=preserve',
               '--columns=10000', f'--id-prefix={prefix}']
    try:
        done = subprocess.run(command, input=markdown, check=False, capture_output=True,
                              encoding='utf-8')
    except FileNotFoundError:
        die('pandoc is not installed: run scripts/setup')
    if done.returncode:
        die(f'pandoc cannot read it: {done.stderr.strip()}')
    # A table that is wider than a phone is to scroll by itself
    return done.stdout.replace('<table>', '<div class="table" tabindex="0"><table>') \
        .replace('</table>', '</table></div>')


def read(path: str) -> str:
    """A file of the repository."""
    file = TOP / path
    if not file.is_file():
        die(f'{path} is missing: restore it with git checkout {path}')
    return file.read_text()


def target_of(path: str, link: str) -> str:
    """The file or folder that a document links to, from the top of the repository."""
    return os.path.normpath(os.path.join(os.path.dirname(path), unquote(link)))


def as_data(kind: str, content: bytes) -> str:
    """A file as an address that holds all of it."""
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _drawn(found: 're.Match[str]') -> str:
    picture = flowchart.to_svg(html.unescape(found[1]))
    return f'<p><img src="{as_data(PICTURES[".svg"], picture)}" alt="flowchart"></p>'


class Site:
    """Collects what is in the page."""

    def __init__(self) -> None:
        #: what is in the page, by its path
        self.documents: Dict[str, Document] = {}
        #: what is linked to and not read yet
        self.waiting: List[str] = []

    def convert(self, path: str, markdown: str, prefix: str) -> str:
        """A document in HTML, with its links leading to what is in the page."""
        def link(found: 're.Match[str]') -> str:
            where, anchor = self._link(path, html.unescape(found[1]))
            if where is None:
                return found[3]
            return f'<a href="{html.escape(where + anchor)}"{found[2]}>{found[3]}</a>'

        def image(found: 're.Match[str]') -> str:
            if found[2].startswith('data:'):
                return found[0]
            return f'{found[1]}{self._image(path, html.unescape(found[2]))}"'

        text = _FLOWCHART.sub(_drawn, to_html(markdown, prefix))
        return _IMAGE.sub(image, _LINK.sub(link, text))

    def _link(self, path: str, link: str) -> Tuple[Optional[str], str]:
        """Where a link leads to in the page; None if that is not in it."""
        # pandoc has seen to links inside the document
        if re.match(r'#|[a-z][a-z0-9+.-]*:', link):
            return link, ''
        name, _, anchor = link.partition('#')
        target = target_of(path, name)
        if not (TOP / target).exists():
            die(f'{path} links to {link}, which is not there')
        if not target.endswith('.md') and not SHOWN.fullmatch(target):
            return None, ''
        if target not in (INDEX, *self.documents, *self.waiting):
            self.waiting.append(target)
        return '#' + anchor_of(target), f'-{anchor}' if anchor else ''

    @staticmethod
    def _image(path: str, link: str) -> str:
        """A picture, as part of the page."""
        file = TOP / target_of(path, link)
        kind = PICTURES.get(file.suffix)
        if not file.is_file() or not kind:
            die(f'{path} has the picture {link}, which is no file that a page can have')
        return as_data(kind, file.read_bytes())

    def add(self, path: str) -> None:
        """Read a document, and note what it links to."""
        text, name = read(path), anchor_of(path)
        if any(known.id == name for known in self.documents.values()):
            die(f'{path} and another document have the anchor {name} in the page')
        if path.endswith('.md'):
            title, body = split_title(path, text)
            body = self.convert(path, body, f'{name}-')
        else:
            title, body = Path(path).name, f'<pre><code>{html.escape(text)}</code></pre>'
        self.documents[path] = Document(path, name, title, body)

    def add_waiting(self) -> None:
        """Read what is linked to, until there is nothing new."""
        while self.waiting:
            path = self.waiting[0]
            self.add(path)
            self.waiting.remove(path)


def split_title(path: str, text: str) -> Tuple[str, str]:
    """The heading that a document begins with, and the rest."""
    head, _, rest = text.partition('\n')
    if not head.startswith('# '):
        die(f'{path} does not begin with a heading')
    return head[2:].strip(), rest


def page() -> str:
    """The page."""
    site = Site()
    title, text = split_title(README, read(README))
    if AFTER_INTRO not in text:
        die(f'{README} has no heading "{AFTER_INTRO.strip()}", which ends the top '
            'of the page')
    rows = list(read_record().values())
    parts = {
        'title': html.escape(title),
        'version': html.escape(cover.release().version),
        # The index first: the order of the documents is that of their links
        'documentation': site.convert(INDEX, split_title(INDEX, read(INDEX))[1],
                                      'documentation-'),
        'intro': site.convert(README, text.partition(AFTER_INTRO)[0], 'intro-'),
        'versions': site.convert(README, '\n'.join(full_table(rows)), 'versions-'),
        # Where a script ends is seen by the browser before it reads the data
        'data': json.dumps(chooser.data(rows), sort_keys=True).replace('</', '<\\/'),
        'style': read('docs/site/style.css').strip(),
        'script': read('docs/site/chooser.js').strip(),
    }
    site.add_waiting()
    parts['pages'] = '\n'.join(
        f'<details class="page" id="{one.id}">\n<summary>{html.escape(one.title)} '
        f'<small>{html.escape(one.path)}</small></summary>\n{one.body}</details>'
        for one in site.documents.values())
    try:
        return string.Template(read('docs/site/page.html')).substitute(parts)
    except (KeyError, ValueError) as error:
        die(f'docs/site/page.html has a name without a value: {error}')


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('site', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('site', USAGE, TEXT)
    parser.add_argument('--out', metavar='DIR', type=Path, default=WORK / 'site',
                        help='where to, otherwise work/site')
    args = parser.parse(argv)
    text = page()
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve() / 'index.html'
    out.write_text(text, encoding='utf-8')
    print(out)
    return 0
