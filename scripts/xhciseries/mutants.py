# SPDX-License-Identifier: GPL-2.0-or-later
"""Mutants of C source: one small change each, that a test should notice.

The source is taken apart just far enough for that: tokens, functions and
statements. What is not understood is left alone, and a change that does not
compile is for the caller to drop.
"""

import re
from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

_TOKEN = re.compile(r'''
    (?P<space>\s+ | /\*.*?\*/ | //[^\n]* | ^[ \t]*\#(?:\\\n|[^\n])*)
  | (?P<string>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*')
  | (?P<name>[A-Za-z_]\w*)
  | (?P<number>\d\w*)
  | (?P<mark>-> | \+\+ | -- | <<= | >>= | \.\.\. | << | >> | [<>=!+*/%&|^-]= | && | \|\| | .)
''', re.VERBOSE | re.DOTALL | re.MULTILINE)

#: What an operator or a word is turned into, and how that is called.
_SWAPS = {
    '&&': '||', '||': '&&', '==': '!=', '!=': '==', '<': '<=', '<=': '<',
    '>': '>=', '>=': '>', 'true': 'false', 'false': 'true',
}

_OPENING = {'(': ')', '[': ']', '{': '}'}

#: Words with which a declaration may begin; others have two names in a row.
_TYPES = {'const', 'static', 'struct', 'enum', 'union', 'unsigned', 'signed', 'int',
          'long', 'short', 'char', 'void', 'bool', 'volatile'}


class Token(NamedTuple):
    """A token that means something; `line` counts from 1."""

    kind: str
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True)
class Function:
    """A function of a file; places are offsets in its text."""

    start: int
    name_start: int
    name_end: int
    body: int
    end: int
    parameters: Tuple[str, ...]
    returns: Tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """A change of one place of a file.

    `name` stays the same when lines before it come and go: the file, the
    function, the operator, and the line with `@` before what is changed.
    `function` is None outside of functions.
    """

    name: str
    file: str
    line: int
    start: int
    end: int
    text: str
    function: Optional[Function]

    def apply(self, source: str) -> str:
        """The file with the change; all lines keep their numbers."""
        gone = source[self.start:self.end].count('\n') - self.text.count('\n')
        return source[:self.start] + self.text + '\n' * gone + source[self.end:]


def tokens(source: str) -> List[Token]:
    """The tokens of a file, without comments and preprocessor lines."""
    found = []
    line = 1
    for match in _TOKEN.finditer(source):
        kind, text = match.lastgroup or '', match[0]
        if kind != 'space':
            found.append(Token(kind, text, match.start(), match.end(), line))
        line += text.count('\n')
    return found


