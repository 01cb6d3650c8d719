"""Training of a policy, and a value function where the method has one, on folders of episodes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from torch.distributed import DistBackendError

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.joined import joint_step_rule, load_folders
from stepcredit.errors import InputError
from stepcredit.files import locked, read_manifest, removed_if_empty, write_json, write_lines
from stepcredit.flags import flag
from stepcredit.models.adapters import lora_config
from stepcredit.progress import hide, track
from stepcredit.results.provenance import versions
from stepcredit.settings import Limits, Settings
from stepcredit.training.curve_file import CURVES, curve
from stepcredit.training.methods import METHODS
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.training.progress_callback import show_progress
from stepcredit.training.resuming.checkpoints import check_run
from stepcredit.training.resuming.resumable_trainer import saving_at_sigterm
from stepcredit.training.trainer import OfflineTrainer

RUN = "run.json"
"""Written last: the run is finished."""
_logger = logging.getLogger(__name__)


@dataclass
class TrainConfig(Settings):
    """Train a policy, and a value function where the method has one, on episodes. `--method` picks the method; all
    other flags are those of the method's config, a `transformers.TrainingArguments`."""

    method: str | None = field(
        default=None, metadata={"help": "Training method; its config adds more flags.", "choices": list(METHODS)}
    )
    model: Annotated[str, Limits(not_empty=True)] = field(
        kw_only=True, metadata=flag("model", "Initialises the policy; an adapter is merged into its base model.")
    )
    episodes: Annotated[list[str], Limits(not_empty=True)] = field(
        kw_only=True,
        metadata={"help": "Folders of episodes (from stepcredit import or collect), trained on as one data set."},
    )
    eval_episodes: str | None = field(default=None, metadata={"help": "Folder of episodes for evaluating the loss."})
    value_model: str | None = field(
        default=None, metadata=flag("value_model", default="the policy with a head of zeros")
    )
    ref_model: str | None = field(default=None, metadata=flag("ref_model", default="the policy before training"))
    use_peft: bool = field(default=False, metadata={"help": "Train the policy with a LoRA adapter."})
    value_use_peft: bool = field(default=False, metadata={"help": "Train the value model with a LoRA adapter."})
    lora_r: Annotated[int, Limits(at_least=1)] = field(default=64, metadata={"help": "LoRA rank."})
    lora_alpha: Annotated[int, Limits(at_least=1)] = field(default=64, metadata={"help": "LoRA alpha."})
    lora_target_modules: Annotated[list[str], Limits(not_empty=True)] = field(
        default_factory=lambda: ["all-linear"], metadata={"help": "Modules that LoRA adapts, by name."}
    )
    dry_run: bool = field(
        default=False, metadata=flag("dry_run", "Loads the models, encodes the episodes and counts them.")
    )


def train(config: TrainConfig, args: OfflineConfig) -> dict[str, Any]:
    """Trains with the method of `args`, writes `policy/` (and `value/`) and, while it goes on, `curves.json`;
    returns episode counts.

    It goes on from the newest whole checkpoint of this run in the output folder, and leaves a finished run as it is;
    `resume_from_checkpoint` names another checkpoint, or is "false" to start over. SIGTERM ends it after the current
    step, with a checkpoint.

    Raises:
        InputError: a model or the episodes cannot be loaded, no episode is left, the folder holds another run, or
            another process writes it.
    """
    out = os.path.realpath(str(args.output_dir))
    if any(os.path.realpath(folder) == out for folder in config.episodes):
        raise InputError("is a folder of --episodes; give another one", "output_dir")
    locks = args.process_index == 0  # one process of a distributed run takes the lock
    if args.process_index:
        hide()
    if config.dry_run:
        with removed_if_empty(Path(out)):  # transformers' trainer makes it
            return _train(config, args)
    with locked(str(args.output_dir), "stepcredit train") if locks else nullcontext(), _with_others(args):
        return _train(config, args)


