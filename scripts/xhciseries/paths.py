# SPDX-License-Identifier: GPL-2.0-or-later
"""Where things are: this repository, and the work folder."""

import os
from pathlib import Path

#: The repository that these scripts belong to.
TOP = Path(__file__).resolve().parents[2]
#: The patches, one folder for each base, and what is said of them.
PATCHES = TOP / 'patches'
#: The test files that the series add, written by scripts/export.
QTEST = TOP / 'tests' / 'qtest'
#: Trees, builds, logs and scratch files. Nothing of it is in git.
WORK = Path(os.path.abspath(os.environ.get('XHCI_WORK') or TOP / 'work'))
