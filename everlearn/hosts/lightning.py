"""Lightning keeps its loop; the method rides along."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from everlearn.batch import Batch, unlabeled
from everlearn.method import Method
from everlearn.models import vision_ops
from everlearn.objective import Objective, classify
from everlearn.streams.experience import Experience

vision_ops.mended()
from lightning import LightningModule  # noqa: E402 (it imports torchvision, which must be able to)


class Continual(LightningModule):  # type: ignore[misc]
    """A model that learns with a method, one fit for each experience; loaders give batches, dicts of columns.

        host = Continual(model, method, optimizer=partial(torch.optim.SGD, lr=0.01))
        for host.experience in stream:
            lightning.Trainer(max_epochs=1).fit(host, loader(host.experience))

    A fit begins its `experience` and ends it, even if it stops early; where that is None it does neither. Its
    optimizer is a new one. Checkpoints hold the state of the method too, that of the first process.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        objective: Objective = classify,
        *,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
    ) -> None:
        super().__init__()
        self.model, self.method, self.objective, self.make_optimizer = model, method, objective, optimizer
        self.experience: Experience | None = None
        self.companions = nn.ModuleList(module for _, module in method.modules())  # they go where the model goes

    def setup(self, stage: str) -> None:
        """Begins: on the device of the fit, before the optimizer is made, before a checkpoint is loaded."""
        if stage == "fit" and self.experience is not None:
            self.to(self.trainer.strategy.root_device)
            self.method.begin(self.model, self.experience, self.objective)

    def configure_optimizers(self) -> Optimizer:
        """A new optimizer; after its steps, the method may change the weights."""
        optimizer = self.make_optimizer([weight for weight in self.parameters() if weight.requires_grad])
        after_step = torch.no_grad()(self.method.after_step)
        # The end of a batch would be too late, as checkpoints come before it, and too often: a step may have
        # several batches.
        optimizer.register_step_post_hook(lambda *_: after_step(self.model))
        return optimizer

    def training_step(self, batch: Batch, _: int) -> Tensor | None:
        """The loss of the method."""
        return self.method(self.model, batch, self.objective).loss

    def on_before_optimizer_step(self, _: Optimizer) -> None:
        """Before clipping. A hook of the optimizer would come too early: backward runs inside its step."""
        self.method.before_step(self.model)

    def on_train_end(self) -> None:
        """Ends."""
        if self.experience is not None:
            self.method.end(self.model, self.experience, self.objective)

    def forward(self, batch: Batch) -> Tensor:
        """The logits, as `Trainer.predict` asks for them."""
        return self.method.predict(self.model, unlabeled(batch), self.objective)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the method: tensors and plain values."""
        checkpoint["method"] = self.method.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the method over."""
        self.method.load_state_dict(checkpoint["method"])
        self.method.to(self.device)
