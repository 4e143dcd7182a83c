# SPDX-License-Identifier: GPL-2.0-or-later
"""Test of the page that scripts/site writes: as a file, and in a browser.

    python3 scripts xhcitest.sitetest PAGE [--browser] [--pictures DIR]

As a file: its links, and whether what the chooser offers is what
patches/releases and patches/bases have, with commands that there are. In a
browser: whether it shows these commands for every choice, asks for nothing
from elsewhere, and fits a phone. Prints TAP.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from xhciseries import bases, chooser, layout
from xhciseries.packagers import PACKAGERS, for_release
from xhciseries.paths import PATCHES, TOP
from xhciseries.releases import Row, read_record
from xhciseries.ui import Error, Parser, die, run_main

from . import tap
from .browser import Browser

#: Attributes with which a page loads something
LOADS = ('src', 'srcset', 'data', 'poster', 'background')
#: A word of this repository in a command
SCRIPT = re.compile(r'scripts/[\w-]+')
PHONE, DESKTOP = (360, 740), (1200, 900)

Values = Dict[str, Any]


class Page(HTMLParser):
    """What is in the page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: List[str] = []
        self.links: List[str] = []
        #: what the browser would load from elsewhere
        self.loads: List[str] = []
        self.text = ''
        self._data: Optional[str] = None
        self._inside = False
        try:
            self.whole = path.read_text(encoding='utf-8')
        except OSError:
            die(f'no such file: {path}: run scripts/site')
        self.feed(self.whole)
        self.loads += re.findall(r'@import[^;]*|url\([^)]*\)', self.whole)

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        found = {name: value or '' for name, value in attrs}
        self.anchors += [found[name] for name in ('id',) if name in found]
        if tag == 'a' and 'href' in found:
            self.links.append(found['href'])
        elif 'href' in found:
            self.loads.append(found['href'])
        self.loads += [found[name] for name in LOADS
                       if name in found and not found[name].startswith('data:')]
        self._inside = found.get('id') == 'data'

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._data = (self._data or '') + data

    @property
    def data(self) -> Values:
        """What the chooser has."""
        try:
            return dict(json.loads(self._data or ''))
        except ValueError:
            die('the page has no data for the chooser')


def choices(data: Values) -> Iterator[Tuple[Values, Values]]:
    """All that one can choose: a source of QEMU, and a version of it."""
    for source in data['sources']:
        for name in source['lists']:
            for values in data['lists'][name]:
                yield source, values


def bad_links(page: Page) -> List[str]:
    """Links inside the page that lead nowhere, and anchors that are there twice."""
    there = set(page.anchors)
    wrong = [f'{link}: no such anchor' for link in page.links
             if link.startswith('#') and link[1:] not in there]
    wrong += [f'{link}: neither in the page nor an address with https' for link in page.links
              if not re.match(r'#|https://|mailto:', link)]
    return wrong + [f'#{name}: is there twice' for name in sorted(there)
                    if page.anchors.count(name) > 1]


# --- what the chooser offers -------------------------------------------------------

def bad_versions(data: Values) -> List[str]:
    """What is offered and not in patches/releases and patches/bases, or the other way round."""
    record = read_record()
    wanted = {
        'releases': {name for name in record if '(' not in name} | {'other'},
        'commits': {name.partition('(')[2].rstrip(')') for name in record
                    if re.search(r'\([0-9a-f]+\)', name)},
        'suites': {base.suite for base in bases.load() if base.suite} | {'sid', 'other'},
    }
    wrong = []
    for name, ids in wanted.items():
        got = [values['id'] for values in data['lists'][name]]
        if set(got) != ids or len(got) != len(ids):
            wrong.append(f'{name} has {" ".join(got)} and not {" ".join(sorted(ids))}')
    offered = {source['id'] for source in data['sources']}
    wrong += [f'{packager.name} is not offered' for packager in PACKAGERS
              if packager.folder not in offered]
    return wrong


