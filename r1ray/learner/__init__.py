"""The optimizer: packing, GRPO loss, FSDP2 processes and their Ray actors."""
