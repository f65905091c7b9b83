"""`python -m exporter`: the command line without the installed script."""

import sys

from exporter.cli import main

sys.exit(main())
