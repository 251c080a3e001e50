"""The command line: ``python -m wsss_kit COMMAND``."""

from __future__ import annotations

import sys

from wsss_kit.commands.line import main

if __name__ == "__main__":
    sys.exit(main())
