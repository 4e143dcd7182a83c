# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux as a guest: one boot is in boot.py, what it looks at in files by subject."""
