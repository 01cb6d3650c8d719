import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin stall a busy machine

import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import pytest
import torch
from hypothesis import settings

from stepcredit.cli import main
from stepcredit.tasks.alfworld.engine_cache import CACHE
from stepcredit.tasks.alfworld.installation import DATA

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
settings.register_profile("stepcredit", deadline=None)
settings.load_profile("stepcredit")
torch.set_num_threads(1)


@pytest.fixture
def byte_tokenizer():
    from doubles.tokenizers import byte_tokenizer

    return byte_tokenizer()


BUILD = ["--train", "6", "--valid_seen", "2", "--valid_unseen", "2", "--workers", "1"]


@pytest.fixture(scope="session")
def build_flags():
    """How the games were asked for."""
    return BUILD


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """(a folder of one game of each family to train on and two of each other split, what building it printed)."""
    if find_spec("alfworld") is None or sys.version_info >= (3, 13):  # importing it would set $ALFWORLD_DATA
        pytest.skip("needs the extra alfworld, on Python 3.11 or 3.12")
    folder, printed = tmp_path_factory.mktemp("alfworld") / "games", StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        patch.delenv(DATA, raising=False)
        with redirect_stdout(printed):
            assert main(["alfworld", "build", "--output_dir", str(folder), *BUILD]) == 0
        yield folder, printed.getvalue()