def expected_files(row: Row) -> Set[str]:
    """The files for a release: those of its ranges. Of 00xx it may lack only some."""
    there = {name for name in layout.patch_names(row.base) if not name.startswith('cover/')}
    taken = {path.name for word in row.am.split() for path in PATCHES.glob(word)}
    wanted = {name for name in there if name[:2] in row.ranges.split()}
    return {name for name in wanted if not name.startswith('00') or name in taken}


class Commands:
    """What is wrong with the commands for a choice."""

    def __init__(self, temp: Path) -> None:
        self.temp = temp
        self.record = read_record()
        #: all that were looked at
        self.seen: List[str] = []
        self.helps: Dict[str, str] = {}
        #: releases of one series share what is written for a packager
        self.written: Dict[Tuple[str, str], str] = {}

    def wrong(self, source: Values, values: Values) -> List[str]:
        """For a choice, one line each."""
        where = f'{source["name"]}, {values["name"]}: '
        try:
            lines = chooser.commands(source, values)
            for note in source['notes'] if 'why' not in values else ():
                chooser.fill(note, values)
        except Error as error:
            return [f'{where}{error}']
        self.seen += lines
        found = [] if lines or 'why' in values else ['no commands']
        row = next((row for row in self.record.values()
                    if row.release == values.get('release')), None)
        for line in lines:
            found += [f'{what}: {line}' for what in (
                *self._options(line), *self._files(line, row), *self._written(line, row))]
        if row and 'base' in values:
            base = bases.for_version(row.release)
            if not base or not base[0].name == values['base'] == row.base:
                found.append(f'scripts/apply takes another series than {values["base"]}')
        return [where + what for what in found]

    def _options(self, line: str) -> Iterator[str]:
        """Commands of this repository, and their options."""
        try:
            split = list(simple_commands(line))
        except ValueError:
            yield 'the shell cannot read it'
            return
        for words in split:
            if not words or not SCRIPT.fullmatch(words[0]):
                if any(SCRIPT.match(word) for word in words):
                    yield 'a command of this repository that is not run'
                continue
            if not (TOP / words[0]).is_file():
                yield f'there is no {words[0]}'
                continue
            for word in words[1:]:
                if word.startswith('--') and not re.search(
                        rf'(?<![\w-]){word}(?![\w-])', self._help(words[0])):
                    yield f'{words[0]} has no option {word}'

    def _help(self, name: str) -> str:
        if name not in self.helps:
            self.helps[name] = subprocess.run(
                [TOP / name, '--help'], check=True, capture_output=True, text=True).stdout
        return self.helps[name]

    def _files(self, line: str, row: Optional[Row]) -> Iterator[str]:
        """Patches that are named."""
        words = re.findall(r'patches/v\S+\.patch', line)
        if not words:
            return
        paths = [path for word in words for path in sorted(TOP.glob(word))]
        if row is None or {path.name for path in paths} != expected_files(row):
            yield 'not the patches of this release'
        elif [path.name for path in paths] != [
                mail.name.rpartition('/')[2] for mail in for_release(row.release)]:
            yield 'not the patches that scripts/dist takes, in this order'

    def _written(self, line: str, row: Optional[Row]) -> Iterator[str]:
        """What scripts/dist --for writes."""
        for name, release in re.findall(r'--for (\w+)@(\S+)', line):
            if not row or release != row.release:
                yield 'another release than the one that was chosen'
            if name not in [packager.folder for packager in PACKAGERS]:
                yield f'scripts/dist knows no {name}'
        for name, release, rest in re.findall(r'work/dist/([a-z]+)-([\d.]+)/([^\s"]*)', line):
            packager = next((one for one in PACKAGERS if one.folder == name), None)
            if not packager or not row or release != row.release:
                yield f'scripts/dist does not write {name}-{release}'
                continue
            like = self.written.setdefault((name, row.base), release)
            folder = self.temp / f'{name}-{like}'
            if not folder.exists():
                packager.write(folder, like, for_release(like))
            if not list(folder.glob(rest.replace(release, like))):
                yield f'scripts/dist --for {name}@{release} writes no {rest}'


