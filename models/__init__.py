"""Neuron and dendrite models, one file each, equations first. Every public function here makes a NeuronModel."""

if __name__ != "localplast.models":  # a second copy of every class would compare unequal to the first
    raise ImportError("import localplast.models, not models")

from localplast.models.alif import alif as alif
from localplast.models.biased_lif import biased_lif as biased_lif
from localplast.models.biased_lif import biased_readout as biased_readout
from localplast.models.burst import burst_poisson as burst_poisson
from localplast.models.burst import naud_sprekeler as naud_sprekeler
from localplast.models.cuba_lif import cuba_lif as cuba_lif
from localplast.models.decolle_lif import decolle_lif as decolle_lif
from localplast.models.elise import elise as elise
from localplast.models.eprop_2020 import eprop_2020 as eprop_2020
from localplast.models.eprop_2020 import eprop_readout_2020 as eprop_readout_2020
from localplast.models.gle import gle as gle
from localplast.models.gle import gle_output as gle_output
from localplast.models.graded_readout import graded_readout as graded_readout
from localplast.models.instant_readout import instant_readout as instant_readout
from localplast.models.latent_equilibrium import latent_equilibrium as latent_equilibrium
from localplast.models.latent_equilibrium import latent_equilibrium_output as latent_equilibrium_output
from localplast.models.lif import lif as lif
from localplast.models.microcircuit import sacramento_interneuron as sacramento_interneuron
from localplast.models.microcircuit import sacramento_output as sacramento_output
from localplast.models.microcircuit import sacramento_pyramidal as sacramento_pyramidal
from localplast.models.pal import pal_output as pal_output
from localplast.models.pal import pal_pyramidal as pal_pyramidal
from localplast.models.pal_gle import pal_gle as pal_gle
from localplast.models.pal_gle import pal_gle_output as pal_gle_output
from localplast.models.plateau_cell import plateau_cell as plateau_cell
from localplast.models.pyramidal import pyramidal as pyramidal
from localplast.models.readout import leaky_readout as leaky_readout
from localplast.models.superspike_lif import superspike_lif as superspike_lif
from localplast.models.two_compartment import two_compartment as two_compartment
from localplast.models.urbanczik_senn import urbanczik_senn as urbanczik_senn
from localplast.models.van_rossum import van_rossum_readout as van_rossum_readout

__all__ = [
    "alif",
    "biased_lif",
    "biased_readout",
    "burst_poisson",
    "cuba_lif",
    "decolle_lif",
    "elise",
    "eprop_2020",
    "eprop_readout_2020",
    "gle",
    "gle_output",
    "graded_readout",
    "instant_readout",
    "latent_equilibrium",
    "latent_equilibrium_output",
    "leaky_readout",
    "lif",
    "naud_sprekeler",
    "pal_gle",
    "pal_gle_output",
    "pal_output",
    "pal_pyramidal",
    "plateau_cell",
    "pyramidal",
    "sacramento_interneuron",
    "sacramento_output",
    "sacramento_pyramidal",
    "superspike_lif",
    "two_compartment",
    "urbanczik_senn",
    "van_rossum_readout",
]
