"""Which runs there are, and which of them a worker does next."""

import itertools
import operator
import secrets

from sda.sweep import space, workers
from sda.sweep.space import Range
from sda.sweep.studies import (
    ATTEMPTS,
    claim,
    counted,
    facts_of,
    is_lost,
    load_optuna,
    point,
    quiet,
    state,
)


class Points:
    """The points of a sweep, each the values of the settings that vary in one run.

    They are planned, or each is drawn when its turn comes, from what the others gave.

    Args:
        vary: Dictionary, the space: see `space.checked_space`.
        plan: List of the points, or None where they are drawn.
        trials: Integer, how many are drawn.
    """

    def __init__(self, vary, plan, trials):
        self.vary = vary
        self.plan = plan
        self.trials = trials

    @classmethod
    def combined(cls, vary):
        """Return all combinations of values."""
        names, lists = list(vary), list(vary.values())
        plan = [dict(zip(names, values, strict=True)) for values in itertools.product(*lists)]
        return cls(vary, plan, len(plan))

    @classmethod
    def random(cls, vary, trials, sampler):
        """Return so many points of a sampler that needs no results, the same in every worker."""
        optuna = load_optuna()
        with quiet(optuna):
            study = optuna.create_study(sampler=sampler)
        distributions = space.distributions(vary)
        plan = [space.decoded(study.ask(distributions).params) for _ in range(trials)]
        return cls(vary, plan, trials)

    def examples(self):
        """Return points that have each value, and each two, and those with each value once.

        Of a plan, the first are all of its points. Of a range, the values are its ends.
        """
        if self.plan is not None:
            points, checked = self.plan, []
            for name, values in self.vary.items():
                if isinstance(values, Range):
                    found = [f(points, key=operator.itemgetter(name)) for f in (min, max)]
                else:
                    found = [next((p for p in points if p[name] == v), None) for v in values]
                checked += [p for p in found if p is not None and p not in checked]
            return points, checked
        ends = {
            name: [values.low, values.high] if isinstance(values, Range) else values
            for name, values in self.vary.items()
        }
        first = {name: values[0] for name, values in ends.items()}
        each = [(name, value) for name, values in ends.items() for value in values]
        points = [first, *(first | dict(pair) for pair in itertools.combinations(each, 2))]
        return points, [first | {name: value} for name, value in each]

    def ask(self, study, watch):
        """Return a trial for this worker, or None if there is none to be had.

        A point of the sweep is an index of the plan, or where nothing is planned the number of the
        trial that was first there; it is left to do as long as each trial of it was lost.
        """
        while True:
            watch.bury(study)
            trials = counted(study)
            lost = [t for t in trials if is_lost(t)]
            live = {point(t) for t in trials if not is_lost(t)}
            deaths = [point(t) for t in lost if "interrupted" not in facts_of(t)]
            live |= {p for p in deaths if deaths.count(p) >= ATTEMPTS}
            if self.plan is not None:
                points = enumerate(map(space.encoded_all, self.plan))
            else:
                # One whose worker died before it had drawn all values is drawn anew.
                points = ((point(t), t.params) for t in lost if set(t.params) == set(self.vary))
            missing = {p: params for p, params in points if p not in live}
            if missing:
                # In order; where others choose at the same time, not all the same.
                others = sum(t.state.name == "RUNNING" for t in trials)
                p = secrets.choice(list(missing)[: others + 1])
                asked = claim(study, p, missing[p], space.distributions(self.vary), workers.me())
            elif self.plan is None and len(live) < self.trials:
                asked = study.ask(space.distributions(self.vary))
            else:
                return None
            if self._is_needed(study, asked):
                return asked
            asked.set_user_attr("withdrawn", True)
            study.tell(asked, state=state("FAIL"), skip_if_finished=True)

    def _is_needed(self, study, asked):
        """Return whether nobody was quicker: a trial with a lower number was there before."""
        others = [t for t in counted(study) if t.number != asked.number and not is_lost(t)]
        mine = asked.user_attrs.get("point", asked.number)
        for other in others:
            if point(other) == mine and (other.state.is_finished() or other.number < asked.number):
                return False
        if self.plan is None:
            if len({point(t) for t in others if t.number < asked.number} - {mine}) >= self.trials:
                return False
            if any(t.params == asked.params for t in others):
                # Another worker began with the same seed.
                study.sampler.reseed_rng()
        return True
