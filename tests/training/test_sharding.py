"""What cannot be sharded is refused by name; the shipped configurations of accelerate are read by accelerate."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from scripts import loaded
from stepcredit import InputError, OREOConfig
from stepcredit.training.offline_config import check_zero_stage
from stepcredit.training.sharding import check_sharding

SHIPPED = Path(__file__).parents[2] / "recipes" / "accelerate"


def sharded(kind=DistributedType.FSDP, version=2, **plugin):
    """An accelerator as far as it is asked."""
    plugin = {"cpu_ram_efficient_loading": False, "state_dict_type": "FULL_STATE_DICT", **plugin}
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**plugin))
    return SimpleNamespace(distributed_type=kind, is_fsdp2=version == 2, state=state)


@pytest.mark.parametrize(
    ("accelerator", "settings", "names"),
    [
        (sharded(), {"share_prompts": True}, "share_prompts"),
        (sharded(), {"value_updates_per_step": 2}, "value_updates_per_step"),
        (sharded(), {"load_best_model_at_end": True, "eval_strategy": "epoch"}, "load_best_model_at_end"),
        (sharded(version=1), {}, "fsdp_version"),
        (sharded(cpu_ram_efficient_loading=True), {}, "fsdp_cpu_ram_efficient_loading"),
        (sharded(state_dict_type="SHARDED_STATE_DICT"), {}, "fsdp_state_dict_type"),
        (sharded(DistributedType.DEEPSPEED), {"value_updates_per_step": 2}, "value_updates_per_step"),
        (sharded(DistributedType.MEGATRON_LM), {}, "Megatron-LM"),
    ],
)
def test_what_cannot_be_sharded_is_refused(accelerator, settings, names, tmp_path):
    args = OREOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)
    with pytest.raises(InputError, match=f"^{names}: "):
        check_sharding(accelerator, args)


def test_zero3_is_refused_and_zero2_is_not():
    check_zero_stage(SimpleNamespace(zero_stage=2))
    with pytest.raises(InputError, match=r"^zero_stage: 3 shards weights"):
        check_zero_stage(SimpleNamespace(zero_stage=3))


def test_the_rest_is_not(tmp_path):
    args = OREOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", train_layers=1)
    check_sharding(sharded(), args)
    check_sharding(sharded(DistributedType.DEEPSPEED), args)
    check_sharding(SimpleNamespace(distributed_type=DistributedType.MULTI_CPU), args)


def test_the_shipped_configurations():
    found = {file.stem: load_config_from_file(str(file)) for file in sorted(SHIPPED.glob("*.yaml"))}
    assert {name: str(config.distributed_type) for name, config in found.items()} == {
        "ddp": "DistributedType.MULTI_GPU", "fsdp2": "DistributedType.FSDP", "zero2": "DistributedType.DEEPSPEED",
    }  # fmt: skip
    settings = {name.removeprefix("fsdp_"): value for name, value in found["fsdp2"].fsdp_config.items()}
    settings["transformer_cls_names_to_wrap"] = settings.pop("transformer_layer_cls_to_wrap").split(",")
    renamed = {"version": "fsdp_version", "offload_params": "cpu_offload"}
    plugin = FullyShardedDataParallelPlugin(**{renamed.get(name, name): value for name, value in settings.items()})
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP,
        is_fsdp2=plugin.fsdp_version == 2,
        state=SimpleNamespace(fsdp_plugin=plugin),
    )
    check_sharding(accelerator, OREOConfig(use_cpu=True, report_to="none"))
    assert found["zero2"].deepspeed_config["zero_stage"] == 2


@pytest.mark.long
def test_a_row_of_the_page_of_scale():
    with loaded("scale/page.py") as page:
        assert page.line(page.row(page.SCENARIOS["7b-lora"])) in page.PAGE.read_text(encoding="utf-8").splitlines()
