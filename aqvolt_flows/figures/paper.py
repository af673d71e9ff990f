"""Published values that stand beside ours, for orientation only: other structures, other labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperEVScan:
    """One row of the paper's Table 1: failures in percent, Spearman's ρ of E and of ∂E/∂V."""

    model: str
    failed_percent: float
    spearman_energy: float
    spearman_derivative: float


#: Table 1 of the AQVolt26 paper: E–V scan of MLIP Arena's 1,000 WBM structures. The two MACE rows come
#: from the MP-ALOE study, as the paper's footnote says.
TABLE_1 = (
    PaperEVScan("MatPES-MACE", 14.8, -0.919, 0.857),
    PaperEVScan("MatPES-M3GNet", 1.1, -1.000, 0.993),
    PaperEVScan("MatPES-TensorNet", 7.7, -0.997, 0.894),
    PaperEVScan("MatPES-MPALOE-MACE", 2.5, -0.990, 0.980),
    PaperEVScan("MP-CHGNet", 0.0, -1.000, 0.962),
    PaperEVScan("MatPES-MPALOE-eSEN-L4", 0.1, -1.00, 0.996),
    PaperEVScan("MatPES-MPALOE-MP-eSEN-L4", 13.0, -0.96, 0.929),
    PaperEVScan("AQVolt26-MatPES-MPALOE-eSEN-L4", 0.2, -1.00, 1.000),
    PaperEVScan("AQVolt26-MatPES-MPALOE-MP-eSEN-L4", 12.9, -0.968, 0.927),
)
TABLE_1_NOTE = (
    "Published values of the AQVolt26 paper (Table 1), for MLIP Arena's 1,000 WBM structures. They are not computed "
    "here and are not for the structures of this campaign."
)
