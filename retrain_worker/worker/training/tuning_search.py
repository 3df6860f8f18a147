"""SEARCH_TRIALS: further tunings, each suggested by Optuna from the validation log losses of those before it.

The sampler is the tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter Optimization",
NeurIPS 2011). The study is built from the results in the checkpoint for each suggestion, and the sampler's seed follows
from their number: an interrupted training suggests what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain_worker.domain.recipe import Preset, Recipe, Tuning

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution


def suggest(results: Sequence[tuple[Tuning, float | None]], recipe: Recipe, preset: Preset) -> Tuning:
    """A tuning to try next; `results`: tunings that were trained, with validation log loss, None after a collapse.

    What a setting fixes (LEARNING_RATE, DROPOUT, INPUT_NOISE, PATCH_SMOOTHING) stays. Needs the extra `search`.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ranges = {name: bounds for name, bounds in _ranges(preset).items() if getattr(recipe, name) is None}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=recipe.seed + len(results), n_startup_trials=5))
    for tuning, loss in results:
        study.add_trial(
            optuna.trial.create_trial(
                # one without a value counts as worse than every other
                state=optuna.trial.TrialState.PRUNED if loss is None else optuna.trial.TrialState.COMPLETE,
                value=loss,
                params={name: getattr(tuning, name) for name in ranges},
                distributions=dict(ranges),
            )
        )
    found = study.ask(dict(ranges)).params
    return replace(results[0][0], **found)


def _ranges(preset: Preset) -> dict[str, FloatDistribution]:
    from optuna.distributions import FloatDistribution

    return {
        "learning_rate": FloatDistribution(3e-4, 1e-2, log=True),
        "dropout": FloatDistribution(0.0, 0.6),
        "input_noise": FloatDistribution(0.0, 0.3),
        "patch_smoothing": FloatDistribution(0.0, 30.0 if preset is Preset.ENGINE else 3.0),
    }
