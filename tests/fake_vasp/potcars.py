"""POTCAR files that pymatgen reads and no one licensed: keywords of a header, and no pseudopotential at all."""

from __future__ import annotations

from pathlib import Path

from pymatgen.core import Element

from aqvolt_flows.chemistry import atomic_energies
from aqvolt_flows.vasp.settings import potcar_symbol

#: Radii (Å) whose sum is roughly the distance of neighbors in the halide; Shannon's (Acta Cryst. A32, 751 (1976)).
RADII = {"Li": 0.76, "Na": 1.02, "K": 1.38, "F": 1.33, "Cl": 1.81, "Br": 1.96, "I": 2.20, "Y": 0.90, "Al": 0.54}
VALENCES = {"Li": 3, "Na": 7, "K": 9, "F": 7, "Cl": 7, "Br": 7, "I": 7, "Y": 11, "Al": 3}


def potcar_text(element: str) -> str:
    """Return one dataset; EATOM is the negative r2SCAN energy of the isolated atom, so that totals look like VASP's."""
    title = f"PAW_PBE {potcar_symbol(element)} 01Jan2026"
    valence = float(VALENCES.get(element, 4))
    return f"""  {title}
 {valence:.14f}
 parameters from PSCTR are:
   VRHFIN ={element}: stand-in
   LEXCH  = PE
   EATOM  = {-atomic_energies()[element]:12.6f} eV

   TITEL  = {title}
   LULTRA =        F    use ultrasoft PP ?
   IUNSCR =        0    unscreen: 0-lin 1-nonlin 2-no
   RPACOR =    0.000    partial core radius
   POMASS = {float(Element(element).atomic_mass):8.3f}; ZVAL   = {valence:8.3f}    mass and valenz
   RCORE  =    1.500    outmost cutoff radius
   RWIGS  = {RADII.get(element, 1.2):8.3f}; RWIGS  = {RADII.get(element, 1.2):8.3f}    wigner-seitz radius (au A)
   ENMAX  =  300.000; ENMIN  =  200.000 eV
   LCOR   =        T    correct aug charges
   LPAW   =        T    paw PP
   EAUG   =  500.000
 END of PSCTR-controll parameters
 local part
  0.00000000E+00
 End of Dataset
"""


def write_potcars(folder: Path, elements: list[str]) -> Path:
    """Write POTCARs of PBE_64 as ``pmg config -p`` lays them out and return the folder for PMG_VASP_PSP_DIR."""
    for element in elements:
        path = folder / "POT_PAW_PBE_64" / f"POTCAR.{potcar_symbol(element)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(potcar_text(element))
    return folder
