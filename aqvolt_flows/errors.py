"""Errors that teach.

Every error a user can cause is an :class:`AqvoltError` whose message is one sentence that names
what was seen, what was expected, and what to do. The command line prints that sentence and exits
with code 2; anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class AqvoltError(Exception):
    """Base of all errors whose message is written for the person who runs the command."""


class ConfigError(AqvoltError):
    """``aqvolt.yaml``, an ``AQVOLT_…`` variable or a campaign file is wrong."""


class InputError(AqvoltError):
    """A structure, frame, label or argument is wrong."""


class DatabaseError(AqvoltError):
    """The database cannot be reached, or refuses what was asked."""


class ResourceError(AqvoltError):
    """Something the work needs is not there: weights, POTCARs, an executable, an extra, a folder."""


#: What code raises that reads a document which is not as it should be (:mod:`aqvolt_flows.quarantine`).
SYMPTOMS = (KeyError, TypeError, ValueError, AttributeError, IndexError)
