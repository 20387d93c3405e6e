"""Learning rules: every public function here makes a Rule. One file each; rules that differ in one part share a
file.
"""

from localplast.learning.rule import feedback_alignment as feedback_alignment
from localplast.rules.bptt import bptt as bptt
from localplast.rules.decolle import decolle as decolle
from localplast.rules.dendritic import dendritic as dendritic
from localplast.rules.direct import dfa as dfa
from localplast.rules.direct import drtp as drtp
from localplast.rules.direct import erbp as erbp
from localplast.rules.eprop import eprop as eprop
from localplast.rules.factorised import es_d_rtrl as es_d_rtrl
from localplast.rules.factorised import s_tllr as s_tllr
from localplast.rules.rtrl import rtrl as rtrl
from localplast.rules.spatial import ostl as ostl
from localplast.rules.spatial import ottt as ottt
from localplast.rules.spatial import sltt as sltt
from localplast.rules.superspike import superspike as superspike

__all__ = [
    "bptt",
    "decolle",
    "dendritic",
    "dfa",
    "drtp",
    "eprop",
    "erbp",
    "es_d_rtrl",
    "feedback_alignment",
    "ostl",
    "ottt",
    "rtrl",
    "s_tllr",
    "sltt",
    "superspike",
]
