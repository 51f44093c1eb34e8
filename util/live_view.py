"""Results in a visdom window, for those who ask for one. A missing package or server is one warning."""

import socket
import sys
from typing import Any
from urllib.parse import urlsplit

import numpy as np

INSTALL = "make visdom"
TIMEOUT_SECONDS = 3.0


class LiveView:
    """A visdom environment, or nothing at all where none can be reached."""

    def __init__(self, server: str, port: int, name: str) -> None:
        """Connect once.

        Args:
            server: address with its scheme, e.g. http://localhost.
            port: of the server.
            name: of the environment.
        """
        self._visdom: Any = None
        problem = _unreachable(server, port)
        if problem is None:
            try:
                from visdom import Visdom

                self._visdom = Visdom(server=server, port=port, env=name, raise_exceptions=True)
            except Exception as error:  # the package may be missing, or broken by another one
                problem = f"the visdom package does not work ({error}); install it with: {INSTALL}"
        if problem:
            self._give_up(problem)

    def show_values(self, window: str, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve of a window."""
        if self._visdom is None:
            return
        steps, points = np.full((1, len(values)), step), np.array([list(values.values())])
        look = {"title": window, "legend": list(values), "xlabel": "step"}
        self._try(lambda: self._visdom.line(X=steps, Y=points, win=window, update="append", opts=look))

    def show_picture(self, window: str, picture: np.ndarray) -> None:
        """Show a picture (R, C, 3) uint8 in a window."""
        if self._visdom is None:
            return
        self._try(lambda: self._visdom.image(picture.transpose(2, 0, 1), win=window, opts={"title": window}))

    def _try(self, call: Any) -> None:
        """Send something; a server that went away is told once, and training goes on without it."""
        try:
            call()
        except Exception as error:  # requests, websocket and visdom each raise their own
            self._give_up(f"the visdom server no longer answers ({type(error).__name__})")

    def _give_up(self, problem: str) -> None:
        """Warn, and be silent from then on."""
        self._visdom = None
        print(f"warning: --display visdom: {problem}; training goes on, its results are in web/index.html",
              file=sys.stderr)


def _unreachable(server: str, port: int) -> str | None:
    """Return why nothing answers at an address, or None if something does."""
    host = urlsplit(server).hostname or server
    try:
        socket.create_connection((host, port), TIMEOUT_SECONDS).close()
    except OSError as error:
        return (f"expected a server at {server}:{port}, found none ({error.strerror or error}); "
                f"start one with: python -m visdom.server -port {port}")
    return None
