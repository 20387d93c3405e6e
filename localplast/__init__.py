"""localplast: biologically plausible local learning in continuous time."""
