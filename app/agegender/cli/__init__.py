"""Entry point of `agegender`: one sentence where what the command line itself is made of is broken."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from agegender.cli import commands
    except ImportError as error:
        sys.exit(f"agegender: {error}: install this package anew, with all that it needs.")
    commands.main()
