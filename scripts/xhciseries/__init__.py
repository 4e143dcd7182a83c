# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands in scripts/ share: bases, ranges, patches, trees, git."""
