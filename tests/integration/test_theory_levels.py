"""From two labelers through builder and release: a surrogate's label never stands for VASP's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import label_factory
import numpy as np
import pytest
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt, stand_in, store_frames

from aqvolt_builders.labels import LabelBuilder
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.labelers import labeler_maker, protocol_for
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.schemas.parameters import LabelingParameters, ReleaseParameters
from aqvolt_flows.stores import Database

__all__ = ["stand_in", "store_frames"]
pytestmark = [*VASP_WARNINGS]


def test_the_same_frames_by_chgnet_and_by_vasp(store_frames: StoreFrames, stand_in, database: Database, tmp_path: Path):
    frames = [replace(rock_salt(5.1, rattle=0.05, seed=i), step=i) for i in range(3)]
    levels = {}
    for labeler in ("surrogate", "vasp"):
        parameters = LabelingParameters(labeler=labeler)
        levels[labeler] = protocol_for(parameters).name
        maker = labeler_maker(parameters)
        for number, frame_id in enumerate(store_frames(frames)):
            output = type(maker).make.original(maker, frame_id, label_key(frame_id, protocol_for(parameters)))
            database["outputs"].insert_one(label_factory.output(output, f"{labeler}-{number}"))
    LabelBuilder().run()
    labels = list(database["labels"].find())
    assert len(labels) == 6
    assert {label["status"] for label in labels} == {"valid"}
    assert {label["protocol_name"].split(":")[0] for label in labels} == {"surrogate", "vasp"}
    assert levels["surrogate"].startswith("surrogate:chgnet/r2scan@")
    energies = {code: [x["energy"] for x in labels if x["protocol"]["code"] == code] for code in ("surrogate", "vasp")}
    assert not np.isclose(energies["surrogate"], energies["vasp"]).any(), "two potentials, two energies"

    wanted = ReleaseParameters(name="levels")
    with pytest.raises(InputError, match="2 protocols"):
        create_release(database, wanted, tmp_path / "releases")
    only = wanted.model_copy(update={"protocol": levels["vasp"]})
    document = create_release(database, only, tmp_path / "releases")
    assert document.counts["by_protocol"] == {levels["vasp"]: 3}
    mixed = wanted.model_copy(update={"allow_mixed_protocols": True})
    document = create_release(database, mixed, tmp_path / "releases")
    card = (tmp_path / "releases" / document.path / "README.md").read_text()
    assert "3 of 6 labels were predicted" in card
