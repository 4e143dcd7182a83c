# SPDX-License-Identifier: GPL-2.0-or-later
"""The flowcharts of the documents, drawn by Graphviz.

Forges draw these blocks themselves, in the language of Mermaid. What the
documents use of that is read here; anything else is an error, so that no
picture lacks a part.
"""

import html
import re
import subprocess
from typing import List, Optional

from .ui import die

_NODE = r'(\w+)(?:\["([^"]*)"\])?'
_ARROW = r'(-->|-\.->|-- "?[^"]+?"? -->)'
_LINE = re.compile(rf'{_NODE}(?: {_ARROW} {_NODE})?')


def to_dot(text: str) -> str:
    """A flowchart in the language of Graphviz."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head = re.fullmatch(r'flowchart (LR|TD)', lines[0]) if lines else None
    if not head:
        die(f'a picture does not begin with "flowchart LR" or "flowchart TD": {lines[:1]}')
    out = ['digraph {', f'rankdir={"LR" if head[1] == "LR" else "TB"}; bgcolor=white;',
           'node [shape=box style="rounded,filled" fillcolor="#f4f6f8" fontname="sans-serif" '
           'fontsize=12];', 'edge [fontname="sans-serif" fontsize=11];']
    for line in lines[1:]:
        found = _LINE.fullmatch(line)
        if not found:
            die(f'a picture has a line that cannot be drawn: {line}')
        one, label, arrow, other, other_label = found.groups()
        out += _labelled(one, label) + _labelled(other, other_label)
        if arrow:
            said = re.fullmatch(r'-- "?([^"]+?)"? -->', arrow)
            style = 'style=dashed' if arrow == '-.->' else ''
            out.append(f'{one} -> {other} [{style} label={_quoted(said[1] if said else "")}];')
    return '\n'.join([*out, '}'])


def _labelled(node: str, label: Optional[str]) -> List[str]:
    return [f'{node} [label={_quoted(label)}];'] if node and label else []


def _quoted(label: str) -> str:
    text = html.unescape(label.replace('<br>', '\n'))
    return '"' + text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n') + '"'


def to_svg(text: str) -> bytes:
    """A flowchart as a picture."""
    try:
        done = subprocess.run(['dot', '-Tsvg'], input=to_dot(text).encode(), check=False,
                              capture_output=True)
    except FileNotFoundError:
        die('dot is not installed: run scripts/setup')
    if done.returncode:
        die(f'dot cannot draw a picture: {done.stderr.decode().strip()}')
    return done.stdout
