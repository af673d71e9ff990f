"""FireWorks' web pages on the configured database: ``python -m aqvolt_launch.webgui [--host H] [--port P]``.

The same pages as ``lpad webgui``; but the database's address comes from the settings, so that no file
with a password is needed. The pages only look; ``--login`` asks for the database's user and password. Other users of
the machine can open a port of the loopback interface, so use it wherever there are any.
"""

from __future__ import annotations

import argparse
import sys

from pymongo.uri_parser import parse_uri

from aqvolt_flows.errors import AqvoltError, ConfigError
from aqvolt_flows.settings import load_settings
from aqvolt_launch.launchpad import ensure_launchpad


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m aqvolt_launch.webgui", description="FireWorks' web pages.")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind")
    parser.add_argument("--port", type=int, default=5000, help="TCP port")
    parser.add_argument("--login", action="store_true", help="ask for the database's user and password")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        launchpad = ensure_launchpad(settings)
        login = parse_uri(settings.database_uri()) if options.login else {}
        if options.login and not login.get("password"):
            raise ConfigError("--login was given, and the database has no user and password; leave it away.")
    except AqvoltError as error:
        sys.stderr.write(f"aqvolt: {error}\n")
        return 2
    from fireworks.flask_site.app import app

    app.lp = launchpad
    app.config["WEBGUI_USERNAME"], app.config["WEBGUI_PASSWORD"] = login.get("username"), login.get("password")
    app.run(host=options.host, port=options.port, debug=False, use_reloader=False, threaded=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
