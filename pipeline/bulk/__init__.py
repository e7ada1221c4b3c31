"""Asking the gateway about any number of image files: `emend predict`.

`files` finds and reads them, `questions` asks about them, `answers` writes what was answered. Each passes on a batch
at a time, so that a folder may be of any size.
"""

MOST_IMAGES = 64  # in one request, the gateway's limit: api/schemas.py
# The gateway refuses everybody while 96 images wait (api/batching.py). As many under way here as it lets wait, and it
# refused 65 of 590 requests of eight people who drew meanwhile; with three quarters as many none of 996. Two thirds of
# what it lets wait are two requests of a size that fills a call to the model server half.
IMAGES_A_REQUEST = 32
MOST_UNDER_WAY = 64
