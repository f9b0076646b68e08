"""The training loop: steps, evaluation after epochs, and states from which it goes on at the very next step."""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from greedyprune.data.seeded import mixed_seed
from greedyprune.errors import UserError
from greedyprune.families import family_of
from greedyprune.training.config import RunOptions, TrainOptions
from greedyprune.training.distributed import World, without_sync
from greedyprune.training.ema import Ema
from greedyprune.training.feed import Feed, Part
from greedyprune.training.interrupt import StopSignals
from greedyprune.training.log import TrainLog
from greedyprune.training.optim import load_optimizer, lr_factor, make_optimizer, optimizer_tensors, set_lr
from greedyprune.training.recipes import make_recipe
from greedyprune.training.recipes.base import Moment
from greedyprune.training.state import BEST, LAST, Position, check_settings, read_state, save_state
from greedyprune.training.validation import Validation


class Stopped(Exception):
    """A signal asked to stop; its message says where the state is."""


class Trainer:
    """A training, from the start or from where its folder's state says that it is.

    Args:
        model: the detector; its weights are where a new training starts.
        feed: training batches.
        validation: measures the AP after epochs.
        options: what decides the result.
        run: how it is run; `output_dir` exists.
        world: the processes.
        settings: what else decides the result (model, weights, data), as JSON values to hold against the state's.
        teacher: a detector whose answers are learned, too, such as the dense one; None: labels alone are.

    Raises:
        UserError: the folder holds a training with other settings or a broken state, or the teacher has other queries.
    """

    def __init__(
        self,
        model: nn.Module,
        feed: Feed,
        validation: Validation,
        options: TrainOptions,
        run: RunOptions,
        world: World,
        settings: dict[str, Any],
        teacher: nn.Module | None = None,
    ) -> None:
        self.feed, self.validation, self.options, self.run, self.world = feed, validation, options, run, world
        self.settings = {**options.to_dict(), **settings}
        self.total = options.total_steps(feed.steps_per_epoch)
        self.model = model.to(world.device)
        if run.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = Ema(self.model, options.ema) if options.ema else None
        self.family = family_of(self.model)
        self.recipe = make_recipe(self.model, options, world, teacher)
        self.module = self.recipe.module
        self.optimizer = make_optimizer(self.module, options)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=options.amp == "fp16")
        self.position = self._restore() or Position()
        self.network = self.recipe.network(run.compile)
        self._saved_step = self.position.step
        # Sums of the losses since the last record of the log.
        self._window = torch.zeros(1 + len(self.recipe.logged), device=world.device)
        self._window_steps, self._window_seconds = 0, 0.0
        self._norm = torch.zeros(())

    @property
    def result(self) -> nn.Module:
        """The model to evaluate and keep: averaged where there is an average."""
        return self.ema.model if self.ema else self.model

    def train(self, log: TrainLog | None) -> Position:
        """Go on to the end.

        Args:
            log: of the first process; None in the others.

        Returns:
            The position at the end.

        Raises:
            UserError: the loss or the gradient is not finite, or an image cannot be read.
            Stopped: SIGINT or SIGTERM came; the state is saved.
        """
        with StopSignals() as stop:
            while not self.position.finished:
                self._epoch(log, stop)
                self._end_epoch(log, stop)
        return self.position

    def _epoch(self, log: TrainLog | None, stop: StopSignals) -> None:
        """The steps that are left of the epoch."""
        position, steps = self.position, self.feed.steps_per_epoch
        start = position.step - position.epochs_done * steps
        if start == steps or position.step == self.total:
            return
        self._set_mode()
        mark = time.perf_counter()
        with contextlib.closing(self.feed.steps(position.epochs_done, start)) as stream:
            for parts in stream:
                boxes, stopping = self.world.sum(
                    sum(len(target["labels"]) for _, targets in parts for target in targets), stop.raised
                )
                if stopping:
                    self._save()
                    raise self._stopped()
                if position.step == self.options.norm_frozen_from(steps):
                    self._set_mode()
                factor = lr_factor(position.step, steps, self.options)
                set_lr(self.optimizer, factor)
                self._step(parts, max(boxes, 1) / self.world.size)
                position.step += 1
                if self.ema:
                    self.ema.update(position.step)
                now = time.perf_counter()
                position.seconds += now - mark
                self._window_seconds += now - mark
                mark = now
                if position.step % self.run.log_every == 0:
                    self._log(log, self.options.lr * factor)
                if log:
                    log.advance()
                if position.step == self.total:
                    return
                if position.step % self.run.save_every == 0:
                    self._save()

    def _step(self, parts: list[Part], num_boxes: float) -> None:
        """Forward, backward and update.

        Args:
            parts: what is accumulated.
            num_boxes: targets of the whole step, over the number of processes.
        """
        options, position, device = self.options, self.position, self.world.device
        torch.manual_seed(mixed_seed(options.seed, position.step, self.world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        summed = torch.zeros_like(self._window)
        moment = Moment(position.step, len(parts), num_boxes)
        for index, (images, targets) in enumerate(parts):
            known = [
                {key: target[key].to(device, non_blocking=True) for key in ("labels", "boxes")} for target in targets
            ]
            with without_sync(self.network, skip=index + 1 < len(parts)):
                loss, named = self.recipe.loss(self.network, images, known, moment)
                self.scaler.scale(loss).backward()
            absent = loss.new_zeros(())
            summed += torch.stack([loss, *(named.get(name, absent) for name in self.recipe.logged)]).detach()
        self.scaler.unscale_(self.optimizer)
        self._norm = nn.utils.clip_grad_norm_(self.parameters, options.clip_max_norm or float("inf"))
        self._check_finite(summed[0], parts)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._window += summed
        self._window_steps += 1

    def _check_finite(self, loss: Tensor, parts: list[Part]) -> None:
        """Stop before the weights are touched; the processes agree on it."""
        values = torch.stack((loss, self._norm.to(loss))).tolist()
        finite = [math.isfinite(value) for value in values]
        # With fp16 a gradient that overflows is the scaler's to skip.
        bad = not finite[0] or (not finite[1] and self.options.amp != "fp16")
        if not self.world.sum(bad)[0]:
            return
        ids = [int(target["image_id"]) for _, targets in parts for target in targets]
        everyone = self.world.gather((values, ids if bad else []))
        what = f"loss is {values[0]}" if not finite[0] else f"gradient's norm is {values[1]}"
        raise UserError(
            f"the {what} in step {self.position.step + 1}, epoch {self.position.epochs_done + 1}, images "
            f"{', '.join(str(image) for _, images in everyone for image in images)}; the state of step "
            f"{self._saved_step} in {self.run.output_dir} is untouched; try a lower --lr or another --amp"
        )

    def _end_epoch(self, log: TrainLog | None, stop: StopSignals) -> None:
        """Evaluate if it is time, and save."""
        position, options = self.position, self.options
        number = position.epochs_done + 1
        last = number == options.epochs or position.step == self.total
        record: dict[str, Any] = {"step": position.step, "epoch": number, "seconds": round(position.seconds, 1)}
        if last or (options.eval_every and number % options.eval_every == 0):
            if self._saved_step < position.step:
                self._save()
            started = time.perf_counter()
            accuracy = self.validation.measure(self.result, self._until(stop) if self.world.size == 1 else None)
            if accuracy is not None:
                position.accuracy = accuracy
                record |= {**accuracy, "eval_seconds": round(time.perf_counter() - started, 1)}
                if position.best_ap is None or accuracy["AP"] > position.best_ap:
                    position.best_ap, position.best_epoch = accuracy["AP"], number
                    self.family.save(self.result, self.run.output_dir / BEST)
        position.epochs_done, position.finished = number, last
        if log:
            log.epoch(record)
        self._save()

    def _log(self, log: TrainLog | None, lr: float) -> None:
        """Means over the steps since the last record, of all processes."""
        means = self.world.sum(*(self._window / self._window_steps).tolist())
        speed = self._window_steps * self.options.batch_size / self._window_seconds
        self._window.zero_()
        self._window_steps, self._window_seconds = 0, 0.0
        if not log:
            return
        loss, *parts = (value / self.world.size for value in means)
        named = {name: round(value, 6) for name, value in zip(self.recipe.logged, parts, strict=True)}
        log.step(
            {
                "step": self.position.step,
                "epoch": self.position.epochs_done + 1,
                "loss": round(loss, 6),
                **named,
                "lr": lr,
                "grad_norm": round(float(self._norm), 6),
                "images_per_s": round(speed, 2),
                "seconds": round(self.position.seconds, 1),
            }
        )

    def _set_mode(self) -> None:
        self.network.train()
        frozen_from = self.options.norm_frozen_from(self.feed.steps_per_epoch)
        if frozen_from is not None and self.position.step >= frozen_from:
            for module in self.recipe.normed.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _stopped(self) -> "Stopped":
        return Stopped(f"the state of step {self._saved_step} is in {self.run.output_dir}")

    def _until(self, stop: StopSignals) -> Callable[[Iterable[Any]], Iterator[Any]]:
        """A wrapper that ends an iteration when a signal came; only for after a `_save`."""

        def wrap(items: Iterable[Any]) -> Iterator[Any]:
            for item in items:
                if stop.raised:
                    raise self._stopped()
                yield item

        return wrap

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        parts = {
            "model": _unshared(self.model),
            "optimizer": optimizer_tensors(self.optimizer, self.module),
        }
        parts |= self.recipe.helpers()
        return {**parts, "ema": _unshared(self.ema.model)} if self.ema else parts

    def _save(self) -> None:
        """State and last checkpoint, by the first process."""
        self._saved_step = self.position.step
        if not self.world.main:
            return
        self.position.scaler = self.scaler.state_dict()
        save_state(self.run.output_dir, self.position, self.settings, self._tensors())
        self.family.save(self.result, self.run.output_dir / LAST)

    def _restore(self) -> Position | None:
        found = read_state(self.run.output_dir)
        if found is None:
            return None
        position, settings, tensors = found
        check_settings(settings, self.settings, TrainOptions().to_dict(), self.run.output_dir)
        _load(self.model, tensors["model"])
        load_optimizer(self.optimizer, self.module, tensors.get("optimizer", {}))
        self.recipe.restore(tensors)
        if self.ema:
            _load(self.ema.model, tensors["ema"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(position.scaler)
        return position


def _unshared(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def _load(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, value in _unshared(model).items():
        value.copy_(tensors[name])
