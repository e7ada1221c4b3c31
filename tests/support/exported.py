"""Which metrics there are: our own from the code, and those of named exporters that rules and dashboards use."""

from __future__ import annotations

import re

from tests.unit.test_docs import _metrics as own_metrics

HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")

# Of Prometheus itself, the node exporter, NVIDIA's DCGM exporter and every process that uses prometheus_client.
OTHERS = {
    "ALERTS",
    "up",
    "prometheus_tsdb_head_series",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "node_boot_time_seconds",
    "node_cpu_seconds_total",
    "node_disk_io_time_seconds_total",
    "node_disk_read_bytes_total",
    "node_disk_written_bytes_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_readonly",
    "node_filesystem_size_bytes",
    "node_load1",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_network_receive_bytes_total",
    "node_network_transmit_bytes_total",
    "DCGM_FI_DEV_FB_FREE",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_POWER_USAGE",
}

# What may stand before a bracket, or between operands, without being a metric.
_WORDS = {"and", "or", "unless", "bool", "inf", "nan"}


def metrics() -> set[str]:
    """Every name that a query may use, histograms' parts among them."""
    found = set(OTHERS)
    for name, (kind, _, _) in own_metrics().items():
        found |= {name + part for part in HISTOGRAM_PARTS} if kind == "Histogram" else {name}
    return found


def named_in(query: str) -> set[str]:
    """The metrics of a PromQL query."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)  # label values
    plain = re.sub(r"\{[^}]*\}", "{}", plain)
    plain = re.sub(r"\[[^\]]*\]", "", plain)
    plain = re.sub(r"(?:\w+\s+)?\b(?:by|without)\s*\([^)]*\)", "", plain)
    plain = re.sub(r"\b(?:on|ignoring|group_left|group_right)\s*\([^)]*\)", "", plain)
    plain = re.sub(r"\boffset\s+\w+", "", plain)
    names = re.findall(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\w|:|\s*\()", plain)
    return {name for name in names if name.lower() not in _WORDS}
