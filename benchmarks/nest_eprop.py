"""The network of ``eprop_problem.py`` in NEST, with its e-prop models after Bellec et al. 2020 (``*_bsshslm_2020``).

NEST counts a weight when it arrives, ours decays in the same step: weights onto neurons are ``ALPHA`` times ours, the
adaptation strength ``RHO`` times. Its readout is scaled by ``1 - KAPPA``, so that weights onto it, and back from it,
are larger by that factor. Learning rate and epsilon of Adam are scaled likewise: after every trial the weights are
ours again.
"""

import numpy as np
from eprop_problem import ALPHA, CHANNELS, KAPPA, LEARNING_RATE, NEURONS, RHO, TAU_REF, V_TH, WINDOW, adaptation

__all__ = ["Program"]

#: Step in which the readout's first trial begins: input spikes are listed from 1, and pass an input and a hidden
#: neuron.
LATE = 4


class Program:
    """The network, built. ``run(n)`` presents the next n trials.

    Parameters
    ----------
    numbers : Numbers
    presentations : int
        How often all trials are going to be presented: NEST gets all input spikes beforehand.

    Other arguments
    ---------------
    threads : int
    watched : bool
        Record what :meth:`losses` and :meth:`rate` need.
    """

    def __init__(self, numbers, presentations, *, threads=1, watched=False):
        import nest

        self.nest, self.numbers = nest, numbers
        nest.ResetKernel()
        nest.verbosity = nest.VerbosityLevel.ERROR
        nest.set(
            resolution=1.0,
            local_num_threads=threads,
            eprop_update_interval=float(numbers.steps),
            eprop_learning_window=float(WINDOW),
            eprop_reset_neurons_on_update=True,
        )
        inputs, rec, out = nest.Create("parrot_neuron", CHANNELS), self.hidden(), self.readout()
        self.present(inputs, out, presentations)
        links = (("cues_rec", inputs, rec, ALPHA), ("rec_rec", rec, rec, ALPHA), ("rec_out", rec, out, 1 / (1 - KAPPA)))
        for name, pre, post, scale in links:
            shared = {"tau_m_readout": 20.0, "average_gradient": True, "optimizer": adam(scale)}
            nest.CopyModel("eprop_synapse_bsshslm_2020", name, shared)
            self.join(pre, post, numbers.weights[name] * scale, name, autapses=name != "rec_rec")
        self.join(out, rec, numbers.feedback.T / (1 - KAPPA), "eprop_learning_signal_connection_bsshslm_2020")
        self.meter = self.recorder = None
        if watched:
            self.meter = nest.Create("multimeter", {"record_from": ["error_signal"], "interval": 1.0})
            self.recorder = nest.Create("spike_recorder")
            nest.Connect(self.meter, out)
            nest.Connect(rec, self.recorder)
        nest.Simulate(float(LATE + 1))  # from here on, a trial of the readout ends with a run

    def hidden(self):
        """LIF neurons, then ALIF neurons."""
        shared = {
            "C_m": 1.0,
            "E_L": 0.0,
            "V_m": 0.0,
            "I_e": 0.0,
            "V_th": V_TH,
            "tau_m": 20.0,
            "t_ref": float(TAU_REF),
            "c_reg": 0.0,
            "regular_spike_arrival": True,
            "surrogate_gradient_function": "piecewise_linear",
            "surrogate_gradient_height": 0.3 / V_TH,
            "surrogate_gradient_width": V_TH,
        }
        adaptive = {**shared, "adapt_tau": 2000.0, "adapt_beta": RHO * float(adaptation()[-1])}
        lif = self.nest.Create("eprop_iaf_bsshslm_2020", NEURONS // 2, shared)
        return lif + self.nest.Create("eprop_iaf_adapt_bsshslm_2020", NEURONS // 2, adaptive)

    def readout(self):
        leaky = {"C_m": 1.0, "E_L": 0.0, "V_m": 0.0, "I_e": 0.0, "tau_m": 20.0, "regular_spike_arrival": False}
        return self.nest.Create("eprop_readout_bsshslm_2020", 2, {**leaky, "loss": "mean_squared_error"})

    def present(self, inputs, out, presentations):
        """Input spikes and targets of all trials to come."""
        nest, steps, trials = self.nest, self.numbers.steps, len(self.numbers.labels)
        late = np.roll(self.numbers.spikes, 1, axis=1)
        late[:, 0] = False  # what the last step of a trial sends is lost
        late = np.tile(late, (presentations, 1, 1)).reshape(-1, CHANNELS)
        sources = nest.Create("spike_generator", CHANNELS)
        sources.set([{"spike_times": np.flatnonzero(late[:, k]) + 1.0} for k in range(CHANNELS)])
        nest.Connect(sources, inputs, "one_to_one", {"delay": 1.0})
        wanted = np.tile(np.eye(2)[self.numbers.labels], (presentations, 1))
        times = np.arange(presentations * trials) * float(steps) + LATE
        targets = nest.Create(
            "step_rate_generator", 2, [{"amplitude_times": times, "amplitude_values": w} for w in wanted.T]
        )
        port = nest.GetDefaults("eprop_readout_bsshslm_2020")["receptor_types"]["target_signal"]
        wire = {"synapse_model": "rate_connection_delayed", "delay": 1.0, "receptor_type": port}
        nest.Connect(targets, out, "one_to_one", wire)

    def join(self, pre, post, weight, model, autapses=True):
        """One connection per weight ``(pre, post)``."""
        exists = np.ones(weight.shape, bool)
        if not autapses:
            np.fill_diagonal(exists, False)
        i, j = np.nonzero(exists)
        synapse = {"synapse_model": model, "weight": weight[exists], "delay": np.ones(len(i))}
        self.nest.Connect(np.array(pre.tolist())[i], np.array(post.tolist())[j], "one_to_one", synapse)

    def run(self, trials):
        self.nest.Simulate(float(trials * self.numbers.steps))

    def losses(self):
        """Of each trial so far: the error is zero outside the window at its end."""
        steps, found = self.numbers.steps, self.meter.get("events")
        trial = np.maximum(found["times"].astype(int) - 50, 0) // steps
        return 0.5 * np.bincount(trial, found["error_signal"] ** 2) / WINDOW

    def rate(self, trials):
        """Spikes per second of a recurrent neuron."""
        return self.recorder.n_events / (NEURONS * trials * self.numbers.steps * 1e-3)


def adam(scale):
    """Adam for weights that are ``scale`` times ours, whose gradients are ours divided by ``scale``."""
    return {
        "type": "adam",
        "batch_size": 1,
        "eta": LEARNING_RATE * scale,
        "epsilon": 1e-8 / scale,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "optimize_each_step": False,
        "Wmin": -100.0,
        "Wmax": 100.0,
    }
