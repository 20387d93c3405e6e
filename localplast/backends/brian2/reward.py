"""Actor and critic as Brian2 objects: choices, the reward, and the temporal difference error that everybody hears."""

from brian2.units.fundamentalunits import DIMENSIONLESS

from localplast.backends.brian2.judged import Judged
from localplast.backends.brian2.text import ERROR, PAID, PURSE, SOFTMAX, SURPRISE, gather, suffixed, tables
from localplast.errors import UnsupportedError

__all__ = ["REWARD_VARIABLES", "build_reward"]

#: Of the policy: how many choices beat this one, whether it is chosen, what it earns. Of the value: what is owed, and
#: paid.
REWARD_VARIABLES = {"policy": ("beaten", "roll", "earned"), "value": ("purse", "income", "paid", "value_before")}


def policy_error(loss):
    """That of a choice, the only one: its targets sum to one."""
    return Judged(loss, DIMENSIONLESS).error({"teacher": "_chosen", "_whole": "1.0"})


def give_tables(net, loss, built):
    """Let actor and critic look up what they need; returns each one's text of what they hold."""
    given = {n: built.tables[n] for n in ("step_weight", "target")} | {"dice": built.tables[f"signal_{loss.dice}"]}
    texts = []
    for readout, found in ((loss.policy, given), (loss.value, {"pay": built.tables["pay"]})):
        found, now = tables(net.nodes[readout].model, **found)
        built.objects[readout].namespace.update(found)
        texts.append(now)
    return texts


def build_reward(signals, built):
    """Add to ``built`` what a :class:`~localplast.task.loss.Reward` needs, in the order of one step."""
    net, block, loss = signals.net, signals.block, signals.plan.loss
    outputs = {r: signals.output_text(r) for r in (loss.policy, loss.value)}
    for readout in outputs:
        if signals.output_dimension(readout) is not DIMENSIONLESS:
            raise UnsupportedError(f"readout {readout!r} has a unit; actor and critic need outputs without one")
    built.pay_delay = loss.steps(float(net.dt))
    built.trial_table("pay")
    policy, value = built.objects[loss.policy], built.objects[loss.value]
    now, own = give_tables(net, loss, built)

    roll = f"roll = {outputs[loss.policy]} + {now['dice']}"
    policy.run_regularly(roll, when="end", order=SOFTMAX - 1, name="roll_dice")
    y = [suffixed(net.nodes[loss.policy].model, outputs[loss.policy], end) for end in ("_pre", "_post")]
    sums = {
        "normaliser_post": (DIMENSIONLESS, f"exp({y[0]} - ({y[1]}))"),
        "beaten_post": (DIMENSIONLESS, "int(roll_pre > roll_post)"),
    }
    built.objects["choice"] = gather(built, "choice", loss.policy, loss.policy, sums, SOFTMAX)
    code = [
        f"_weight = {now['step_weight']}",
        "_chosen = int(beaten < 0.5)",
        f"teacher = {now['target']}",
        f"error = _weight*({policy_error(loss)})",
        "earned = _weight*_chosen*(2*teacher - 1)",
        f"score += _weight*({outputs[loss.policy]})",
    ]
    policy.run_regularly("\n".join(code), when="end", order=ERROR, name="choose")
    built.objects["income"] = gather(
        built, "income_sum", loss.policy, loss.value, {"income_post": (DIMENSIONLESS, "earned_pre")}, PURSE
    )
    active = f"int({block.active})*" if block.active else ""
    code = [
        "purse += income",
        f"td = {active}(paid + {loss.discount!r}*({outputs[loss.value]}) - value_before)",
        f"paid = purse*{own['pay']}",
        f"value_before = {outputs[loss.value]}",
        f"error = -{loss.value_cost!r}",
        "loss -= paid",
    ]
    value.run_regularly("\n".join(code), when="end", order=PAID, name="be_paid")
    for name in net.populations:
        if name != loss.value:
            sums = {"td_post": (DIMENSIONLESS, "td_pre")}
            built.objects[f"surprise_{name}"] = gather(built, f"surprise_{name}", loss.value, name, sums, SURPRISE)
