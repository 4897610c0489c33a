"""The entry point of `agegender`, which prints one sentence where a package that it needs is broken."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from agegender.cli import commands
    except ImportError as error:
        sys.exit(f"agegender: {error}: reinstall this package and its dependencies.")
    commands.main()
