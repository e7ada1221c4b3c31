"""Training: networks, augmentation, the loop, and the export of what it made. Imports torch; keep it out of servers."""
