"""The entry point of `agegender`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; a package that cannot be imported is one sentence."""
    # The name of a file may hold bytes that cannot be printed: they are escaped.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from agegender.cli.commands import app

        app()
    except ImportError as error:
        sys.exit(f"agegender: {error}: run `agegender doctor`, or reinstall this package.")
