"""How fast images are answered, beside what people would pick instead: `python -m bench.serving`."""
