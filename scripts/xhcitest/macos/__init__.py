# SPDX-License-Identifier: GPL-2.0-or-later
"""The macOS-like guest, from the host's side; the guest is in tests/guest/macos."""
