"""`python -m exporter`: the command line without the installed script."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` listens: no traceback of imports

from exporter.cli import main

sys.exit(main())
