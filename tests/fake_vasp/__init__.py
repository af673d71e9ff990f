"""The stand-in VASP, and the frames and POTCARs that tests give to it."""
