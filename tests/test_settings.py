from __future__ import annotations

import os
from pathlib import Path

import pytest
from agegender import cores
from agegender.settings import Settings
from pydantic import ValidationError


def test_without_any_only_this_machine_may_ask_and_workers_are_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)  # a container may be allowed less
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.models, settings.default_model) == (Path("models"), None)
    assert settings.workers == len(os.sched_getaffinity(0))
    assert settings.queue_size == 4 * settings.workers
    assert (settings.max_bytes, settings.max_image_memory) == (20 * 2**20, 400_000_000)


def test_the_queue_follows_the_workers_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEGENDER_WORKERS", "3")
    assert Settings().queue_size == 12
    monkeypatch.setenv("AGEGENDER_QUEUE_SIZE", "0")
    assert Settings().queue_size == 0


def test_batches_find_room_in_the_memory_for_arriving_requests() -> None:
    settings = Settings()
    assert (settings.arrival_memory, settings.max_batch_bytes) == (160 * 2**20, 40 * 2**20)
    assert Settings(max_bytes=1000, arrival_memory=1000).max_batch_bytes == 250
    assert Settings(max_bytes=1000, arrival_memory=1000, max_batch_bytes=500).max_batch_bytes == 500
    with pytest.raises(ValidationError, match="at most half of AGEGENDER_ARRIVAL_MEMORY"):
        Settings(max_bytes=1000, arrival_memory=1000, max_batch_bytes=501)


def test_there_is_memory_for_the_largest_image() -> None:
    with pytest.raises(ValidationError, match="at least AGEGENDER_MAX_BYTES"):
        Settings(max_bytes=1001, arrival_memory=1000)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Compose file that passes settings on leaves those empty that nobody set."""
    for name in Settings.model_fields:
        monkeypatch.setenv(f"AGEGENDER_{name.upper()}", "")
    assert Settings() == Settings(_env_prefix="NO_SETTING_")


def test_keys_do_not_show_when_settings_are_printed() -> None:
    settings = Settings(api_keys="a-secret-key")
    assert "a-secret-key" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.api_keys.get_secret_value() == "a-secret-key"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("workers", 0),
        ("queue_size", -1),
        ("queue_timeout", 0),
        ("queue_timeout", "nan"),
        ("drain_timeout", "inf"),
        ("arrival_timeout", "inf"),
        ("max_bytes", 0),
        ("max_batch_bytes", 0),
        ("max_image_memory", 0),
        ("api_keys", ","),
        ("api_keys", " "),
        ("rate_limit", "60"),
        ("rate_limit", "0/minute"),
        ("rate_limit", "60/fortnight"),
        ("rate_limit", "1/second;60/minute"),
        ("cors_origins", "https://example.com/"),
        ("cors_origins", "example.com"),
        ("cors_origins", "https://example.com, null"),
        ("trusted_proxies", "*"),
        ("trusted_proxies", "proxy.internal"),
        ("trusted_proxies", "10.0.0.2, 10.0.0.1/8"),
        ("metrics_port", 8000),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "3200000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_a_container_s_limit_counts_where_it_is_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """The kernel's files are stand-ins here: tests/docker has a container with a limit."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert cores.available_cores() == expected


def test_a_host_may_be_written_as_in_a_url() -> None:
    assert Settings(host="[::1]").host == "::1"
