"""transformers' Trainer with our objective, our held-out loss, and checkpoints that a killed run can trust.

Assumptions: the data set is already in training order; the held-out loss (next-token, nats per token, weighted over
domains) decides which weights are best, and those are kept in memory, because adapters are small; a checkpoint counts
only when its `heal.json`, written last, is there and has the hash of every other file as it is.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from evals.progress import Stage
from evals.sealed import tree_hashes
from evals.secrets import redacted
from prune.errors import PruneError
from prune.files import follow_umask, read_sealed, write_sealed
from prune.healing.data import Collator, Split, TrainingSet
from prune.healing.held_out import held_out_loss
from prune.healing.methods import trained_parameters, whole
from prune.healing.objective import batch_losses
from prune.healing.objectives import PARTS
from prune.healing.prefix import SharedPrefix
from prune.healing.settings import HealSettings

log = logging.getLogger("prune")
Track = Callable[[nn.Module], Mapping[str, float]]
"""Scores of the model as it stands, by name: the gate's own tasks, for example."""

MARKER, BEST_WEIGHTS = "heal.json", "best.safetensors"
PREFIX = "checkpoint-"  # Trainer's own name, before the number of steps
SAVE_SECONDS = 600.0  # between checkpoints when save_steps is not given


@dataclass(frozen=True)
class Task:
    """What a run trains on and against.

    Attributes:
        fingerprint: what must be equal for a checkpoint to be resumed, by field name.
        head: the student's output embedding.
        teacher: the original model, on any device; none without distillation or residual matching.
        matches: pairs of hidden states for residual matching.
        prefix: first layers that run once for student and teacher.
        original: held-out loss of the original, nats per token, where it is at hand.
        track: called with the model at every evaluation; what it returns is logged as `eval_<name>`.
    """

    settings: HealSettings
    split: Split
    training_set: TrainingSet
    collator: Collator
    fingerprint: Mapping[str, Any]
    head: nn.Module | None = None
    teacher: nn.Module | None = None
    matches: Sequence[tuple[int, int]] = ()
    prefix: SharedPrefix | None = None
    original: float | None = None
    track: Track | None = None


@dataclass
class Progress:
    """What a checkpoint keeps besides Trainer's own state."""

    best_loss: float = math.inf
    best_step: int = 0
    evaluations_without_gain: int = 0
    seconds: float = 0.0


