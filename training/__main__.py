"""`python -m training`."""

import signal
import sys

from training.cli import main

# Exit in the usual way, so that folders of unpacked archives are removed.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
main()
