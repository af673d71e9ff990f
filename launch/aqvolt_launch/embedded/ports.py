"""TCP ports on the loopback interface."""

from __future__ import annotations

import contextlib
import socket

import psutil

from aqvolt_flows.errors import DatabaseError

HOST = "127.0.0.1"


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_taken(port: int) -> DatabaseError:
    """Return the error that names the port, its owner if that can be seen, and what to do."""
    owner = ""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                owner = f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
                break
    return DatabaseError(
        f"Port {port} on {HOST} is in use{owner}; give another with --port, leave --port away for a free one, or end "
        f"its owner (find it with 'ss -ltnp sport = :{port}')."
    )
