"""FireWorks' web pages on the configured database: ``python -m aqvolt_launch.webgui [--host H] [--port P]``.

The same pages as ``lpad webgui``; but the database's address comes from the settings, so that no file
with a password is needed. The pages have no login: bind them to the loopback interface.
"""

from __future__ import annotations

import argparse
import sys

from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.settings import load_settings
from aqvolt_launch.launchpad import ensure_launchpad


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m aqvolt_launch.webgui", description="FireWorks' web pages.")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind; there is no login")
    parser.add_argument("--port", type=int, default=5000, help="TCP port")
    options = parser.parse_args(arguments)
    try:
        launchpad = ensure_launchpad(load_settings())
    except AqvoltError as error:
        sys.stderr.write(f"aqvolt: {error}\n")
        return 2
    from fireworks.flask_site.app import app

    app.lp = launchpad
    app.run(host=options.host, port=options.port, debug=False, use_reloader=False, threaded=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
