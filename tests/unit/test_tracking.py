from __future__ import annotations

from pipeline.tracking import points

AT = "2026-11-21T09:30:12.345+00:00"


def test_an_epochs_figures_go_to_mlflow_at_the_moment_it_was_over() -> None:
    epoch = {"epoch": 3, "epochs": 8, "train_loss": 0.5, "validation_accuracy": None, "device": "cpu"}
    sent = list(points(epoch | {"seconds_left": 9.5, "at": AT}))
    assert [(each.key, each.value, each.step, each.timestamp_ms) for each in sent] == [
        ("train_loss", 0.5, 3, 1_795_253_412_345)
    ]


def test_the_machines_figures_have_the_names_and_units_of_mlflows_own_monitors() -> None:
    figures = {
        "cpu_utilisation": 0.5,
        "process_cpu_utilisation": 0.25,
        "memory_bytes": 4_000_000_000,
        "memory_total_bytes": 16_000_000_000,
        "process_memory_bytes": 900_000_000,
        "gpu_index": 1,
        "gpu_utilisation": 0.93,
        "gpu_memory_bytes": 2_000_000_000,
        "gpu_memory_total_bytes": 8_000_000_000,
    }
    sent = {each.key: round(each.value, 6) for each in points({"epoch": 1, "at": AT} | figures)}
    assert sent == {
        "system/cpu_utilization_percentage": 50,
        "system/process_cpu_utilization_percentage": 25,
        "system/system_memory_usage_megabytes": 4_000,
        "system/system_memory_usage_percentage": 25,
        "system/process_memory_usage_megabytes": 900,
        "system/gpu_1_utilization_percentage": 93,
        "system/gpu_1_memory_usage_megabytes": 2_000,
        "system/gpu_1_memory_usage_percentage": 25,
    }


def test_a_trainers_own_figure_keeps_its_name_as_far_as_mlflow_takes_it() -> None:
    assert [each.key for each in points({"epoch": 1, "f1@5 (macro)": 0.5, "top-5": 1})] == [
        "f1_5 _macro_",
        "top-5",
    ]