@contextmanager
def _with_others(args: OfflineConfig) -> Iterator[None]:
    """Names the cause where a process fails because another one of the run has ended.

    Raises:
        InputError: another one has ended, or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if args.world_size > 1 and (isinstance(error, DistBackendError) or "gloo" in str(error)):
            raise InputError("another process of the run has ended or does not answer; its own line says why",
                             f"process {args.process_index}") from error  # fmt: skip
        raise


def _train(config: TrainConfig, args: OfflineConfig) -> dict[str, Any]:
    args.step_delimiters = list(joint_step_rule(args.step_delimiters, config.episodes).delimiters)
    trainer = OfflineTrainer(
        model=config.model,
        value_model=config.value_model,
        ref_model=config.ref_model,
        args=args,
        train_dataset=_episodes(config.episodes),
        eval_dataset=None if config.eval_episodes is None else _episodes([config.eval_episodes]),
        **adapter_configs(config),
    )
    summary = trainer.train_dataset.summary()
    if config.dry_run:
        return dict(summary)
    if _is_finished(trainer, args):
        _logger.info(f"{args.output_dir}: this training run is finished; nothing is left to do")
        return dict(summary)
    if trainer.train_dataset.quarantine and args.should_save:
        write_lines(Path(args.output_dir) / "quarantine.jsonl", trainer.train_dataset.quarantine)
    show_progress(trainer, args.method)
    about = {"command": "train", **vars(config), "method": args.method, "data": summary, "notes": trainer.notes}
    if _checkpoint(args) is None and args.should_save:
        (Path(args.output_dir) / RUN).unlink(missing_ok=True)  # of the run in whose place this one starts
    with saving_at_sigterm(trainer):
        trainer.train(resume_from_checkpoint=_checkpoint(args))
        finish(trainer, about)
    return dict(summary)


def _is_finished(trainer: OfflineTrainer, args: OfflineConfig) -> bool:
    """Whether the output folder holds this run from start to end.

    Raises:
        InputError: it holds another one.
    """
    out = Path(args.output_dir)
    if _checkpoint(args) is not True or not (out / RUN).exists():
        return False
    kept = read_manifest(out / RUN).get("run")
    if not isinstance(kept, dict):
        return False
    return not check_run(out, kept, trainer.identity) and all((out / part).is_dir() for part in trainer.model.parts())


def _episodes(folders: Sequence[str]) -> Iterator[Episode]:
    """Yields the episodes of folders and shows the progress of encoding them."""
    stores = load_folders(folders)
    return track(chain.from_iterable(stores), "encoding", sum(map(len, stores)), "episodes")


def finish(trainer: OfflineTrainer, about: dict[str, Any]) -> None:
    """Saves the models, the training curve (`curves.json`) and the settings of the run (`run.json`)."""
    out = Path(trainer.args.output_dir)
    if trainer.args.should_save:
        (out / RUN).unlink(missing_ok=True)  # of a shorter run
    trainer.save_model()
    if not trainer.args.should_save:
        return
    write_json(out / CURVES, {trainer.args.method: curve(trainer.state.log_history)})
    write_json(out / RUN, {**about, **versions(), "run": trainer.identity})


def _checkpoint(args: OfflineConfig) -> str | bool | None:
    """Returns the checkpoint to resume from; True: the newest one, if any; None: start over."""
    checkpoint = args.resume_from_checkpoint
    if checkpoint is None or str(checkpoint).lower() in ("true", "1", "yes"):
        return True
    if str(checkpoint).lower() in ("false", "0", "no"):
        return None
    if not Path(checkpoint).is_dir():
        raise InputError(f"{checkpoint}: no such checkpoint", "resume_from_checkpoint")
    return str(checkpoint)


def adapter_configs(config: TrainConfig) -> dict[str, Any]:
    """Returns the LoRA configs of policy and value model, as arguments of `OfflineTrainer`; None: no adapter."""
    lora = (config.lora_r, config.lora_alpha, config.lora_target_modules)
    return {
        "peft_config": lora_config(*lora, "CAUSAL_LM") if config.use_peft else None,
        "value_peft_config": lora_config(*lora, "TOKEN_CLS") if config.value_use_peft else None,
    }
