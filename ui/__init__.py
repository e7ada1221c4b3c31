"""The web pages: TypeScript, built by `make pages` (README.md), and the server of the drawing app (`python -m ui`)."""
