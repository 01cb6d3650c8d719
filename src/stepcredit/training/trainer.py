"""The `transformers.Trainer` for all methods; the config selects the method."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers.trainer_utils import EvalLoopOutput

from stepcredit.episodes.turns import TurnEnds
from stepcredit.errors import InputError
from stepcredit.models.actor_critic import POLICY, ActorCriticOutput
from stepcredit.models.bodies.cpu_linear import onednn_linears
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.checks import check_ids
from stepcredit.models.first_use import settle
from stepcredit.models.loading import stopping
from stepcredit.training.batching import Collator, even, sampler_of, weight_of
from stepcredit.training.build_models import build_actor_critic, note_text_prompts, tokenizer_of
from stepcredit.training.data import TrainingData, prepare
from stepcredit.training.methods import LossTerms, Method, ObjectiveInputs, method_of
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.optimizer_step.finite import Finding, FiniteCheck, nonfinite_flags, stop_at
from stepcredit.training.optimizer_step.objective_inputs import Batch, metrics_of, objective_inputs, rows_of, split_rows
from stepcredit.training.optimizer_step.optimizers import delay, parameter_groups, trainable
from stepcredit.training.optimizer_step.totals import Totals
from stepcredit.training.optimizer_step.value_updates import AroundOptimizerStep, ValueUpdates
from stepcredit.training.precompute import Precomputed
from stepcredit.training.resuming.resumable_trainer import ResumableTrainer
from stepcredit.training.sharding import check_sharding

_logger = logging.getLogger(__name__)


class OfflineTrainer(ResumableTrainer):
    """Trains a policy, and the value function where the method has one, on scored episodes.

    Args:
        model: the policy: a name, a folder, or a causal language model.
        value_model: a name, a folder, or a token-classification model (`load_value_model`); None: a float32 copy of the
            policy with a zero-initialised head, where the method needs one.
        ref_model: the reference; None: a frozen copy of the policy, or the policy with its adapter disabled.
        args: the config of a method (`OREOConfig`, …); it selects the method.
        data_collator: by default `training.batching.Collator`, which pads on the right.
        train_dataset, eval_dataset: episodes (`load_episodes`), or rows with prompt, completion and
            reward | label.
        processing_class: the tokenizer; None: the policy's own.
        peft_config, value_peft_config: PEFT configs of policy and value model.
        compute_metrics, callbacks, optimizers: as in `transformers.Trainer`.

    Raises:
        InputError: an argument or an episode is invalid; the message names it.
    """

    def __init__(
        self,
        model: Any,
        value_model: Any | None = None,
        ref_model: Any | None = None,
        args: OfflineConfig | None = None,
        data_collator: Any | None = None,
        train_dataset: Any | None = None,
        eval_dataset: Any | None = None,
        processing_class: Any | None = None,
        compute_metrics: Any | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any | None = None,
        value_peft_config: Any | None = None,
    ) -> None:
        if args is None:
            raise InputError("a config is needed, it picks the method; for example OREOConfig(output_dir=…)", "args")
        self.method: Method = method_of(args)
        tokenizer = with_chat_template(
            processing_class or tokenizer_of(model, args), args.chat_template, args.merge_system_message
        )
        actor_critic = build_actor_critic(model, value_model, ref_model, args, tokenizer, peft_config,
                                          value_peft_config)  # fmt: skip
        self.ends: TurnEnds = stopping(actor_critic.policy, tokenizer)
        self._totals = Totals()
        self._step_statistics: Tensor | None = None  # of the current optimizer step, see Method.step_statistics
        self._latest: Batch | None = None  # the last micro-batch
        self._grad_norms: dict[str, float] = {}
        self._settled = False
        self.notes: list[str] = []
        self._needs = {"needs_reference": self.method.needs_reference, "needs_kl": self.method.needs_kl(args)}
        super().__init__(
            model=actor_critic,
            args=args,
            data_collator=data_collator or Collator(tokenizer.pad_token_id, args.share_prompts),
            train_dataset=self._prepare(train_dataset, tokenizer, args, actor_critic.policy),
            eval_dataset=self._prepare(eval_dataset, tokenizer, args, actor_critic.policy),
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        check_sharding(self.accelerator, args)
        self._finite = FiniteCheck(self.accelerator)
        note_text_prompts(actor_critic.policy, tokenizer, self.train_dataset, self._say)
        further = getattr(args, "value_updates_per_step", 1) - 1
        self._value_updates = ValueUpdates(further, self.method, args, self.accelerator)
        if further:
            self.add_callback(AroundOptimizerStep(self._value_updates.clear, self._update_value))
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True  # over the whole step, see compute_loss

    def _prepare(self, dataset: Any, tokenizer: Any, args: OfflineConfig, policy: Any) -> Any:
        if dataset is None or isinstance(dataset, TrainingData):
            return dataset
        data = prepare(dataset, tokenizer, args, self.method, self.ends)
        check_ids((trajectory.ids for trajectory in data.trajectories), policy, "train_dataset")
        return data

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; `resume_from_checkpoint=True` resumes from the newest whole checkpoint of this run if there is one.

        A run that resumes at its end loads the models, and trains no further.

        Raises:
            InputError: the checkpoint is damaged, or of another run.
            NotFiniteError: the loss, the gradient, V or the weights of a step are not finite. Nothing of that step is
                saved; earlier checkpoints stay.
        """
        if self.train_dataset is None:
            raise InputError("training needs episodes", "train_dataset")
        checkpoint = self.checkpoint_for(resume_from_checkpoint)
        self._totals, self._step_statistics = Totals(), None
        self._latest, self._finite = None, FiniteCheck(self.accelerator)
        if checkpoint is not None and self.is_at_end(checkpoint):
            result = self.load_end(checkpoint)
        else:
            self._precompute(self.train_dataset, self.eval_dataset)
            self._before_sharding(checkpoint)
            result = super().train(checkpoint, *args, **kwargs)
        self._step_statistics = None
        self._check_models()
        return result

    # ---- loss -------------------------------------------------------------------------------------

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Makes the gradients of a micro-batch."""
        models = self.accelerator.unwrap_model(self.model)
        with onednn_linears(models.bodies.values()) if models.onednn else nullcontext():
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any | None = None,
    ) -> Any:
        """Returns the loss terms summed over the micro-batch and divided by the size of the optimizer step.

        `num_items_in_batch` counts items or action tokens (`Method.per`) over all micro-batches and processes, so
        the gradient does not depend on how a step is split into micro-batches.
        """
        weight = weight_of(inputs)
        size = num_items_in_batch if num_items_in_batch is not None else self._items([inputs]).clamp(min=1)
        scale = weight * (self.accelerator.num_processes if model.training else 1) / size
        statistics = self._step_statistics
        if statistics is None:
            statistics = self._compute_step_statistics([inputs])
        rows = split_rows(inputs, self.method.batch_layout)[0]
        if model.training:
            self._value_updates.begin(rows, scale)

        def objective(output: ActorCriticOutput, part: slice) -> Tensor:
            """Returns the summed loss of the rows of a part, and keeps what the step needs of them."""
            of_part = rows_of(rows, part)
            inputs_of_part = objective_inputs(output, of_part, statistics)
            terms = self.method.terms(inputs_of_part, self.args)
            if model.training:
                self._value_updates.keep(part, output.statistics)
                self._finite.add(nonfinite_flags(inputs_of_part, of_part["prompt_id"], len(terms.policy), terms))
            self._totals.add(metrics_of(self.method, terms, inputs_of_part), weight)
            return terms.policy.sum() if terms.value is None else terms.policy.sum() + terms.value.sum()

        if self.method.batch_layout.rows_per_item == 1:
            loss = self._run(model, rows, objective) * scale
        else:
            loss = objective(self._run(model, rows), slice(0, None)) * scale
        if model.training:
            self._latest = inputs
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _terms(self, model: nn.Module, inputs: Batch) -> tuple[LossTerms, ObjectiveInputs]:
        """Computes the loss terms of a batch and the objective inputs they are computed from."""
        statistics = self._compute_step_statistics([inputs])
        rows = split_rows(inputs, self.method.batch_layout)[0]
        of_rows = objective_inputs(self._run(model, rows), rows, statistics)
        return self.method.terms(of_rows, self.args), of_rows

    def _run(self, model: nn.Module, rows: Batch, objective: Any = None) -> Any:
        """Returns the output of the models, or the loss if there is an objective, which adds up over rows."""
        if not self._settled:
            self._settled = True
            models = self.accelerator.unwrap_model(self.model)
            self._say(*models(rows, instead=lambda: settle(models, rows, self.args.head, self._needs)))
        return model(rows, **self._needs, objective=objective)

    def _say(self, *notes: str) -> None:
        """Logs what was decided at run time; `run.json` has it too."""
        for note in notes if self.args.process_index == 0 else ():
            self.notes.append(note)
            _logger.info(note)

    def _compute_step_statistics(self, batches: Iterable[Batch]) -> Tensor | None:
        """Sums `Method.step_statistics` over batches and processes; None where the method has none."""
        statistics_of = self.method.step_statistics
        if statistics_of is None:
            return None
        with self._without_gradient() as model:
            parts = (split_rows(self._prepare_inputs(batch), self.method.batch_layout)[1] for batch in batches)
            statistics = [
                statistics_of(objective_inputs(self._run(model, rows), rows)) * weight_of(rows) for rows in parts
            ]
        sums: Tensor = self.accelerator.reduce(torch.stack(statistics).sum(0), "sum")
        return sums

    def _items(self, batches: list[dict[str, Any]]) -> Tensor:
        rows = self.method.batch_layout.rows_per_item
        counts = [
            torch.tensor(len(b["input_ids"]) // rows)
            if self.method.per == "item"
            else split_rows(b, self.method.batch_layout)[0]["action_mask"].sum()
            for b in batches
        ]
        weights = [int(weight_of(b)) for b in batches]
        return torch.stack([n.to(self.args.device) * w for n, w in zip(counts, weights, strict=True)]).sum()

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Returns the micro-batches of an optimizer step and its size; computes the step statistics."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_statistics = self._compute_step_statistics(batches) if batches else None
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if not batch_samples:
            return None
        return self.accelerator.gather(self._items(batch_samples).to(device)).sum()

    # ---- data -------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        return sampler_of(dataset.items, self.args, self.args.train_batch_size, self.args.world_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        sampler = SequentialSampler(eval_dataset)
        return even(sampler, eval_dataset.items, self.args.eval_batch_size, self.args.world_size)

    def _precompute(self, *datasets: TrainingData | None) -> None:
        """Computes what frozen weights compute on these datasets, where the config says so."""
        if not self.args.precomputes:
            return
        collator = self.data_collator
        if not isinstance(collator, Collator):
            raise InputError("must be a Collator, which adds what is precomputed", "data_collator")
        models = self.accelerator.unwrap_model(self.model)
        if collator.precomputed is None:
            collator.precomputed = Precomputed.of_run(
                models, self.args, **self._needs, autocast=self.accelerator.autocast
            )
        home = models.policy.device
        models.to(self.args.device)  # where they are not yet, because they will be sharded
        with self.accelerator.main_process_first():
            collator.precomputed.compute([data.items for data in datasets if data is not None])
        models.to(home)
        self._say(collator.precomputed.describe())

    # ---- optimizer --------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """Creates the optimizer with one parameter group per model, each with its own learning rate."""
        if getattr(self, "optimizer", None) is None:
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            parts = self.accelerator.unwrap_model(model if model is not None else self.model).parts()
            self.optimizer = optimizer_class(parameter_groups(parts, self.args), **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Creates the schedule of `TrainingArguments`; the policy's rate is 0 for the first `value_warmup_steps`."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        delay(scheduler, POLICY, getattr(self.args, "value_warmup_steps", 0))
        return scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clips the gradients of policy and value model separately; returns their joint norm."""
        limit = self.args.max_grad_norm or float("inf")
        groups = trainable(self.accelerator.unwrap_model(model).parts())
        if self.is_deepspeed_enabled:  # it has clipped all gradients together, and knows no other norm
            groups = {"all": []}
        found = {name: self.accelerator.clip_grad_norm_(group, limit) for name, group in groups.items()}
        norms = {name: torch.zeros((), device=self.args.device) if n is None else n for name, n in found.items()}
        self._grad_norms = {f"grad_norm/{name}": float(norm) for name, norm in norms.items()}
        self._stop(self._finite.step({name: float(norm) for name, norm in norms.items()}), self.state.global_step + 1)
        joint_norm: Tensor = torch.stack([torch.as_tensor(norm) for norm in norms.values()]).norm()
        return joint_norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return self._clip_grad_norm(model) if grad_norm is None else grad_norm

    def _update_value(self) -> None:
        """Makes the further updates of the value model of this step."""
        finding = self._value_updates.run(self.accelerator.unwrap_model(self.model), self.optimizer)
        self._stop(finding, self.state.global_step + 1)

    # ---- finite numbers ---------------------------------------------------------------------------

    def _stop(self, finding: Finding | None, step: int) -> None:
        stop_at(finding, step, self.args.output_dir)

    def _check_models(self) -> None:
        """Checks that all weights, and the outputs on the last micro-batch, are finite.

        Raises:
            NotFiniteError: they are not; the message names the step, the number and the prompts.
        """
        self._stop(self._finite.weights(self.accelerator.unwrap_model(self.model).parts()), self.state.global_step)
        if self._latest is not None:
            rows = split_rows(self._latest, self.method.batch_layout)[0]
            items = len(self._latest["input_ids"]) // self.method.batch_layout.rows_per_item
            with self._without_gradient() as model:
                of_rows = objective_inputs(self._run(model, rows), rows)
                flags = nonfinite_flags(of_rows, rows["prompt_id"], items)
            self._stop(self._finite.outputs([flags]), self.state.global_step)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the models into a checkpoint or `output_dir` (see `_save`).

        Raises:
            NotFiniteError: a weight or output is not finite; nothing is saved.
        """
        self._check_models()
        super().save_model(output_dir, _internal_call)

    @contextmanager
    def _without_gradient(self) -> Iterator[nn.Module]:
        """Yields the model in eval mode, without gradients."""
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                yield model
        finally:
            model.train(was_training)

    # ---- metrics ----------------------------------------------------------------------------------

    def _numbers(self) -> dict[str, float]:
        """Returns the metrics since the last log, over all processes, and resets them."""
        totals, self._totals = self._totals, Totals()
        return totals.numbers(lambda sums: self.accelerator.reduce(sums, "sum"))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the training metrics since the last log."""
        if self._totals and ("loss" in logs or "train_loss" in logs):
            logs = {**logs, **self._numbers(), **self._grad_norms}
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluates loss and metrics over a dataset, independently of how it is batched."""
        self._precompute(dataloader.dataset)
        training, self._totals = self._totals, Totals()
        self._step_statistics = self._compute_step_statistics(dataloader)
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        metrics = self._numbers()
        self._totals, self._step_statistics = training, None
        metrics["loss"] = metrics.get("loss/policy", math.nan) + metrics.get("loss/value", 0.0)
        output.metrics.update({f"{metric_key_prefix}_{name}": number for name, number in metrics.items()})
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, None, None]:
        """Adds the metrics of one evaluation batch, the loss among them."""
        with torch.no_grad():
            self.compute_loss(model, self._prepare_inputs(inputs))
        return None, None, None
