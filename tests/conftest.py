import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin stall a busy machine

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
settings.register_profile("stepcredit", deadline=None)
settings.load_profile("stepcredit")
torch.set_num_threads(1)


@pytest.fixture
def byte_tokenizer():
    from doubles.tokenizers import byte_tokenizer

    return byte_tokenizer()
