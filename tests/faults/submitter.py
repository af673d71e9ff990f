"""``python -m faults.submitter PER_STAGE``: submit stage after stage, as ``aqvolt demo`` or a person would."""

from __future__ import annotations

import sys
import time

from pymongo.errors import PyMongoError

from aqvolt_flows.errors import DatabaseError, ResourceError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.submission.submit import submit
from faults.jobs import NAMES, items

LOOK_S = 0.5


def finished(stage: str, settings: AqvoltSettings, number: int) -> bool:
    """Return whether all workflows of a stage are COMPLETED."""
    query = {"metadata.aqvolt.stage": stage, "state": "COMPLETED"}
    return int(get_launchpad(settings).workflows.count_documents(query)) == number


def main(per_stage: int) -> None:
    """Go through the stages; whatever the database does, the same command is given again."""
    settings = load_settings()
    for stage in NAMES:
        units = list(items(stage, per_stage))
        while True:
            try:
                submit(units, settings, rerun_failed=True, window=2 if stage == "label" else None)
                for _ in range(4):
                    if finished(stage, settings, len(units)):
                        break
                    time.sleep(LOOK_S)
                else:
                    continue
                break
            except (PyMongoError, DatabaseError, ResourceError) as error:
                print(f"{stage}: {error}", file=sys.stderr, flush=True)
                time.sleep(LOOK_S)


if __name__ == "__main__":
    main(int(sys.argv[1]))
