"""The `transformers.Trainer` for all methods; the config selects the method."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from stepcredit.episodes.alignment import add_bootstrap_value, at_states
from stepcredit.episodes.turns import TurnEnds
from stepcredit.errors import InputError, NotFiniteError
from stepcredit.models.action_statistics import action_statistics
from stepcredit.models.actor_critic import POLICY, VALUE
from stepcredit.models.chat_templates import with_chat_template
from stepcredit.models.checks import check_ids
from stepcredit.models.loading import stopping
from stepcredit.objectives.sums import Sums, count, mean, mean_of, spread_of, total
from stepcredit.training.batching import Collator, LengthSortedSampler
from stepcredit.training.build_models import build_actor_critic, tokenizer_of
from stepcredit.training.checkpoints import check_state, last_checkpoint, readable
from stepcredit.training.configs import OfflineConfig
from stepcredit.training.data import TrainingData, prepare
from stepcredit.training.finite import Finding, FiniteCheck, nonfinite_flags
from stepcredit.training.methods import LossTerms, Method, ObjectiveInputs, method_of
from stepcredit.training.totals import Totals

Batch = dict[str, Any]
"""The fields of `episodes.alignment.Batch` by name."""


class OfflineTrainer(Trainer):
    """Trains a policy, and the value function where the method has one, on scored episodes.

    Args:
        model: the policy: a name, a folder, or a causal language model.
        value_model: a name, a folder, or a token-classification model with one label; None: a float32 copy of the
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
        super().__init__(
            model=actor_critic,
            args=args,
            data_collator=data_collator or Collator(tokenizer.pad_token_id),
            train_dataset=self._prepare(train_dataset, tokenizer, args, actor_critic.policy),
            eval_dataset=self._prepare(eval_dataset, tokenizer, args, actor_critic.policy),
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self._finite = FiniteCheck(self.accelerator)
        self.loss_is_scaled_for_ga = True  # normalised over the whole optimizer step, see compute_loss

    def _prepare(self, dataset: Any, tokenizer: Any, args: OfflineConfig, policy: Any) -> Any:
        if dataset is None or isinstance(dataset, TrainingData):
            return dataset
        data = prepare(dataset, tokenizer, args, self.method, self.ends)
        check_ids((trajectory.ids for trajectory in data.trajectories), policy, "train_dataset")
        return data

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; `resume_from_checkpoint=True` resumes from the newest complete checkpoint if there is one.

        Raises:
            NotFiniteError: the loss, the gradient, V or the weights of a step are not finite. Nothing of that step is
                saved; earlier checkpoints stay.
        """
        if self.train_dataset is None:
            raise InputError("training needs episodes", "train_dataset")
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint:
            check_state(resume_from_checkpoint)
        self._totals, self._step_statistics = Totals(), None
        self._latest, self._finite = None, FiniteCheck(self.accelerator)
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self._step_statistics = None
        self._check_models()
        return result

    # ---- loss -------------------------------------------------------------------------------------

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
        terms, objective_inputs = self._terms(model, inputs)
        size = num_items_in_batch if num_items_in_batch is not None else self._items([inputs])
        scale = self.accelerator.num_processes / size if model.training else 1 / size
        policy_loss = terms.policy.sum() * scale
        loss = policy_loss if terms.value is None else policy_loss + terms.value.sum() * scale
        if model.training:
            self._finite.add(nonfinite_flags(objective_inputs, inputs["prompt_id"], len(terms.policy), terms))
            self._latest = inputs
        self._totals.add(self._metrics(terms, objective_inputs))
        return (loss, {"loss": loss.detach()}) if return_outputs else loss

    def _terms(self, model: nn.Module, inputs: Batch) -> tuple[LossTerms, ObjectiveInputs]:
        """Computes the loss terms of a batch and the objective inputs they are computed from."""
        statistics = self._step_statistics
        if statistics is None:
            statistics = self._compute_step_statistics([inputs])
        objective_inputs = self._objective_inputs(model, self._split_rows(inputs)[0])
        objective_inputs = objective_inputs._replace(step_statistics=statistics)
        return self.method.terms(objective_inputs, self.args), objective_inputs

    def _objective_inputs(self, model: nn.Module, inputs: Batch) -> ObjectiveInputs:
        output = model(inputs["input_ids"], inputs["attention_mask"], needs_reference=self.method.needs_reference)
        ref_logits = None if output.ref_logits is None else at_states(output.ref_logits)
        statistics = action_statistics(at_states(output.logits), ref_logits, inputs["action"], inputs["action_mask"])
        reward = inputs["reward"].to(statistics.log_prob.dtype)
        if output.value is not None and inputs["cut"].any():
            reward = add_bootstrap_value(reward, output.value, inputs["action_mask"], inputs["cut"])
        return ObjectiveInputs(
            log_prob=statistics.log_prob,
            ref_log_prob=statistics.ref_log_prob,
            kl=statistics.kl,
            entropy=statistics.entropy,
            value=None if output.value is None else at_states(output.value),
            reward=reward,
            outcome=inputs["outcome"],
            action_mask=inputs["action_mask"],
            step_id=inputs["step_id"],
            behavior_log_prob=inputs["behavior_log_prob"].to(statistics.log_prob.dtype),
        )

    def _split_rows(self, inputs: Batch) -> tuple[Batch, Batch]:
        """Splits a batch into the rows of the loss and the rows of the step statistics."""
        layout = self.method.batch_layout
        at = len(inputs["input_ids"]) // layout.rows_per_item * (layout.rows_per_item - layout.statistics_rows)
        return {name: x[:at] for name, x in inputs.items()}, {name: x[at:] for name, x in inputs.items()}

    def _compute_step_statistics(self, batches: Iterable[Batch]) -> Tensor | None:
        """Sums `Method.step_statistics` over batches and processes; None where the method has none."""
        statistics_of = self.method.step_statistics
        if statistics_of is None:
            return None
        with self._without_gradient() as model:
            rows = (self._split_rows(self._prepare_inputs(batch))[1] for batch in batches)
            statistics = [statistics_of(self._objective_inputs(model, batch)) for batch in rows]
        sums: Tensor = self.accelerator.reduce(torch.stack(statistics).sum(0), "sum")
        return sums

    def _items(self, batches: list[dict[str, Any]]) -> Tensor:
        rows = self.method.batch_layout.rows_per_item
        if self.method.per == "item":
            return torch.tensor(sum(len(b["input_ids"]) // rows for b in batches), device=self.args.device)
        return torch.stack([self._split_rows(b)[0]["action_mask"].sum().to(self.args.device) for b in batches]).sum()

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
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return LengthSortedSampler(dataset.lengths, per_step, seed, sort=self.args.length_sorted)

    # ---- optimizer --------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> Any:
        """Creates the optimizer with one parameter group per model, each with its own learning rate."""
        if getattr(self, "optimizer", None) is None:
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            rate = getattr(self.args, "value_learning_rate", None)
            rates = {POLICY: self.args.learning_rate, VALUE: self.args.learning_rate if rate is None else rate}
            groups = [
                {"params": parameters, "lr": rates[name], "weight_decay": self.args.weight_decay, "name": name}
                for name, parameters in self._parameters(model).items()
            ]
            self.optimizer = optimizer_class(groups, **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Creates the schedule of `TrainingArguments`; the policy's rate is 0 for the first `value_warmup_steps`."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        warmup = getattr(self.args, "value_warmup_steps", 0)
        if warmup and hasattr(scheduler, "lr_lambdas"):
            names = [group.get("name") for group in scheduler.optimizer.param_groups]
            scheduler.lr_lambdas = [
                (lambda step, schedule=schedule: 0.0 if step < warmup else schedule(step))
                if name == POLICY
                else schedule
                for name, schedule in zip(names, scheduler.lr_lambdas, strict=True)
            ]
            for group, base, schedule in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
            ):
                group["lr"] = base * schedule(scheduler.last_epoch)
        return scheduler

    def _parameters(self, model: Any = None) -> dict[str, list[nn.Parameter]]:
        parts = self.accelerator.unwrap_model(model if model is not None else self.model).parts()
        trainable = {n: [p for p in part.parameters() if p.requires_grad] for n, part in parts.items()}
        return {name: parameters for name, parameters in trainable.items() if parameters}

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clips the gradients of policy and value model separately; returns their joint norm."""
        limit = self.args.max_grad_norm or float("inf")
        norms = {
            name: self.accelerator.clip_grad_norm_(parameters, limit)
            for name, parameters in self._parameters(model).items()
        }
        self._grad_norms = {f"grad_norm/{name}": float(norm) for name, norm in norms.items()}
        self._stop(self._finite.step({name: float(norm) for name, norm in norms.items()}), self.state.global_step + 1)
        joint_norm: Tensor = torch.stack([torch.as_tensor(norm) for norm in norms.values()]).norm()
        return joint_norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return self._clip_grad_norm(model) if grad_norm is None else grad_norm

    # ---- finite numbers ---------------------------------------------------------------------------

    def _stop(self, finding: Finding | None, step: int) -> None:
        if finding is not None:
            newest = last_checkpoint(self.args.output_dir)
            kept = "no checkpoint was written before" if newest is None else f"the newest checkpoint is {newest}"
            raise NotFiniteError(f"{finding}; training stopped and saved nothing of it, {kept}", f"step {step}")

    def _check_models(self) -> None:
        """Checks that all weights, and the outputs on the last micro-batch, are finite.

        Raises:
            NotFiniteError: they are not; the message names the step, the number and the prompts.
        """
        self._stop(self._finite.weights(self.accelerator.unwrap_model(self.model).parts()), self.state.global_step)
        if self._latest is not None:
            rows = self._split_rows(self._latest)[0]
            items = len(self._latest["input_ids"]) // self.method.batch_layout.rows_per_item
            with self._without_gradient() as model:
                flags = nonfinite_flags(self._objective_inputs(model, rows), rows["prompt_id"], items)
            self._stop(self._finite.outputs([flags]), self.state.global_step)

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

    def _metrics(self, terms: LossTerms, inputs: ObjectiveInputs) -> dict[str, Sums]:
        """Returns the metric sums of a micro-batch: those common to all methods and the method's own."""
        mask = inputs.action_mask
        tokens = total(mask)
        size = tokens if self.method.per == "token" else count(terms.policy)
        reward = inputs.reward.sum(-1)
        return {
            "loss/policy": Sums(mean, (size, total(terms.policy))),
            **({} if terms.value is None else {"loss/value": Sums(mean, (size, total(terms.value)))}),
            "logps": Sums(mean, (tokens, total(inputs.log_prob))),
            "entropy": Sums(mean, (tokens, total(inputs.entropy))),
            "reward": mean_of(reward),
            "reward_std": spread_of(reward),
            "num_tokens": Sums(float, (tokens,)),
            **terms.metrics,
        }

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
    ) -> tuple[Tensor, None, None]:
        """Returns the loss of one evaluation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    # ---- saving -----------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the models into a checkpoint or `output_dir` (see `_save`).

        Raises:
            NotFiniteError: a weight or output is not finite; nothing is saved.
        """
        self._check_models()
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Saves resumable weights into `checkpoint-N`, and plain `policy/` and `value/` folders elsewhere."""
        folder = Path(output_dir or self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model)
        if folder.name.startswith("checkpoint-"):
            model.save_checkpoint(folder)
        else:
            model.save_pretrained(folder)
        for part in model.parts():
            self.processing_class.save_pretrained(folder / part)
        (folder / "training_args.json").write_text(json.dumps(self.args.to_dict(), indent=2, default=str))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.accelerator.unwrap_model(self.model if model is None else model)
        model.load_checkpoint(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        with readable(checkpoint, "optimizer.pt", "scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: Any) -> None:
        with readable(checkpoint, "rng_state.pth"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        self.accelerator.unwrap_model(self.model).load_checkpoint(self.state.best_model_checkpoint)
