"""``python -m bsam`` is ``bsam``."""

import sys

from bsam.cli import main

sys.exit(main())
