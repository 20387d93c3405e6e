"""One training step of the same network by localplast, and by a loop over time as one writes it by hand.

Every function takes a :class:`Problem` and a number of threads, and returns ``step() -> loss``: forward, backward,
Adam.
"""

import numpy as np
from bptt_problem import ALPHA, RATE, WINDOW, torch_threads, trainer

__all__ = ["eager", "floor", "localplast_kernel", "localplast_learner", "localplast_plain"]


def localplast_network(problem):
    from brian2 import ms

    from localplast import Input, Network, Population, Projection
    from localplast.models import leaky_readout, lif

    layers, square = problem.weights()
    hidden = {f"h{k}": Population(n, lif()) for k, n in enumerate(problem.sizes[1:-1])}
    nodes = {"cues": Input(problem.sizes[0]), **hidden, "out": Population(problem.sizes[-1], leaky_readout())}
    names = list(nodes)
    projections = [Projection(*ends, weight=w) for *ends, w in zip(names, names[1:], layers, strict=False)]
    if square is not None:
        projections.append(Projection("h0", "h0", weight=square))
    return Network(dt=1 * ms, projections=projections, **nodes)


def localplast_learner(problem, threads):
    """What a user runs: bool trials in, weights changed by localplast's own Adam, loss, accuracy and rate out."""
    import torch

    from localplast import Trials, adam
    from localplast.backends.torch.learner import TorchLearner
    from localplast.rules import bptt
    from localplast.task.loss import cross_entropy

    net, (spikes, labels) = localplast_network(problem), problem.data()
    window = min(WINDOW, problem.steps)
    weight = np.zeros(problem.steps)
    weight[-window:] = 1 / window
    trials = Trials({"cues": np.ascontiguousarray(spikes.transpose(1, 0, 2))}, labels, weight)
    learner = TorchLearner(
        net, net.draw(0), bptt(), cross_entropy(), adam(RATE), batch=problem.batch, dtype=torch.float32, threads=threads
    )
    return lambda: learner.train(trials)[0]["loss"]


def localplast_kernel(problem, threads):
    """The generated kernel as a Torch function, under torch.optim as the peers are."""
    torch = torch_threads(1)
    from localplast.backends.c.function import NetworkFunction
    from localplast.backends.torch.step import leaves

    net = localplast_network(problem)
    values = net.draw(0)
    tensors = leaves(net, values, dtype=torch.float32)
    weights = {name: tensors[f"{name}.weight"].requires_grad_() for name in net.projections}
    kernel = NetworkFunction(net, {k: t.detach() for k, t in tensors.items()}, values.masks, threads=threads)
    return trainer(problem, weights.values(), lambda x: kernel(weights, {"cues": x})["out.output"], dtype=torch.bool)


def localplast_plain(problem, threads):
    """The step in plain Torch that stands in where there is no compiler."""
    torch = torch_threads(threads)
    from localplast.backends.torch.step import Twin, leaves, simulate

    net = localplast_network(problem)
    values, names = net.draw(0), [f"{name}.weight" for name in net.projections]
    tensors = leaves(net, values, dtype=torch.float32, trainable=names)

    def forward(x):
        return simulate(Twin(net, tensors, values.masks), {"cues": x}, ["out.output"])["out.output"]

    return trainer(problem, [tensors[name] for name in names], forward)


def eager(problem, threads):
    """A loop over time as one writes it by hand."""
    torch = torch_threads(threads)
    layers, square = problem.weights()
    layers = [torch.tensor(w, requires_grad=True) for w in layers]
    square = None if square is None else torch.tensor(square, requires_grad=True)

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x > 0).to(x.dtype)

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 0.3 * (1 - x.abs()).clamp(min=0)

    def forward(x):
        v = [x.new_zeros(problem.batch, n) for n in problem.sizes[1:]]
        z = [torch.zeros_like(u) for u in v[:-1]]
        outputs = []
        for signal in x.unbind(0):
            for k, weight in enumerate(layers[:-1]):
                current = signal @ weight
                if square is not None:
                    current = current + z[k] @ square
                v[k] = ALPHA * v[k] + current - z[k]
                z[k] = signal = Spike.apply(v[k] - 1)
            v[-1] = ALPHA * v[-1] + signal @ layers[-1]
            outputs.append(v[-1])
        return outputs

    return trainer(problem, [*layers, *([] if square is None else [square])], forward)


def floor(problem, threads):
    """What no kernel that follows events can leave out: errors back through dense weights, and a row of weights, or of
    their gradient, for each event, forward and back.

    Sums of rows are those of ``embedding_bag``, of the events that the network of layers has.
    """
    torch = torch_threads(threads)
    from localplast.backends.c.function import NetworkFunction
    from localplast.backends.torch.step import leaves

    net = localplast_network(problem)
    values, names = net.draw(0), [f"h{k}.spikes" for k in range(len(problem.sizes) - 2)]
    tensors = leaves(net, values, dtype=torch.float32)
    weights = [tensors[f"{name}.weight"] for name in net.projections]
    kernel = NetworkFunction(net, tensors, values.masks, record=names)
    spikes = torch.as_tensor(problem.data()[0])
    found = kernel(dict(zip(net.projections, weights, strict=True)), {"cues": spikes})
    rasters = [spikes, *(found[name] != 0 for name in names)]
    events = [[(x[t].nonzero()[:, 1].contiguous(), starts(torch, x[t])) for t in range(len(x))] for x in rasters]
    errors = [torch.rand(problem.batch, w.shape[1]) for w in weights]
    back = [torch.empty(problem.batch, w.shape[0]) for w in weights]

    def step():
        for t in range(problem.steps):
            for k, (w, each) in enumerate(zip(weights, events, strict=True)):
                for _ in ("forward", "back"):
                    torch.nn.functional.embedding_bag(each[t][0], w, each[t][1], mode="sum")
                if k:
                    torch.mm(errors[k], w.T, out=back[k])

    return step


def starts(torch, raster):
    """Where the events of each trial begin, ``raster`` ``(trial, neuron)``."""
    many = raster.sum(1)
    return torch.cumsum(many, 0) - many
