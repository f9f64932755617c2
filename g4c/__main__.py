"""`python -m g4c` is the command `g4c`."""

from __future__ import annotations

import sys

from g4c.cli.main import main

sys.exit(main())
