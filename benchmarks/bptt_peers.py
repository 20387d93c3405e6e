"""One training step of the same network by other libraries, through their public interfaces only.

Signatures are those of ``bptt_cases.py``. The layers are leaky integrate-and-fire (soft reset, triangular surrogate
where that exists) without biases, all from the same weights.
"""

import numpy as np
from bptt_problem import ALPHA, RATE, WINDOW, torch_threads, trainer

__all__ = ["norse", "snntorch", "spikingjelly", "spyx"]


def dense(torch, weight, scale=1.0):
    """A linear layer without bias, from weights ``(pre, post)``."""
    layer = torch.nn.Linear(*weight.shape, bias=False)
    layer.weight.data = scale * torch.tensor(weight.T).contiguous()
    return layer


def snntorch(problem, threads):
    """With the fast sigmoid: its triangular surrogate has no bounds, and W1's gradient overflows."""
    torch = torch_threads(threads)
    import snntorch as snn

    layers, square = problem.weights()
    linear = torch.nn.ModuleList(dense(torch, w) for w in layers)
    options = dict(beta=ALPHA, spike_grad=snn.surrogate.fast_sigmoid(), reset_mechanism="subtract")
    if square is None:
        cells = [snn.Leaky(**options) for _ in layers[:-1]]
    else:
        cells = [snn.RLeaky(**options, linear_features=len(square))]
        cells[0].recurrent = dense(torch, square)
    cells = torch.nn.ModuleList([*cells, snn.Leaky(beta=ALPHA, reset_mechanism="none")])

    def forward(x):
        state, outputs = [cell.reset_mem() for cell in cells], []
        state = [s if isinstance(s, tuple) else (s,) for s in state]
        for signal in x.unbind(0):
            for k, cell in enumerate(cells):
                found = cell(linear[k](signal), *state[k])
                state[k] = found if len(state[k]) == 2 else found[1:]
                signal = found[0]
            outputs.append(state[-1][0])
        return outputs

    return trainer(problem, [*linear.parameters(), *cells.parameters()], forward)


def norse(problem, threads):
    """Its synaptic current is there but decays within a step (tau_syn = dt); it resets to zero."""
    torch = torch_threads(threads)
    import norse.torch as norse

    layers, square = problem.weights()
    rates = {"tau_syn_inv": torch.tensor(1000.0), "tau_mem_inv": torch.tensor(50.0)}
    p, gain = norse.LIFParameters(**rates, method="triangle", alpha=0.3), 20.0
    if square is None:
        modules = [m for w in layers[:-1] for m in (dense(torch, w, gain), norse.LIFCell(p))]
    else:
        weights = [torch.nn.Parameter(gain * torch.tensor(w.T).contiguous()) for w in (layers[0], square)]
        modules = [norse.LIFRecurrentCell(*layers[0].shape, p, input_weights=weights[0], recurrent_weights=weights[1])]
    readout = norse.LICell(norse.LIParameters(**rates))
    net = norse.SequentialState(*modules, dense(torch, layers[-1], gain), readout)

    def forward(x):
        state, outputs = None, []
        for signal in x.unbind(0):
            output, state = net(signal, state)
            outputs.append(output)
        return outputs

    return trainer(problem, net.parameters(), forward)


def spikingjelly(problem, threads):
    """Single-step mode; its recurrent container multiplies input and feedback by one matrix ``[I, R]``.

    The readout is two lines by hand: its own ``NonSpikingLIFNode`` indexes a sequence step by step, which is quadratic.
    """
    torch = torch_threads(threads)
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    layers, square = problem.weights()
    modules = []
    for weight in layers[:-1]:
        cell = neuron.LIFNode(
            1 / (1 - ALPHA), decay_input=False, v_reset=None, surrogate_function=surrogate.PiecewiseQuadratic()
        )
        if square is not None:
            cell = layer.LinearRecurrentContainer(cell, len(square), len(square), bias=False)
            cell.rc.weight.data = torch.tensor(np.hstack([np.eye(len(square), dtype=np.float32), square.T]))
        modules += [dense(torch, weight), cell]
    net = torch.nn.Sequential(*modules, dense(torch, layers[-1]))

    def forward(x):
        functional.reset_net(net)
        y, outputs = 0.0, []
        for signal in x.unbind(0):
            y = ALPHA * y + net(signal)
            outputs.append(y)
        return outputs

    return trainer(problem, net.parameters(), forward)


def spyx(problem, threads):
    """JAX: the whole training step is one compiled program, with ``lax.scan`` over time. It learns the decays, too."""
    import jax.numpy as jnp
    import optax
    from flax import nnx
    from spyx import axn, nn

    layers, square = problem.weights()
    rngs, modules = nnx.Rngs(0), []
    for weight in layers[:-1]:
        linear = nnx.Linear(*weight.shape, use_bias=False, rngs=rngs)
        linear.kernel[...] = jnp.asarray(weight)
        kind = nn.LIF if square is None else nn.RLIF
        cell = kind(weight.shape[1:], beta=ALPHA, activation=axn.triangular(1.0), rngs=rngs)
        if square is not None:
            cell.recurrent_w[...] = jnp.asarray(square)
        modules += [linear, cell]
    linear = nnx.Linear(*layers[-1].shape, use_bias=False, rngs=rngs)
    linear.kernel[...] = jnp.asarray(layers[-1])
    model = nn.Sequential(*modules, linear, nn.LI(layers[-1].shape[1:], beta=ALPHA, rngs=rngs))
    optimiser = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)
    spikes, labels = problem.data()
    x, labels = jnp.asarray(spikes, jnp.float32), jnp.asarray(labels)

    @nnx.jit
    def update(model, optimiser, x, labels):
        def loss(model):
            window = nn.run(model, x)[0][-WINDOW:]
            wanted = jnp.broadcast_to(labels, window.shape[:2])
            return optax.softmax_cross_entropy_with_integer_labels(window, wanted).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimiser.update(model, grads)
        return value

    return lambda: float(update(model, optimiser, x, labels))
