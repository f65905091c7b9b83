"""Entry point of the command line: `exporter` and `python -m exporter`."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` listens: no traceback of imports

from exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
