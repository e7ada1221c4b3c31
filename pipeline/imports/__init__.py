"""Imports: pictures that come many at a time, from a folder, a tar, or the Quick, Draw! data set's files.

An import becomes one staged shard, `imports/<id>.parquet`, that a later run takes in like any other input: files
that cannot be used are named and counted, and never stop the rest.
"""

from pipeline.imports.download import download_quickdraw
from pipeline.imports.folder import stage_folder
from pipeline.imports.quickdraw import QUICKDRAW_LICENCE, stage_quickdraw
from pipeline.imports.staging import BadFile, ImportFailed, StagedImport, stage_pixels

__all__ = [
    "QUICKDRAW_LICENCE",
    "BadFile",
    "ImportFailed",
    "StagedImport",
    "download_quickdraw",
    "stage_folder",
    "stage_pixels",
    "stage_quickdraw",
]
