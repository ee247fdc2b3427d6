"""Activations on disk: safetensors in shards beside a parquet index; filled, checked, mended and read."""
