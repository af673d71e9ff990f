"""What every VASP calculation here shares: frozen settings, POTCARs, running under custodian, reading results.

Labeling and ab-initio MD are different stages but one theory level; this package is where that level
is fixed. Importing it imports neither pymatgen's input sets nor atomate2.
"""
