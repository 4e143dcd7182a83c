# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a module of the packages in this folder: python3 scripts MODULE ARG..."""

import runpy
import sys

del sys.argv[0]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
