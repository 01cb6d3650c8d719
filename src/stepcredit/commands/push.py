"""`stepcredit push`: a trained policy and value model to the hub, with a model card."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from stepcredit.errors import InputError, one_line
from stepcredit.files import written_whole
from stepcredit.flags import flag
from stepcredit.parsing import parse
from stepcredit.report.model_card import CARD, write_model_card
from stepcredit.settings import Limits, Settings

FILES = ("policy/*", "value/*", "policy_adapter/*", "value_adapter/*", "curves.json", "credit.html", CARD)
"""What is uploaded: neither settings, which name folders of this machine, nor checkpoints, nor episodes."""


@dataclass(kw_only=True)
class PushConfig(Settings):
    """Write the model card of a trained policy and value model, with results and credit, and upload them to the hub."""

    folder: Annotated[str, Limits(not_empty=True)] = field(
        metadata={"help": "Output folder of stepcredit train.", "positional": True}
    )
    hub_model_id: Annotated[str, Limits(not_empty=True)] = field(metadata={"help": "Name on the hub: user/name."})
    results: str | None = field(default=None, metadata={"help": "Folder with results of stepcredit evaluate."})
    credit: str | None = field(default=None, metadata={"help": "Folder with a page of stepcredit credit."})
    base_model: str | None = field(default=None, metadata={"help": "Name of the initial policy on the hub."})
    private: bool = field(default=True, metadata={"help": "Create a private repository, if there is none yet."})
    dry_run: bool = field(default=False, metadata=flag("dry_run", "Writes the card; uploads nothing."))


def run(arguments: list[str]) -> int:
    """Writes the card and uploads the folder."""
    (config,) = parse("push", [PushConfig], arguments)
    folder = Path(config.folder)
    page = None if config.credit is None else Path(config.credit) / "credit.html"
    if page is not None and not page.is_file():
        raise InputError("no credit page; run stepcredit credit", str(page))
    results = None if config.results is None else Path(config.results)
    card = write_model_card(folder, config.hub_model_id, results, config.base_model, has_page=page is not None)
    if page is not None:
        with written_whole(folder / page.name) as part:
            shutil.copyfile(page, part)
    print(f"{card}: written")
    if config.dry_run:
        return 0
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(config.hub_model_id, private=config.private, exist_ok=True)
        HfApi().upload_folder(repo_id=config.hub_model_id, folder_path=folder, allow_patterns=list(FILES))
    except Exception as error:  # whatever the hub's client and its HTTP library raise
        what = f"cannot be uploaded ({one_line(str(error))}); log in with `hf auth login`, and run the command again"
        raise InputError(what, config.hub_model_id) from error
    print(f"https://huggingface.co/{config.hub_model_id}")
    return 0
