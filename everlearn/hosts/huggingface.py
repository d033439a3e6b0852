"""The Hugging Face Trainer keeps its loop; the method rides along."""

from typing import Any

import torch
from torch import Tensor, nn

from everlearn import checkpoint
from everlearn.batch import ANSWERS, unlabeled
from everlearn.method import Method
from everlearn.models import vision_ops
from everlearn.objective import Objective, ask
from everlearn.streams.experience import Experience

vision_ops.mended()
from transformers import Trainer, TrainerCallback  # noqa: E402 (it imports torchvision, which must be able to)


class Continual(Trainer, TrainerCallback):  # type: ignore[misc]
    """A Trainer, listening to itself, whose model learns with a method: one Trainer for each experience.

    `train` begins its `experience` and ends it; where that is None it does neither. Checkpoints hold the state
    of the method too, of each process. The pieces of an accumulated batch weigh the same, whatever their size.
    """

    def __init__(self, *args: Any, method: Method, objective: Objective = ask, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method, self.objective = method, objective
        self.experience: Experience | None = None
        self.model_accepts_loss_kwargs = False  # the loss is a mean, to be divided by the number of pieces
        self.add_callback(self)
        # Without ids a memory would take the rows of each epoch for new ones; scaled gradients would mislead a method;
        # the Trainer clears and averages the gradients of the model only; the objective alone says what the loss is.
        columns, other_loss = self.args.remove_unused_columns, self.label_smoother or self.compute_loss_func
        if columns or other_loss or self.args.fp16 or self.args.n_gpu > 1 or any(method.modules()):
            raise ValueError(
                "with a method the Trainer must have remove_unused_columns=False, bf16 instead of fp16, no loss beside "
                f"the objective, a process for each GPU, and the method no weights of its own, but this is {method}"
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Learns the experience, or goes on from a checkpoint within it."""
        if self.experience is not None:
            self.method.begin(self.model, self.experience, self.objective)
        result = super().train(*args, **kwargs)
        if self.experience is not None:
            self.method.end(self.model, self.experience, self.objective)
        return result

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The loss of the method."""
        output = self.method(model, dict(inputs), self.objective)
        return (output.loss, output) if return_outputs else output.loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One piece of a batch. After the last one, and before clipping, the method sees the gradients."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.method.before_step(self.model)
        return loss

    @torch.no_grad()
    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """After the step, the method may change the weights."""
        self.method.after_step(self.model)

    def prediction_step(self, model: nn.Module, inputs: Any, prediction_loss_only: bool, **_: Any) -> Any:
        """The loss of the objective, the logits that the method predicts, and the answers."""
        batch = self._prepare_inputs(dict(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.objective(model, batch).loss
            logits = None if prediction_loss_only else self.method.predict(model, unlabeled(batch), self.objective)
        return loss, logits, next((batch[name] for name in ANSWERS if name in batch), None)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the model, and beside it what the method has learned."""
        super().save_model(output_dir, *args, **kwargs)
        checkpoint.save(self.method.state_dict(), self._beside(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, folder: str, *args: Any) -> None:
        super()._load_from_checkpoint(folder, *args)
        self.method.load_state_dict(checkpoint.load(self._beside(folder)))
        self.method.to(self.args.device)

    def _beside(self, folder: str) -> str:
        return f"{folder}/method-{self.args.process_index}.checkpoint"
