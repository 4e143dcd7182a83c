# SPDX-License-Identifier: GPL-2.0-or-later
"""State streams that are cut or changed, and what QEMU makes of them."""
