"""Asking the gateway about any number of image files: `emend predict`.

`files` finds and reads them, `questions` asks about them, `answers` writes what was answered. Each passes on a batch
at a time, so that a folder may be of any size.
"""

MOST_IMAGES = 64  # in one request, the gateway's limit: api/schemas.py
# Under way here at most: beside them the gateway (api/batching.py), with one model server, admits as many images of
# other people as it answers in 30 ms, 32 to 96, before it refuses everybody. 32 are half a call to the model server, so
# two requests fill one. Tried while it refused when 96 waited: with as many from here it refused 65 of 590 requests of
# eight people who drew meanwhile, with three quarters as many none of 996.
IMAGES_A_REQUEST = 32
MOST_UNDER_WAY = 64
