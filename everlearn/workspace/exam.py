"""How well a model does on data: no run, and nothing is written."""

from dataclasses import dataclass

from everlearn.learner import Learner
from everlearn.metrics.evaluate import Result
from everlearn.models.report import Report
from everlearn.workspace.arrivals import load_questions
from everlearn.workspace.config import Config
from everlearn.workspace.model import check_answers, load_model, outputs_of
from everlearn.workspace.strategies import settle
from everlearn.workspace.training import make_optimizer, make_view, use_machine


@dataclass(frozen=True)
class Exam:
    """What came out of an examination."""

    loaded: Report | None
    """Of the weights."""
    result: Result
    unknown: tuple[str, ...]
    """The classes of the data that the model does not answer for: each of their rows counts as a wrong answer."""


def examine(config: Config) -> Exam:
    """The model of `config` is asked about all rows of its data."""
    use_machine(config)
    config = settle(config)
    loaded = load_model(config)
    model = loaded.model
    rows, classes, known = load_questions(config, outputs_of(model, config), loaded)
    learner = Learner(
        model,
        objective=loaded.objective(config.task),
        optimizer=make_optimizer(config.optimizer, model, config.head),  # it is never stepped
        view=make_view(config, rows, loaded),
        device=config.device,
    )
    check_answers(config, learner, rows)
    about = {"names": classes} if config.task == "classification" else {"kind": "error"}
    return Exam(loaded.report, learner.evaluate(rows, batch_size=config.batch_size, **about), classes[known:])
