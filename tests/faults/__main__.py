"""``python -m faults [SEEDS] [--first N]`` runs the long mode and prints the table of docs/reliability.md."""

from __future__ import annotations

from faults.long_mode import main

if __name__ == "__main__":
    main()
