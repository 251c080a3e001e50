"""The command line: ``python -m wsss_kit COMMAND``."""

from __future__ import annotations

import sys

try:
    from wsss_kit.commands.line import main
except KeyboardInterrupt:  # the imports take seconds, and nothing was done yet
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
