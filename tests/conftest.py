import os

import pytest
import torch
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
settings.register_profile("stepcredit", deadline=None)
settings.load_profile("stepcredit")
torch.set_num_threads(2)


@pytest.fixture
def byte_tokenizer():
    from doubles.tokenizers import byte_tokenizer

    return byte_tokenizer()
