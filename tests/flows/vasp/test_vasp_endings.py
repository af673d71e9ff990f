"""Why a run has no end: what VASP, custodian and the machine said, and which of them counts."""

from __future__ import annotations

import json

import pytest
from vasp_forms import Form, outcar, write_run

from aqvolt_flows.labeling.reasons import restarted_here, worth_rerunning
from aqvolt_flows.vasp.endings import custodian_log, ended
from aqvolt_flows.vasp.outputs import read_calculation

SIGTERM = "forrtl: error (78): process killed (SIGTERM)\nImage              PC                Routine\n"
#: The box of VASP 6 around its reason.
BOX = """ -----------------------------------------------------------------------------
|                                                                             |
|     EEEEEEE  RRRRRR   RRRRRR   OOOOOOO  RRRRRR      ###     ###     ###     |
|     E        R     R  R     R  O     O  R     R     ###     ###     ###     |
|     EEEEEEE  R     R  R     R  OOOOOOO  R     R     ###     ###     ###     |
|                                                                             |
|     The number of k-points is too small for the tetrahedron method;         |
|     increase it or use ISMEAR = 0.                                          |
|                                                                             |
|       ---->  I REFUSE TO CONTINUE WITH THIS SICK JOB ... BYE!!! <----       |
|                                                                             |
 -----------------------------------------------------------------------------
"""


def log(*errors, **how):
    """Return custodian.json of one job, as custodian 2026 writes it."""
    run = {"job": {}, "corrections": [{"errors": [e], "actions": None, "handler": {}} for e in errors]}
    flags = (
        "handler",
        "validator",
        "max_errors",
        "max_errors_per_job",
        "max_errors_per_handler",
        "nonzero_return_code",
    )
    return json.dumps([run | dict.fromkeys(flags, False) | how])


@pytest.mark.parametrize(
    ("said", "custodian", "ending", "reason", "message"),
    [
        # custodian gives up: it ends VASP by SIGTERM, and the Fortran runtime says so
        (SIGTERM, log("zbrent", max_errors=True), "failed", "vasp_error", "it met zbrent"),
        (SIGTERM, log("eddrmm", "eddrmm", handler={"@class": "VaspErrorHandler"}), "failed", "vasp_error", "eddrmm"),
        (
            "ZBRENT: fatal error in bracketing\n" + SIGTERM,
            log("zbrent", max_errors=True),
            "failed",
            "vasp_error",
            "ZBRENT: fatal error in bracketing",
        ),
        (SIGTERM, log("Unconverged", max_errors=True), "unconverged", "electronic", "Unconverged"),
        (SIGTERM, log("Non-converging job", handler={}, max_errors=True), "unconverged", "electronic", "Non-conv"),
        (SIGTERM, log("Walltime reached", handler={"a": 1}), "killed", "wall_time", "Walltime reached"),
        (SIGTERM, log("Frozen job", max_errors=True), "killed", "interrupted", "Frozen job"),
        # custodian is still at it: the signal is the reason
        (SIGTERM, log("eddrmm"), "killed", "signal", "SIGTERM"),
        (SIGTERM, "", "killed", "signal", "SIGTERM"),
        (SIGTERM, "{cut", "killed", "signal", "SIGTERM"),
        # an error after which VASP ends comes before the signal that follows it, one that it survives does not
        ("LAPACK: Routine ZPOTRF failed!\n" + SIGTERM, "", "failed", "vasp_error", "LAPACK: Routine ZPOTRF failed!"),
        ("BRMIX: very serious problems\n" + SIGTERM, "", "killed", "signal", "SIGTERM"),
        ("BRMIX: very serious problems\n", "", "failed", "vasp_error", "BRMIX: very serious problems"),
        # what ran out comes first
        ("slurmstepd: oom-kill\n" + SIGTERM, log("zbrent", max_errors=True), "killed", "out_of_memory", "oom-kill"),
        ("CANCELLED DUE TO TIME LIMIT\n" + BOX, "", "killed", "wall_time", "DUE TO TIME LIMIT"),
        # the sentence is the one that says why
        (
            BOX,
            "",
            "failed",
            "vasp_error",
            "The number of k-points is too small for the tetrahedron method; increase it",
        ),
        (
            "VERY BAD NEWS! internal error in subroutine IBZKPT:\n" + BOX,
            "",
            "failed",
            "vasp_error",
            "VERY BAD NEWS! internal error in subroutine IBZKPT:",
        ),
        ("Some last words\n I REFUSE TO CONTINUE WITH THIS SICK JOB ..., BYE!!!\n", "", "failed", "vasp_error", "Some"),
        ("", "", "killed", "interrupted", "no timing table"),
    ],
)
def test_which_of_them_counts(said, custodian, ending, reason, message):
    found = ended(said, custodian=custodian_log(custodian))
    assert (found["ending"], found["failure"].reason) == (ending, reason)
    assert message in found["failure"].message
    assert "SICK JOB" not in found["failure"].message


def test_a_run_that_custodian_gave_up_is_final(tmp_path):
    """Filed as ``signal`` it was started twice, and again with every --rerun-failed."""
    form = Form()
    texts = {
        "OUTCAR": outcar(form, foot=False),
        "std_err__txt": SIGTERM,
        "custodian__json": log("zbrent", max_errors=True),
    }
    found = read_calculation(write_run(tmp_path, form, **texts))
    assert (found.ending, found.failure.reason) == ("failed", "vasp_error")
    assert not restarted_here(found.failure.reason)
    assert not worth_rerunning(found.failure.reason)
    assert found.corrections == ["zbrent"]


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[]", "[1]", '[{"corrections": 3}]', '[{"corrections": [{"errors": "x"}]}]']
)
def test_a_log_of_any_form_is_no_error(text):
    assert custodian_log(text).gave_up is False