class _File:
    """The walk over a file: it collects mutants where lines were added."""

    def __init__(self, path: str, source: str, added: Set[int]) -> None:
        self.path = path
        self.source = source
        self.lines = source.split('\n')
        self.added = added
        self.tokens = tokens(source)
        self.match = self._pairs()
        self.function: Optional[Function] = None
        self.found: List[Tuple[int, Mutant]] = []

    def _pairs(self) -> Dict[int, int]:
        """The closing bracket of each opening one."""
        pairs: Dict[int, int] = {}
        stack: List[int] = []
        for i, token in enumerate(self.tokens):
            if token.kind != 'mark':
                continue
            if token.text in _OPENING:
                stack.append(i)
            elif token.text in _OPENING.values() and stack:
                pairs[stack.pop()] = i
        return pairs

    # --- places -----------------------------------------------------------

    def text(self, i: int) -> str:
        return self.tokens[i].text if i < len(self.tokens) else ''

    def touched(self, first: int, last: int) -> bool:
        """Was a line of the tokens first..last added?"""
        return any(self.tokens[i].line in self.added for i in range(first, last + 1))

    def code(self, first: int, last: int) -> str:
        return self.source[self.tokens[first].start:self.tokens[last].end]

    def add(self, operator: str, first: int, last: int, text: str) -> None:
        token = self.tokens[first]
        line = self.lines[token.line - 1]
        column = token.start - (self.source.rfind('\n', 0, token.start) + 1)
        shown = f'{line[:column].lstrip()}@{line[column:].rstrip()}'
        where = (self.source[self.function.name_start:self.function.name_end]
                 if self.function else '-')
        self.found.append((first, Mutant(
            f'{self.path} {where}: {operator}: {shown}', self.path, token.line,
            token.start, self.tokens[last].end, text, self.function)))

    def mutants(self) -> List[Mutant]:
        self.outside()
        result: List[Mutant] = []
        seen: Dict[str, int] = {}
        for _, mutant in sorted(self.found, key=lambda found: (found[0], found[1].name)):
            if mutant in result:
                continue
            seen[mutant.name] = seen.get(mutant.name, 0) + 1
            if seen[mutant.name] > 1:
                mutant = replace(mutant, name=f'{mutant.name} ({seen[mutant.name]})')
            result.append(mutant)
        return result

    # --- outside of functions ----------------------------------------------

    def outside(self) -> None:
        i = 0
        while i < len(self.tokens):
            text = self.text(i)
            if text == '(' and self.text(self.match.get(i, i) + 1) == '{':
                body = self.match[i] + 1
                self.function = self.signature(i)
                self.block(body)
                self.function = None
                i = self.match[body]
            elif text == '=' and self.text(i + 1) == '{':
                self.elements(i + 1)
                i = self.match[i + 1]
            elif text == '{' and i in self.match:
                # a type
                i = self.match[i]
            i += 1

    def signature(self, opening: int) -> Function:
        """The function whose parameters are in that bracket."""
        first = opening - 1
        while first > 0 and (self.tokens[first - 1].kind == 'name'
                             or self.text(first - 1) == '*'):
            first -= 1
        closing = self.match[opening]
        parameters = []
        for i in range(opening + 1, closing + 1):
            if self.text(i) in (',', ')') and self.tokens[i - 1].kind == 'name':
                parameters.append(self.text(i - 1))
        return Function(
            self.tokens[first].start, self.tokens[opening - 1].start,
            self.tokens[opening - 1].end, self.tokens[closing + 1].start,
            self.tokens[self.match[closing + 1]].end,
            () if parameters == ['void'] else tuple(parameters),
            tuple(token.text for token in self.tokens[first:opening - 1]))

    def elements(self, opening: int) -> None:
        """The elements of an initializer: dropped, and what they are made of."""
        first = i = opening + 1
        while i <= self.match[opening]:
            if self.text(i) == ',' or i == self.match[opening]:
                last = i if self.text(i) == ',' else i - 1
                if first < i and self.touched(first, i - 1):
                    self.add('drop', first, last, '')
                    self.inside(first, i - 1)
                first = i + 1
            i = self.match.get(i, i) + 1 if i in self.match else i + 1

    # --- statements ----------------------------------------------------------

    def block(self, opening: int) -> None:
        i = opening + 1
        while i < self.match[opening]:
            i = self.statement(i)

    def statement(self, i: int) -> int:
        """Look at the statement that begins at i; return where the next does."""
        text = self.text(i)
        if text == '{':
            self.block(i)
            return self.match[i] + 1
        if text == ';':
            return i + 1
        if text in ('if', 'while', 'switch') and self.text(i + 1) == '(':
            closing = self.match[i + 1]
            self.inside(i + 2, closing - 1)
            if text != 'switch' and self.touched(i, closing):
                self.negate(i + 2, closing - 1)
            after = self.statement(closing + 1)
            if text == 'if' and self.text(after) == 'else':
                after = self.statement(after + 1)
            return after
        if text == 'for' and self.text(i + 1) == '(':
            self.for_loop(i + 1)
            return self.statement(self.match[i + 1] + 1)
        if text == 'do':
            after = self.statement(i + 1)
            if self.text(after) == 'while' and after + 1 in self.match:
                closing = self.match[after + 1]
                self.inside(after + 2, closing - 1)
                if self.touched(after, closing):
                    self.negate(after + 2, closing - 1)
                return closing + 2
            return after
        if text in ('case', 'default') or (
                self.tokens[i].kind == 'name' and self.text(i + 1) == ':'):
            return self.label(i)
        if (self.tokens[i].kind == 'name' and self.text(i + 1) == '('
                and self.text(self.match[i + 1] + 1) == '{'):
            # a macro that is a loop
            return self.statement(self.match[i + 1] + 1)
        last = self.find(i, ';')
        if self.is_declaration(i, last):
            self.declaration(i, last)
        else:
            self.simple(i, last)
        return last + 1

    def find(self, i: int, what: str) -> int:
        """The next token that is this one, in no bracket."""
        while i < len(self.tokens) and self.text(i) != what:
            i = self.match.get(i, i) + 1
        return min(i, len(self.tokens) - 1)

    def label(self, i: int) -> int:
        colon = self.find(i, ':')
        if self.text(i) == 'case' and self.touched(i, colon):
            self.add('drop', i, colon, '')
        return colon + 1

    def is_declaration(self, i: int, last: int) -> bool:
        if self.text(i) in _TYPES:
            return True
        if self.tokens[i].kind != 'name':
            return False
        j = i + 1
        while self.text(j) == '*':
            j += 1
        return (j <= last and self.tokens[j].kind == 'name' and self.text(i) not in
                ('return', 'goto') and self.text(j + 1) in ('=', ';', ',', '['))

    def declaration(self, first: int, last: int) -> None:
        """What variables start with, such as a call, which is then not made.
        Without pointers: an empty one would only crash."""
        self.inside(first, last)
        i = first
        while i < last:
            if self.text(i) == '=':
                end = min(self.find(i, ','), last) - 1
                value = self.code(i + 1, end)
                pointer = '*' in [self.text(j) for j in range(first, i)]
                if (self.touched(i - 1, end) and not pointer and self.text(i + 1) != '{'
                        and not re.fullmatch(r'\w+', value)):
                    if ('bool' in [self.text(j) for j in range(first, i)]
                            and self.match.get(i + 2) != end):
                        self.add('negate', i + 1, end, f'!({value})')
                    else:
                        self.add('zero', i + 1, end, '0')
                i = end + 1
            else:
                i = self.match.get(i, i) + 1

    def simple(self, first: int, last: int) -> None:
        """An expression, a jump or a return."""
        if (self.text(first) == 'return' and last == first + 2
                and self.tokens[first + 1].kind == 'number'):
            # Of errors, QEMU wants to know whether they are negative.
            if self.touched(first, last):
                self.add('return', first + 1, last - 1,
                         '-1' if self.text(first + 1) == '0' else '0')
            return
        self.inside(first, last)
        if not self.touched(first, last):
            return
        if self.text(first) != 'return':
            self.add('drop', first, last, ';')
        elif last == first + 1:
            self.add('drop', first, last, ';')
        elif self.function and '*' in self.function.returns:
            if self.text(first + 1) != 'NULL':
                self.add('return', first + 1, last - 1, 'NULL')
        elif self.code(first + 1, last - 1) not in ('true', 'false'):
            self.add('return', first + 1, last - 1,
                     f'!({self.code(first + 1, last - 1)})')

    def for_loop(self, opening: int) -> None:
        closing = self.match[opening]
        self.inside(opening + 1, closing - 1)
        begin = self.find(opening + 1, ';')
        end = self.find(begin + 1, ';')
        if begin + 1 < end < closing and self.touched(opening, closing):
            self.negate(begin + 1, end - 1)

    def negate(self, first: int, last: int) -> None:
        # `!(a == b)` is what the operator's own mutant is, too.
        inner = [self.text(i) for i in range(first, last + 1)]
        if '&&' not in inner and '||' not in inner and ({'==', '!='} & set(inner)
                                                        or inner[0] == '!'):
            return
        self.add('negate', first, last, f'!({self.code(first, last)})')

    # --- expressions ------------------------------------------------------

    def inside(self, first: int, last: int) -> None:
        """The operators, words and constants of the tokens first..last."""
        for i in range(first, last + 1):
            token = self.tokens[i]
            if token.line not in self.added:
                continue
            if token.text in _SWAPS:
                to = _SWAPS[token.text]
                self.add(f'{token.text} to {to}', i, i, to)
            elif token.kind == 'number':
                self.add('one more', i, i, f'({token.text} + 1)')
            elif token.text == '!':
                self.add('drop !', i, i, '')
            elif token.text == '?':
                begin = i - 1
                while begin > first and self.text(begin) not in ('(', ',', '=', 'return'):
                    begin -= 1
                if self.text(begin) in ('(', ',', '=', 'return'):
                    begin += 1
                self.add('negate', begin, i - 1, f'!({self.code(begin, i - 1)})')


