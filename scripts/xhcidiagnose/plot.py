# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/diagnose --log FILE --plot FILE.svg: the log as a timeline."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import List

from xhciseries.ui import die, say

from .trace import POLLED, QUIET, TOLD, UNTOLD, Trace

#: State: title, colour, point type and size
STYLES = {
    TOLD: ('signalled', '#1a7a1a', 7, .5),
    UNTOLD: ('not signalled', '#d62728', 7, .6),
    POLLED: ('polled, with interrupts off', '#888888', 6, .5),
    QUIET: ('no interrupt wanted (BEI)', '#7fb3e0', 6, .5),
}

SCRIPT = '''
set terminal svg size 860,{height} dynamic font "sans-serif,14" background "white"
set xlabel "{unit}" offset 0,0.5
set yrange [-1.8:{top}]
set ytics ({tics})
set grid ytics linecolor rgb "#dddddd" linetype 1 linewidth 1
set border 3
set tics nomirror
set rmargin 4
set bmargin 6
set key outside below center horizontal reverse Left samplen 1
'''


def check(path: str) -> None:
    """Before a long log is read: can it be drawn?"""
    if not path.endswith('.svg'):
        die('--plot takes a name that ends with .svg')
    if not Path(path).absolute().parent.is_dir():
        die(f'no folder {Path(path).absolute().parent}')
    if not shutil.which('gnuplot'):
        die('gnuplot is not installed: install the package gnuplot-nox (Debian, Ubuntu)')


def draw(path: str, trace: Trace) -> None:
    """Events of each ring over time, the interrupts below, and changes of mode."""
    if not trace.events:
        die(f'nothing to draw: {trace.name} has no event')
    rings = trace.rings()
    data: List[str] = []
    plots: List[str] = []

    def points(name: str, rows: List[str], style: str) -> None:
        if rows:
            data.extend([f'${name} << END', *rows, 'END'])
            plots.append(f'${name} {style}')

    for state, (title, colour, kind, size) in STYLES.items():
        some = [e for e in trace.events if e.state == state]
        points(f'w{state}', [f'{e.op.where:.6f} {rings.index(e.ring)} {e.wait:.6f} 0'
                             for e in some if e.wait and trace.timed],
               f'using 1:2:3:4 with vectors nohead linewidth 2 linecolor rgb "{colour}" notitle')
        points(state, [f'{e.op.where:.6f} {rings.index(e.ring)}' for e in some],
               f'with points pointtype {kind} pointsize {size} linecolor rgb "{colour}" '
               f'title "{title}"')
    points('sent', [f'{op.where:.6f} -1' for op, _, _ in trace.interrupts],
           'with points pointtype 2 pointsize 0.5 linecolor rgb "#000000" notitle')
    tics = [f'"ring {ring}" {row}' for row, ring in enumerate(rings)]
    script = [SCRIPT.format(
        height=260 + 40 * len(rings), top=len(rings),
        unit='seconds; a line is the time until the guest served the event'
        if trace.timed else 'line of the log', tics=', '.join(['"interrupts" -1', *tics]))]
    for number, mode in enumerate(trace.modes):
        where = f'{mode.op.where:.6f}'
        script += [f'set arrow from {where}, graph 0 to {where}, graph 1 nohead dashtype 2 '
                   'linecolor rgb "#555555"',
                   f'set label " {mode.mode or "unknown"}" at {where}, '
                   f'graph {.96 - .07 * (number % 2):.2f}']
    text = '\n'.join([*data, *script, 'plot ' + ', '.join(plots), ''])
    done = subprocess.run(['gnuplot'], input=text.encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)
    if done.returncode:
        said = done.stderr.decode('utf-8', 'replace').split('\n')
        die(f"gnuplot: {' '.join(line.strip() for line in said if line.strip())}")
    temp = f'{path}.new'
    try:
        with open(temp, 'wb') as file:
            file.write(done.stdout)
        os.replace(temp, path)
    finally:
        if os.path.exists(temp):
            os.unlink(temp)
    say(f'diagnose: picture: {path}')
