"""The entry point of `agegender`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Report a package that cannot be imported in one sentence."""
    # Escape what cannot be printed: file names may contain any bytes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        from agegender.cli.commands import app

        app()
    except ImportError as error:
        sys.exit(f"agegender: {error}: run `agegender doctor`, or reinstall this package.")
