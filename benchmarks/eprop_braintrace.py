"""The network of ``eprop.py`` with BrainTrace's EProp (JAX), whose traces are derived and run forward as well.

It looks at the loss in every step (its driver has no window), does not filter by the readout's own memory but by
``kappa_filter_decay``, and stops at the gradient: the optimiser's share is left out, in its favour.
"""

import numpy as np

__all__ = ["braintrace_step"]


def braintrace_step(spikes, labels, beta, v_th):
    """A call that presents ``spikes`` ``(trial, time, channel)`` and accumulates the gradient."""
    import brainstate
    import braintrace
    import jax
    import jax.numpy as jnp

    alpha, rho, kappa = (float(np.exp(-1 / tau)) for tau in (20, 2000, 20))
    batch, steps, channels = spikes.shape
    neurons, beta = len(beta), jnp.asarray(beta, jnp.float32)

    @jax.custom_jvp
    def spike(x):
        return (x > 0).astype(x.dtype)

    @spike.defjvp
    def surrogate(primals, tangents):
        (x,), (dx,) = primals, tangents
        return spike(x), dx * 0.3 / v_th * jnp.maximum(0, 1 - jnp.abs(x) / v_th)

    class Network(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.v = brainstate.HiddenState(jnp.zeros((batch, neurons)))
            self.a = brainstate.HiddenState(jnp.zeros((batch, neurons)))
            self.weight = braintrace.nn.Linear(channels + neurons, neurons)
            self.readout = braintrace.nn.Linear(neurons, 2)

        def init_state(self, *_, **__):
            self.v.value = self.a.value = jnp.zeros((batch, neurons))

        def fire(self):
            return spike(self.v.value - v_th - beta * self.a.value)

        def update(self, x):
            z = self.fire()
            apart = jax.lax.stop_gradient(z)
            self.v.value = alpha * self.v.value + self.weight(jnp.concatenate([x, apart], -1)) - v_th * apart
            self.a.value = rho * self.a.value + z
            return self.readout(self.fire())

    x = jnp.asarray(spikes.transpose(1, 0, 2), jnp.float32)
    target = jnp.broadcast_to(jnp.eye(2)[labels], (steps, batch, 2))
    network = Network()
    learner = braintrace.compile(network, braintrace.EProp, x[0], kappa_filter_decay=kappa)

    def loss(signal, wanted):
        return jnp.mean((learner(signal) - wanted) ** 2)

    gradient = brainstate.transform.jit(lambda x, target: learner.etrace_grad(x, target, step_fn=loss))

    def step():
        brainstate.nn.init_all_states(network)
        jax.block_until_ready(gradient(x, target))

    return step