class HealTrainer(Trainer):
    """One run of healing. After `train()`, `best_weights` holds what was trained, at the best evaluation."""

    def __init__(self, model: nn.Module, task: Task, arguments: TrainingArguments) -> None:
        self.task = task
        self.progress = Progress()
        self.best_weights: dict[str, torch.Tensor] = {}
        self.session_start = time.monotonic()
        self._step_losses: list[torch.Tensor] = []  # of the batches of the step under way, never read before its end
        self._since_log: list[torch.Tensor] = []  # `PARTS` per counted token, one a batch
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=task.training_set,
            eval_dataset=task.split.held_out,  # required by Trainer; our `evaluate` reads the split itself
            data_collator=task.collator,  # type: ignore[arg-type]  # rows are documents, not feature dicts
        )
        if self.is_fsdp_enabled:  # a gathered state dict of adapters cannot be saved, and launchers ask for one
            plugin = self.accelerator.state.fsdp_plugin
            plugin.state_dict_config = plugin.optim_state_dict_config = None  # of the other type
            plugin.set_state_dict_type("SHARDED_STATE_DICT")
        if task.teacher is not None:
            task.teacher.eval().to(self.args.device)
        self.model_accepts_loss_kwargs = True  # Trainer counts the predicted tokens of the accumulated batch
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_StepEvents(self))
        self.training = Stage("training")

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.task.training_set)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate walks every parameter on every batch."""
        return 0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted objective per counted token of the whole accumulated batch of all processes."""
        task = self.task
        with self.accelerator.autocast():  # of the teacher too; accelerate wraps the student only
            losses = batch_losses(
                model,
                inputs,
                task.settings,
                head=task.head,
                teacher=task.teacher,
                matches=task.matches,
                prefix=task.prefix,
            )
        scale = self.accelerator.num_processes / num_items_in_batch
        loss = losses.total * scale
        self._step_losses.append(loss.detach())
        self._since_log.append(torch.stack([losses.parts[name] for name in PARTS]).detach() * scale)  # [parts]
        return (loss, None) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm, read once per optimiser step: the weights must not move on a gradient that is not finite.

        Raises:
            PruneError: loss or gradient is not finite; a checkpoint with the weights before this step is written first.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not math.isfinite(float(norm)):
            self._stop_on_non_finite(float(norm))
        self._step_losses.clear()
        return norm

    def _stop_on_non_finite(self, norm: float) -> None:
        # The norm is that of the gradient summed over processes, so all of them arrive here together.
        settings, step, processes = self.task.settings, self.state.global_step, self.accelerator.num_processes
        losses = self.accelerator.gather(torch.stack(self._step_losses)).view(processes, -1).T.flatten()  # [batches]
        rows, first = settings.per_device_train_batch_size, step * len(losses)  # batches are dealt to processes in turn
        bad = [i for i, finite in enumerate(losses.isfinite().tolist()) if not finite]
        begin, end = (first + bad[0], first + bad[0] + 1) if bad else (first, first + len(losses))
        value = f"loss is {losses[bad[0]].item()}" if bad else f"gradient norm is {norm}"
        what = f"the {value} on batch {end}" if end == begin + 1 else f"the {value} on batches {begin + 1} to {end}"
        documents = self.task.training_set.describe(begin * rows, end * rows)
        self._save_checkpoint(self.model, trial=None)
        raise PruneError(
            f"healing stopped at step {step + 1} of {settings.max_steps}: {what} ({documents}); the weights before "
            f"this step are kept in {self.checkpoint_directory()}; lower learning_rate, or check those documents"
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Held-out loss per domain, its weighted mean (`eval_loss`) and the tracked tasks; keeps the best weights."""
        with self.compute_loss_context_manager():
            held_out = held_out_loss(
                self.model, self.task.head, self.task.split, self.task.settings, self.task.collator.pad_token_id
            )
        if not math.isfinite(held_out.loss):
            self._stop_on_bad_evaluation(held_out.by_domain)
        metrics = held_out.metrics()
        if self.task.track is not None:
            scores = self.task.track(self.model)  # a perplexity may overflow, which no JSON holds
            metrics |= {f"eval_{name}": value for name, value in scores.items() if math.isfinite(value)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[has-type]
        self._keep_if_best(held_out.loss)
        return metrics

    def _stop_on_bad_evaluation(self, by_domain: Mapping[str, float]) -> None:
        step, bad = self.state.global_step, [name for name, value in by_domain.items() if not math.isfinite(value)]
        what = f"the held-out loss of {', '.join(bad)} is not finite"
        if step == 0:
            raise PruneError(f"{what} before any training: the pruned model is broken; check its weights")
        self._save_checkpoint(self.model, trial=None)
        raise PruneError(
            f"healing stopped after step {step}: {what}; the best weights so far (step {self.progress.best_step}) are "
            f"kept in {self.checkpoint_directory() / BEST_WEIGHTS}; lower learning_rate"
        )

    def _keep_if_best(self, loss: float) -> None:
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.state.global_step
            self.progress.evaluations_without_gain = 0
            self.best_weights = {name: whole(p) for name, p in trained_parameters(self.model).items()}
        else:
            self.progress.evaluations_without_gain += 1
        patience = self.task.settings.early_stopping_patience
        if patience is not None and self.progress.evaluations_without_gain >= patience:
            self.control.should_training_stop = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the training loss (mean since the last log) and the seconds spent so far."""
        if "loss" in logs and self._since_log:
            steps = len(self._since_log) / self.args.gradient_accumulation_steps
            sums = self.accelerator.reduce(torch.stack(self._since_log).sum(0), "mean")  # [parts]
            parts = (sums / steps).tolist()
            logs |= {f"{name}_loss": value for name, value in zip(PARTS, parts, strict=True)}
            self._since_log.clear()
        logs["seconds"] = round(self.seconds(), 3)
        said = step_in_words(logs, self.state.global_step, self.args.max_steps, self.task.original)
        if said and self.is_world_process_zero():
            log.info("%s", said)
        super().log(logs, start_time)

    def seconds(self) -> float:
        """Wall time of this run and the runs it resumes."""
        return self.progress.seconds + time.monotonic() - self.session_start

    def checkpoint_directory(self) -> Path:
        """Where a checkpoint of the current step lies."""
        return Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        directory = self.checkpoint_directory()
        if self.args.should_save:  # a damaged one that was passed over: peft would read its card
            shutil.rmtree(directory, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # the record has the files of all processes
            if self.args.should_save:
                save_file({n: w.contiguous() for n, w in self.best_weights.items()}, directory / BEST_WEIGHTS)
                follow_umask(directory / BEST_WEIGHTS)
        except (SafetensorError, RuntimeError) as error:  # how safetensors and torch say that the disk is full
            raise PruneError(
                f"{directory}: the checkpoint cannot be written ({error}); free space there, and go on with "
                "--resume_from_checkpoint from the one before, if any"
            ) from error
        if self.args.should_save:
            progress = {**vars(self.progress), "seconds": self.seconds()}
            progress["best_loss"] = progress["best_loss"] if self.best_weights else None
            (directory / MARKER).unlink(missing_ok=True)
            files = tree_hashes(directory)
            record = {"fingerprint": dict(self.task.fingerprint), "progress": progress, "files": files}
            write_sealed(directory / MARKER, record)

    def resume_state(self, checkpoint: Path) -> None:
        """Read what `_save_checkpoint` added; call before `train(resume_from_checkpoint=...)`."""
        progress = read_sealed(checkpoint / MARKER)["progress"]
        self.best_weights = load_file(checkpoint / BEST_WEIGHTS)
        if not self.best_weights:
            progress["best_loss"] = math.inf
        self.progress = Progress(**progress)


def step_in_words(logs: Mapping[str, float], step: int, steps: int, original: float | None = None) -> str:
    """One line for what Trainer logs of a step, with units; nothing for its summary at the end.

    Args:
        original: held-out loss of the original, to be read beside the model's.
    """
    parts = [f"healing: step {step} of {steps}"]
    if "eval_loss" in logs:
        domains = [
            f"{name.removeprefix('eval_').removesuffix('_loss')} {value:.4f}"
            for name, value in logs.items()
            if name.startswith("eval_") and name.endswith("_loss") and name != "eval_loss"
        ]
        beside = "" if original is None else f"; the original {original:.4f}"
        of_each = f" ({', '.join(domains)})" if domains else ""
        parts.append(f"held-out loss {logs['eval_loss']:.4f} nats/token{of_each}{beside}")
    elif "loss" in logs:
        named = [f"{name.replace('_', ' ')} {logs[f'{name}_loss']:.4f}" for name in PARTS if logs.get(f"{name}_loss")]
        parts.append(f"loss {logs['loss']:.4f} nats/token" + (f" ({', '.join(named)})" if len(named) > 1 else ""))
        parts.append(f"learning rate {logs.get('learning_rate', 0.0):.2e}")
        parts.append(f"gradient norm {logs.get('grad_norm', 0.0):.3g}")
    else:
        return ""
    return ", ".join([*parts, f"{logs['seconds']:.0f} s"])


class _StepEvents(TrainerCallback):
    """At the end of a step, ask for a checkpoint when the last one is old."""

    def __init__(self, trainer: HealTrainer) -> None:
        self.trainer = trainer
        self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.training.at(state.global_step)
        if self.trainer.task.settings.save_steps is not None:
            return
        due = torch.tensor([float(time.monotonic() - self.saved >= SAVE_SECONDS)], device=args.device)  # [1]
        if args.world_size > 1:
            due = broadcast(due)  # every process must take part in a checkpoint
        if due.item():
            control.should_save = True
            self.saved = time.monotonic()


def checkpoint_of(directory: Path, fingerprint: Mapping[str, Any]) -> Path | None:
    """The whole checkpoint of the highest step of this run, if any; those of earlier, other runs may lie beside it.

    One that was altered since it was written is named in a warning and passed over.

    Raises:
        PruneError: there are only checkpoints of other settings, data or models; names the first field that differs.
    """
    complete = [p.parent for p in directory.glob(f"{PREFIX}*/{MARKER}") if p.parent.name[len(PREFIX) :].isdecimal()]
    refusal = ""
    for checkpoint in sorted(complete, key=lambda p: int(p.name[len(PREFIX) :]), reverse=True):
        try:
            record = read_sealed(checkpoint / MARKER)
            difference = _difference(record["fingerprint"], fingerprint)
            if not difference:
                _require_whole(checkpoint, record["files"])
                return checkpoint
        except (ValueError, OSError) as error:
            log.warning("%s: damaged (%s); an earlier checkpoint is used, or training starts afresh", checkpoint, error)
            continue
        refusal = refusal or f"cannot resume {checkpoint}: {difference}; restore it, or start afresh without resuming"
    if refusal:
        raise PruneError(refusal)
    return None


def _require_whole(checkpoint: Path, files: Mapping[str, str]) -> None:
    """Every file as it was written; ValueError names the first that is not."""
    found = {name: digest for name, digest in tree_hashes(checkpoint).items() if name != MARKER}
    for name in sorted(files.keys() | found.keys()):
        if found.get(name) != files.get(name):
            raise ValueError(f"{name} is {'missing' if name not in found else 'not as it was written'}")


def _difference(stored: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> str:
    """The first field in which a checkpoint is of another run; empty if it is of this one."""
    now = json.loads(json.dumps(redacted(dict(fingerprint))))  # as it was written
    fields = (f for f in sorted(stored.keys() | now.keys()) if stored.get(f) != now.get(f))
    return next((f"{f} was {stored.get(f)!r} and is {now.get(f)!r}" for f in fields), "")


def remove_checkpoints(directory: Path) -> None:
    """Remove what only a resumed run needs; what a tracker wrote beside it stays."""
    for checkpoint in directory.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for folder in (directory, directory.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
