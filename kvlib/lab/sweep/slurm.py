"""The file that says how to start a sweep's workers on a SLURM cluster."""

import importlib.util
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictStr, ValidationError, model_validator

Count = Annotated[int, Field(strict=True, gt=0)]


class SlurmConfig(BaseModel):
    """Keyword arguments of `dask_jobqueue.SLURMCluster`; those that are not listed here are passed on as they are.

    `cores` is how many runs one SLURM job does at a time, and must equal `processes`: a run needs a process of its own.
    `job_cpu` reserves more cores for each job.
    """

    model_config = ConfigDict(extra="allow")

    n_workers: Count
    cores: Count
    processes: Count = 1
    memory: StrictStr | None = None
    walltime: StrictStr | None = None
    job_extra_directives: list[StrictStr] = []

    @model_validator(mode="after")
    def one_run_per_process(self):
        if self.cores != self.processes:
            raise ValueError("cores must equal processes (1 if not given), one run at a time each; job_cpu reserves more")
        return self

    def arguments(self) -> dict:
        """The keyword arguments that the file gives."""
        return self.model_dump(exclude_unset=True)


def read_slurm(path: str) -> SlurmConfig:
    """The configuration in a YAML file; raises ValueError when it cannot be read or cannot run a sweep."""
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise ValueError("--slurm needs the package dask-jobqueue: .venv/bin/pip install -c constraints.txt -e '.[slurm]'")
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--slurm {path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    try:
        return SlurmConfig.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"--slurm {path}: " + "; ".join(map(_problem, error.errors()))) from error


def _problem(error: dict) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"no {name}; the file must give it"
    if name == "walltime":  # YAML 1.1 reads 24:00:00 as a number of seconds
        return f'walltime is read as {error["input"]!r}: put it in quotes, such as "24:00:00"'
    return f"{name}={error['input']!r}: {error['msg']}" if name else error["msg"].removeprefix("Value error, ")
