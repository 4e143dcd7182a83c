# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/diagnose: is this QEMU, log or running VM affected?"""
