"""``python -m tests.rehearsal --frames 200`` from the repository's root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rehearsal.cli import main

if __name__ == "__main__":
    sys.exit(main())
