"""Post-training: SFT and GRPO by TRL."""
