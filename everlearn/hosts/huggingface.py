"""The Hugging Face Trainer keeps its loop; the method rides along."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from everlearn import checkpoint
from everlearn.batch import ANSWERS, unlabeled
from everlearn.method import Method
from everlearn.models.views import average
from everlearn.objective import Objective, ask
from everlearn.streams.experience import Experience


class Continual(Trainer):  # type: ignore[misc]
    """A Trainer whose model learns with a method, one Trainer for each experience.

    `train` begins the experience and ends it; where it is None it does neither. Checkpoints hold the state of the
    method too, that of each process. The pieces of an accumulated batch weigh the same, however many rows they have.
    """

    def __init__(
        self,
        *args: Any,
        method: Method,
        objective: Objective = ask,
        experience: Experience | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.method, self.objective, self.experience = method, objective, experience
        self.model_accepts_loss_kwargs = (
            False  # the loss is a mean: the Trainer divides it by the number of pieces
        )
        for _, module in method.modules():
            module.to(self.args.device)
        self.add_callback(_AfterStep(method))
        for wrong, way_out in (
            (self.args.remove_unused_columns, "remove_unused_columns=False: a memory knows rows by their id"),
            (self.args.fp16, "bf16, or float32: gradients in fp16 are still scaled where a method sees them"),
            (self.args.n_gpu > 1, "one process for each GPU, as torchrun starts them"),
            (self.label_smoother or self.compute_loss_func, "an objective: it alone says what the loss is"),
        ):
            if wrong:
                raise ValueError(
                    f"these settings of the Trainer and a method do not go together; use {way_out}"
                )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Learns the experience, or goes on from a checkpoint within it."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True
        if self.experience is not None:
            self.method.begin(self.model, self.experience, self.objective)
        if isinstance(resume_from_checkpoint, str):
            self.method.load_state_dict(checkpoint.load(self._beside(resume_from_checkpoint)))
        result = super().train(resume_from_checkpoint, **kwargs)
        if self.experience is not None:
            self.method.end(self.model, self.experience, self.objective)
        return result

    def create_optimizer(self, *args: Any) -> Optimizer:
        """An optimizer for the model and for weights of the method."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args)
        if not given and (weights := list(self.method.parameters())):
            optimizer.add_param_group({"params": weights})
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One piece of a batch; after the last one, and before clipping, the method sees the gradients."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            average({str(i): w.grad for i, w in enumerate(self.method.parameters()) if w.grad is not None})
            self.method.before_step(self.model)
        return loss

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The loss of the method while the model trains, that of the objective otherwise."""
        batch = dict(inputs)
        output = self.method(model, batch, self.objective) if model.training else self.objective(model, batch)
        return (output.loss, output) if return_outputs else output.loss

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, *_: Any, **__: Any
    ) -> tuple[Tensor | None, ...]:
        """The loss of the objective, the logits that the method predicts, and the answers."""
        batch = self._prepare_inputs(dict(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.objective(model, batch).loss
            if prediction_loss_only:
                return loss, None, None
            logits = self.method.predict(model, unlabeled(batch), self.objective)
        return loss, logits, next((batch[name] for name in ANSWERS if name in batch), None)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the model, and beside it what the method has learned."""
        super().save_model(output_dir, *args, **kwargs)
        checkpoint.save(self.method.state_dict(), self._beside(output_dir or self.args.output_dir))

    def _beside(self, folder: str) -> Path:
        return Path(folder) / f"method-{self.args.process_index}.checkpoint"


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    def __init__(self, method: Method) -> None:
        self.method = method

    @torch.no_grad()
    def on_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.method.after_step(model)
        for weight in self.method.parameters():
            weight.grad = None  # the Trainer clears those of the model
