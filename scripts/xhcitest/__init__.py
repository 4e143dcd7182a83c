# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs the tests: TAP, processes, QEMU, the guests and the checks."""
