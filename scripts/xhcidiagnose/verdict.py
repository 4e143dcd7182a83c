# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said in the end, and the exit status that stands for it."""

import textwrap
from dataclasses import dataclass, field
from typing import List, Tuple

#: Exit statuses, which docs/diagnosis.md documents
FINE, AFFECTED, UNKNOWN = 0, 1, 2

WORDS = {FINE: 'fine', AFFECTED: 'AFFECTED', UNKNOWN: 'could not tell'}

#: Columns of the labels, and of a whole line
LABEL, WIDTH = 13, 88


@dataclass
class Report:
    """Labelled facts, a verdict with its reason, and what to do."""

    facts: List[Tuple[str, str]] = field(default_factory=list)
    status: int = UNKNOWN
    reason: str = ''
    advice: List[str] = field(default_factory=list)

    def fact(self, label: str, text: str) -> None:
        """Add a line; the same label again continues it."""
        self.facts.append((label, text))

    def conclude(self, status: int, reason: str, *advice: str) -> None:
        """Set the verdict."""
        self.status, self.reason, self.advice = status, reason, list(advice)

    def text(self) -> str:
        """All of it, for stdout."""
        rows = [*self.facts, ('verdict', f'{WORDS[self.status]}: {self.reason}')]
        rows += [('what to do' if i == 0 else '', words) for i, words in enumerate(self.advice)]
        lines: List[str] = []
        last = ''
        for label, words in rows:
            if label == 'verdict':
                lines.append('')
            shown = '' if label == last else label
            last = label or last
            lines += textwrap.wrap(words, WIDTH, initial_indent=f'{shown:{LABEL}}',
                                   subsequent_indent=' ' * LABEL,
                                   break_long_words=False, break_on_hyphens=False)
        return '\n'.join(lines) + '\n'
