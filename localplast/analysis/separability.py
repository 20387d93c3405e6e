"""What a linear classifier makes of the activity of some neurons, which do not know of it."""

import numpy as np
from scipy.optimize import minimize

__all__ = ["separability"]


def separability(learned, tested, classes=10):
    """Share of samples that a linear classifier names rightly, by softmax regression.

    Parameters
    ----------
    learned, tested : pairs ``(activity, labels)``
        What it is fitted to, and what it is judged by: ``(sample, neuron)`` and int ``(sample,)``.

    Unlike least squares, it tells a class that lies between two others. Activity is standardised before.
    """
    (seen, labels), (shown, wanted) = learned, tested
    mean, spread = seen.mean(0), seen.std(0) + 1e-12
    seen, shown = (np.column_stack([(x - mean) / spread, np.ones(len(x))]) for x in (seen, shown))
    right = np.eye(classes)[labels]

    def cost(flat):
        scores = seen @ flat.reshape(-1, classes)
        share = np.exp(scores - scores.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        loss = -np.log(share[np.arange(len(labels)), labels] + 1e-300).mean()
        return loss, (seen.T @ (share - right) / len(labels)).ravel()

    found = minimize(cost, np.zeros(seen.shape[1] * classes), jac=True, method="L-BFGS-B")
    return float(np.mean((shown @ found.x.reshape(-1, classes)).argmax(1) == wanted))
