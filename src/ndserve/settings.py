"""Every option of the server, and the only reader of the environment.

An option can be given on the command line (`--max-body-bytes 1GiB`), in the environment
(`NDSERVE_MAX_BODY_BYTES=1GiB`) or as a key of `ndserve.toml` in the working directory (`max_body_bytes = "1GiB"`);
the first of these that names it wins.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    TypeAdapter,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ndserve.threads import threads_of

GIB = 1024**3

_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%")


_SIZE = re.compile(r"\s*\d+(\.\d+)?\s*([kKMGTPE]i?)?[bB]?\s*")


def _whole_size(value: object) -> object:
    """Refuse what pydantic would read only the beginning of, such as `1,000,000`."""
    if isinstance(value, str) and not _SIZE.fullmatch(value):
        raise ValueError("a size is a number of bytes such as 1000000, or one with a unit such as 512MB or 2GiB")
    return value


Size: TypeAlias = Annotated[ByteSize, BeforeValidator(_whole_size)]
"""Bytes, as a number or with a unit."""


def _read_memory(value: object) -> str:
    """`auto`, a percentage of the device's memory such as `40%`, or bytes as a plain number."""
    if value == "auto":
        return "auto"
    share = _SHARE.fullmatch(str(value).strip())
    if share is None:
        return str(int(TypeAdapter(ByteSize).validate_python(_whole_size(value))))
    if not 0 < float(share[1]) <= 100:
        raise ValueError("a percentage lies between 0 and 100")
    return f"{share[1]}%"


class Settings(BaseSettings):
    """Serve the models of a folder and Python array functions over HTTP.

    Every option is also NDSERVE_... in the environment and a key of ndserve.toml in the working directory.
    """

    model_config = SettingsConfigDict(
        env_prefix="NDSERVE_",
        toml_file="ndserve.toml",
        extra="forbid",
        frozen=True,
        validate_default=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="ndserve serve",
        cli_hide_none_type=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every network interface.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8076, description="Port to listen on; 0 for any free one.")
    api_keys_file: Path | None = Field(
        None, description="File of API keys, which `ndserve key` makes; every request but health then needs one."
    )
    open_management: bool = Field(
        False, description="Let everyone who reaches the server manage its models, without a key."
    )
    models: Path = Field(
        Path("models"), description="Folder of models: NAME/VERSION/model.onnx (and NAME/model.toml) or NAME.onnx."
    )
    processes: Path | None = Field(None, description="Folder of your own processes, one array function a file.")
    routes: Path | None = Field(None, description="Folder of your own routes: files with a fastapi.APIRouter `router`.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; auto takes a GPU where one can be used.")
    default_process: str = Field("normalize", description="What /process_np_array runs when no target is named.")
    preload: list[str] = Field([], description="Models to load at start instead of on first use; `all` for all.")
    model_memory: Annotated[str, BeforeValidator(_read_memory)] = Field(
        "auto",
        description="Memory for loaded models: 8GiB, 40% of the device's, or auto: of a GPU what is free less a"
        " margin, on the CPU half of what is free.",
    )
    load_wait: NonNegativeFloat = Field(
        30.0, description="Seconds for which tasks wait for room for their model when others are in use or pinned."
    )
    load_retry: NonNegativeFloat = Field(
        5.0, description="Seconds after which a model that failed to load is tried again; doubles with each failure."
    )
    watch: bool = Field(True, description="Follow what is added, changed and removed in the folder of models.")
    max_model_bytes: Size = Field(ByteSize(16 * GIB), description="Largest model file that can be uploaded.")
    allow_digests: Path | None = Field(
        None, description="File of SHA-256 digests, as sha256sum prints them; other models are not loaded."
    )
    cache_optimized: Size = Field(
        ByteSize(0),
        description="Bytes of --data-dir for optimized forms of models, which load faster the next time; 0 for none.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Threads of one model on the CPU; 0 leaves one core to the server."
    )
    max_batch_size: PositiveInt = Field(32, description="Most rows in one batch; a model.toml can say otherwise.")
    max_wait_ms: NonNegativeFloat = Field(
        0.0, description="How long the oldest task may wait for company. 0: an idle device never waits."
    )
    max_body_bytes: Size = Field(ByteSize(256 * 1024**2), description="Largest request body.")
    max_queue_tasks: PositiveInt = Field(20_000, description="Most tasks waiting or running; more get 429.")
    max_queue_bytes: Size = Field(ByteSize(2 * GIB), description="Most bytes of their inputs; more get 429.")
    store: Literal["sqlite", "memory"] = Field(
        "sqlite", description="Where tasks are kept: sqlite outlives the process; memory is faster and forgets them."
    )
    data_dir: Path = Field(Path("data"), description="Folder in which the sqlite store keeps its tasks.")
    durability: Literal["normal", "full"] = Field(
        "normal", description="What accepted tasks survive: normal, the end of the process; full, a power cut as well."
    )
    max_attempts: PositiveInt = Field(
        3, description="Times that a task is run when the process dies while it runs; then it fails as interrupted."
    )
    result_ttl: PositiveFloat = Field(3600.0, description="Seconds for which a result is kept after the task's end.")
    store_tasks: PositiveInt = Field(
        1_000_000, description="Most tasks kept; the oldest delivered results make room, then submits get 507."
    )
    store_bytes: Size | None = Field(
        None, description="Most bytes of arrays kept, as for --store-tasks; by default 10GiB, in memory 2GiB."
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Turns webhooks on, and signs them: whsec_ and base64, or a text of 24 bytes or more."
    )
    webhook_allow: list[str] = Field(
        [], description="HOST or HOST:PORT to which webhooks may go by plain http or at a private address."
    )
    drain_seconds: NonNegativeFloat = Field(30.0, description="Time to finish accepted tasks after SIGTERM.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe message shown.")
    access_log: bool = Field(False, description="Log every request that FastAPI and the hot routes answer.")
    reload: bool = Field(False, description="For development: restart when a source file changes.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def store_limit(self) -> int:
        """Most bytes of arrays in the store."""
        return self.store_bytes or (10 if self.store == "sqlite" else 2) * GIB

    def describe_store(self) -> str:
        """Where tasks are kept, in words."""
        if self.store == "memory":
            return "kept in memory, and lost when the process ends (--store memory)"
        return f"kept in {self.data_dir} (--durability {self.durability})"

    @property
    def cpu_threads(self) -> int:
        """Threads of one model on the CPU."""
        return self.threads or threads_of(len(os.sched_getaffinity(0)), lanes=1)

    @property
    def costs_file(self) -> Path | None:
        """Where what models take in memory is kept; None where nothing is to outlive the process."""
        return self.data_dir / "model_costs.json" if self.store == "sqlite" else None

    def as_environment(self) -> dict[str, str]:
        """The options that differ from their defaults, as the environment that gives them to another process."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude={"reload"})
        if self.webhook_secret is not None:
            values["webhook_secret"] = self.webhook_secret.get_secret_value()
        return {
            f"NDSERVE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }
