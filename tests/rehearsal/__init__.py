"""A labeling campaign rehearsed with the stand-in VASP: every kind of failure, killed workers, one outcome a frame."""
