"""The model server: answers with the champion of every model in the registry. Run it: `python -m serving`."""
