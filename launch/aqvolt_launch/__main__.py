"""``python -m aqvolt_launch`` is ``aqvolt``, with the Python that runs it."""

from aqvolt_launch.cli import main

if __name__ == "__main__":
    main()