def simple_commands(line: str) -> Iterator[List[str]]:
    """The words of each command in a line, without what is between them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: List[str] = []
    for word in lexer:
        if re.fullmatch(r'[;&|()]+', word):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def bad_syntax(lines: Sequence[str]) -> List[str]:
    """What the shell cannot read. Nothing is run."""
    done = subprocess.run(['bash', '-n'], input='\n'.join(lines), check=False,
                          capture_output=True, text=True)
    return done.stderr.splitlines()


def test_file(out: tap.Writer, page: Page) -> None:
    """Without a browser."""
    def point(title: str, wrong: Sequence[str]) -> None:
        out.point(not wrong, title, wrong[:10])

    data = page.data
    all_choices = list(choices(data))
    point(f'its {len(page.links)} links lead to what is there', bad_links(page))
    point('it loads nothing', page.loads)
    point('the table has every series', [
        base.name for base in bases.load() if f'patches/{base.name}/' not in page.whole])
    point('it has the picture', [] if 'data:image/svg+xml;base64,' in page.whole else ['none'])
    point('the versions are those of patches/releases and patches/bases', bad_versions(data))
    wrong: List[str] = []
    with tempfile.TemporaryDirectory(prefix='site.') as temp:
        tester = Commands(Path(temp))
        for source, values in all_choices:
            wrong += tester.wrong(source, values)
    point(f'the commands for {len(all_choices)} choices are there', wrong)
    point('and the shell can read them', bad_syntax(tester.seen))


# --- in a browser ------------------------------------------------------------------

#: Goes to each address, and returns what is shown then
SHOW = '''
const shown = {};
for (const address of arguments[0]) {
    location.hash = address;
    await new Promise(done => setTimeout(done));
    shown[address] = {
        commands: [...document.querySelectorAll('#answer ol pre code')].map(e => e.textContent),
        option: [...document.querySelectorAll('#answer .option pre code')].map(e => e.textContent),
        text: document.getElementById('answer').textContent,
        selects: [...document.querySelectorAll('#choose select')].map(e => e.value),
    };
}
return shown;
'''

#: Chooses by the two lists, as a person does
CHOOSE = '''
for (const [name, value] of [['from', arguments[0]], ['version', arguments[1]]]) {
    const list = document.getElementById(name);
    list.value = value;
    list.dispatchEvent(new Event('change', {bubbles: true}));
}
return [location.hash, document.querySelectorAll('#answer ol pre').length];
'''

OFFERED = '''
const offered = [];
for (const source of [...document.getElementById('from').options].slice(1)) {
    const from = document.getElementById('from');
    from.value = source.value;
    from.dispatchEvent(new Event('change'));
    for (const one of [...document.getElementById('version').options].slice(1)) {
        offered.push([source.value, one.value]);
    }
}
return offered;
'''

#: What is as wide as it likes, though the page is not to be moved sideways
WIDE = '''
document.querySelectorAll('details').forEach(fold => { fold.open = true; });
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('main *')].filter(
    e => e.getBoundingClientRect().right > width + 1 && !e.closest('.table, pre')
).slice(0, 5).map(e => `${e.tagName} ${e.textContent.slice(0, 60)}`);
'''

#: Contrast of the text, as WCAG 2 has it
CONTRAST = '''
const light = name => {
    const parts = getComputedStyle(document.body)[name].match(/[\\d.]+/g).slice(0, 3)
        .map(part => part / 255)
        .map(part => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
    return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
};
const [text, back] = [light('color'), light('backgroundColor')];
return [back, (Math.max(text, back) + .05) / (Math.min(text, back) + .05)];
'''

FOLLOW = '''
const link = document.querySelector(`main a[href="${arguments[0]}"]`);
link.click();
await new Promise(done => setTimeout(done, 100));
const box = document.querySelector(arguments[0]).getBoundingClientRect();
return box.height > 0 && box.top >= 0 && box.top < innerHeight;
'''


def address(source: Values, values: Values) -> str:
    """What the address of a choice ends in."""
    return f'#from={source["id"]}&version={values["id"]}'


def test_browser(out: tap.Writer, page: Page, path: Path, pictures: Optional[Path]) -> None:
    """In Chromium."""
    def point(title: str, wrong: Sequence[str]) -> None:
        out.point(not wrong, title, wrong[:10])

    data, url = page.data, path.resolve().as_uri()
    wanted = {address(source, values): (source, values) for source, values in choices(data)}
    with Browser() as browser:
        browser.resize(*DESKTOP)
        browser.open(url)
        offered = [tuple(pair) for pair in browser.run(OFFERED)]
        point('the lists offer what the data has', [
            f'{pair}' for pair in set(offered) ^ {
                (source['id'], values['id']) for source, values in wanted.values()}])
        shown = browser.run(SHOW, list(wanted))
        wrong: Dict[str, List[str]] = {'commands': [], 'option': [], 'text': [], 'selects': []}
        for name, (source, values) in wanted.items():
            got = shown[name]
            expected = {
                'commands': chooser.commands(source, values),
                'option': [chooser.OPTION['run']] if values.get('option') else [],
                'selects': [source['id'], values['id']],
            }
            for what, value in expected.items():
                if got[what] != value:
                    wrong[what].append(f'{name} shows {got[what]} and not {value}')
            if not got['text'] or re.search(r'undefined|null|NaN|\{\w+\}', got['text']):
                wrong['text'].append(f'{name} shows: {got["text"]}')
        point(f'the address chooses, for {len(wanted)} choices', wrong['selects'])
        point('and the commands are shown', wrong['commands'])
        point('with the option where there is one', wrong['option'])
        point('and all words are filled in', wrong['text'])
        wrong_lists = []
        for source in data['sources']:
            values = data['lists'][source['lists'][0]][0]
            got = browser.run(CHOOSE, source['id'], values['id'])
            if got != [address(source, values), len(chooser.commands(source, values))]:
                wrong_lists.append(f'{source["name"]}: {got}')
        point('the lists choose, and the address keeps it', wrong_lists)
        links = [f'#{one}' for one in ('releases', 'packaging', 'using-report')]
        point('a link opens the fold that it leads into', [
            link for link in links if not browser.run(FOLLOW, link)])
        for size in PHONE, DESKTOP:
            browser.resize(*size)
            for source in data['sources']:
                browser.run(CHOOSE, source['id'], data['lists'][source['lists'][0]][0]['id'])
                wide = browser.run(WIDE)
                if wide:
                    break
            point(f'it is not wider than {size[0]} pixels', wide)
        browser.dark(False)
        white, contrast = browser.run(CONTRAST)
        browser.dark(True)
        black, other = browser.run(CONTRAST)
        point('it is light or dark, as the reader has it', [] if
              white > 0.8 and black < 0.1 and min(contrast, other) >= 7 else
              [f'background {white} and {black}, contrast {contrast} and {other}'])
        point('nothing was asked for', browser.run(
            'return performance.getEntriesByType("resource").map(entry => entry.name)'))
        point('and nothing complained of', browser.log())
        if pictures:
            take_pictures(browser, url, pictures)


def take_pictures(browser: Browser, url: str, folder: Path) -> None:
    """What a person may want to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for size, label in (DESKTOP, 'desktop'), (PHONE, 'phone'):
        browser.resize(*size)
        for dark in False, True:
            browser.dark(dark)
            for name in 'top', 'from=tarball&version=10.0.2', 'versions', 'using':
                browser.open('about:blank')
                browser.open(f'{url}#{name}')
                word = re.sub(r'\W.*', '', name)
                browser.picture(folder / f'{label}-{"dark" if dark else "light"}-{word}.png')


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('sitetest', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    assert __doc__
    parser = Parser('xhcitest.sitetest', 'python3 scripts xhcitest.sitetest PAGE [--browser] '
                    '[--pictures DIR]', __doc__)
    parser.add_argument('page', metavar='PAGE', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--browser', action='store_true', help='in Chromium')
    parser.add_argument('--pictures', metavar='DIR', type=Path,
                        help='with --browser: also write there what it looks like')
    args = parser.parse(argv)
    out = tap.Writer()
    page = Page(args.page)
    if args.browser:
        test_browser(out, page, args.page, args.pictures)
    else:
        test_file(out, page)
    out.end()
    return 1 if out.failed else 0


if __name__ == '__main__':
    sys.exit(main())
