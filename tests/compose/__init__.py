"""The compose deployment, run for real without a container registry: `engine.py`, then `base_images.py`."""
