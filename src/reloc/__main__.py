"""`python -m reloc` is `reloc`."""

import sys

from reloc.cli import main

sys.exit(main())
