"""FSDP2 on CPUs: accelerate ignores it there, and is made to believe that these processes have accelerators."""

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

SETTINGS = {
    "fsdp": "full_shard",
    "fsdp_config": {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
        "reshard_after_forward": True,
    },
}


def shard_on_cpus():
    """From now on, runs in this process whose settings ask for FSDP2 get it from accelerate, over gloo."""
    plain = AcceleratorState.__init__

    def believing(self, *args, fsdp_plugin=None, **given):
        plain(self, *args, fsdp_plugin=fsdp_plugin, **given)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
        if self.__dict__.get("fsdp_plugin") is not None:
            self.distributed_type = DistributedType.FSDP

    AcceleratorState.__init__ = believing
