"""The gateway: images in, answers out, corrections kept. Run it: `python -m api`."""