def of_file(path: str, source: str, added: Set[int]) -> List[Mutant]:
    """The mutants of a file.

    Args:
        path: how the file is called in their names
        source: its text
        added: the lines to break, from 1 on
    """
    return _File(path, source, added).mutants()


#: Which mutant runs: the number in this variable of the environment.
VARIABLE = 'XHCI_MUTANT'

_CHOICE = f'''static int mutant_number(void)
{{
    static int number = -1;

    if (number < 0) {{
        const char *text = getenv("{VARIABLE}");
        number = text ? atoi(text) : 0;
    }}
    return number;
}}

'''


def switchable(source: str, numbered: Dict[int, Mutant]) -> Tuple[str, Dict[int, int]]:
    """A file with mutants of functions in it, one of which is chosen when it
    runs: a copy of the function for each, and the function picks one.

    Returns:
        the text, and the number of the mutant by the lines of its copy
    """
    parts: List[str] = []
    owners: Dict[int, int] = {}
    line, done = 1, 0

    def put(text: str, number: int = 0) -> None:
        nonlocal line
        count = text.count('\n')
        if number:
            owners.update((at, number) for at in range(line, line + count))
        parts.append(text)
        line += count

    groups: Dict[Function, List[Tuple[int, Mutant]]] = {}
    for number, mutant in numbered.items():
        if mutant.function:
            groups.setdefault(mutant.function, []).append((number, mutant))
    for function, group in sorted(groups.items(), key=lambda item: item[0].start):
        put(source[done:function.start])
        if not done:
            put(_CHOICE)
        done = function.end
        head = source[function.start:function.name_start]
        name = source[function.name_start:function.name_end]
        arguments = source[function.name_end:function.body]
        put(f'{head}{name}{arguments.rstrip()};\n')
        for number, mutant in group:
            before = source[function.body:mutant.start]
            after = source[mutant.end:function.end]
            put(f'{head}{name}_{number}{arguments}{before}{mutant.text}{after}\n', number)
        put(f'{head}{name}_0{arguments}{source[function.body:function.end]}\n')
        back = '' if function.returns[-1:] == ('void',) else 'return '
        call = f'({", ".join(function.parameters)});'
        put(f'{head}{name}{arguments}{{\n    switch (mutant_number()) {{\n')
        for number, _ in group:
            put(f'    case {number}:\n        {back}{name}_{number}{call}\n        break;\n')
        put(f'    default:\n        {back}{name}_0{call}\n        break;\n    }}\n}}\n')
    put(source[done:])
    return ''.join(parts), owners


# --- survivors ---------------------------------------------------------------

#: What a reason may begin with. What is equivalent, no test can notice.
KINDS = ('equivalent', 'text', 'gap')


@dataclass(frozen=True)
class Reason:
    """Why a mutant survives."""

    kind: str
    text: str


def read_reasons(lines: Sequence[str]) -> Iterator[Tuple[int, str, str, Optional[Reason]]]:
    """The entries of tests/faults/survivors: number of the line, range, name
    and reason; None for a reason that is missing or of no known kind."""
    number, code, name = 0, '', ''
    for count, line in enumerate([*lines, ''], 1):
        if line.startswith((' ', '\t')) and name:
            kind, _, text = line.strip().partition(': ')
            yield number, code, name, Reason(kind, text) if kind in KINDS and text else None
            name = ''
            continue
        if name:
            yield number, code, name, None
            name = ''
        if line.strip() and not line.startswith('#'):
            number = count
            code, _, name = line.rstrip().partition(' ')
