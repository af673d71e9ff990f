"""``aqvolt protocol``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aqvolt_flows.labeling.labelers import protocol_for
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_launch.cli import main
from aqvolt_launch.cli.protocol import register

RUN = CliRunner()
app = typer.Typer()
app.callback()(lambda: None)
register(app)


@pytest.mark.parametrize("labeler", ["vasp", "gpaw", "surrogate"])
def test_it_names_the_protocol_that_labels_will_carry(labeler: str, project: Path):
    done = RUN.invoke(app, ["protocol", "--campaign", "aqvolt26", "--labeler", labeler, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["protocol"] == protocol_for(LabelingParameters(labeler=labeler)).name
    table = RUN.invoke(app, ["protocol", "--campaign", "aqvolt26", "--labeler", labeler])
    assert ("INCAR METAGGA" in table.output) == (labeler == "vasp")


def test_a_changed_default_is_one_sentence_with_the_difference_and_code_2(project: Path, monkeypatch, capsys):
    from pymatgen.io.vasp.sets import MatPESStaticSet

    config = {**MatPESStaticSet.CONFIG, "INCAR": {**MatPESStaticSet.CONFIG["INCAR"], "ENCUT": 520}}
    monkeypatch.setattr(MatPESStaticSet, "CONFIG", config)
    monkeypatch.setattr("sys.argv", ["aqvolt", "protocol", "--campaign", "aqvolt26", "--labeler", "vasp"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "ENCUT: 680.0 is now 520.0" in error
    assert len(error.strip().splitlines()) == 1
