# SPDX-License-Identifier: GPL-2.0-or-later
"""Where scripts/diagnose may write.

Somebody else's checkout may not be writable, and is no reason to refuse: only
the small guest and scratch files are written.
"""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


def choose() -> None:
    """Set XHCI_WORK, unless it is set or work/ can be written.

    xhciseries reads it when it is imported: call this before.
    """
    work = TOP / 'work'
    # What another user has run may have left its own folders there
    folders = [path for path in (work, work / 'diagnose', work / 'tmp') if path.exists()]
    if os.environ.get('XHCI_WORK') or all(
            os.access(path, os.W_OK) for path in folders or [TOP]):
        return
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    os.environ['XHCI_WORK'] = os.path.join(cache, 'xhci-diagnose')
