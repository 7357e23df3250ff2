"""`kvlib benchmark`: a public benchmark, every video streamed once, on Dask workers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from kvlib.lab.options import MODEL_BUDGET, READER_BUDGET, Budget, DropStatic, ModelPath

# The names of `kvlib.evictor` and `kvlib.policies`; to import these would take seconds that `--help` does not need.
Positions, Policy = Literal["keep", "remap", "compact", "unrotated"], Literal["sink_window", "uniform", "importance"]


def benchmark(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="ovo or streamingbench.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The folder with the benchmark's videos.")],
    repo: Annotated[Path, typer.Option(metavar="CLONE", help="Your clone of the benchmark's repository, for its prompts.")],
    model: ModelPath = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where results go; by default results/benchmarks/BENCHMARK.")
    ] = None,
    modes: Annotated[
        list[str] | None, typer.Option("--mode", metavar="MODE", help="Only this mode, such as backward. Repeat it for others.")
    ] = None,
    budget: Budget = None,
    policy: Annotated[Policy, typer.Option(help="What is evicted.")] = "sink_window",
    positions: Annotated[Positions, typer.Option(help="What happens to positions after an eviction.")] = "remap",
    recall: Annotated[
        str, typer.Option(metavar="CHUNKS", help='Evicted chunks that a question may bring back, or "auto"; 0 = none.')
    ] = "0",
    drop_static: DropStatic = 0.0,
    fps: Annotated[float, typer.Option(metavar="RATE", min=0.001, max=1000, help="Frames sampled per second.")] = 2.0,
    height: Annotated[int, typer.Option(metavar="PIXELS", min=0, help="Height of the frames; 0 = the video's own.")] = 0,
    chunk_frames: Annotated[int, typer.Option(metavar="FRAMES", min=1, help="Frames of a chunk.")] = 2,
    free_answers: Annotated[
        bool,
        typer.Option(
            "--free-answers", help="Ask the bare question and take the option nearest to the answer in edit distance."
        ),
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A running Dask cluster that sees the same folders.")
    ] = None,
    slurm: Annotated[
        str | None, typer.Option(metavar="FILE.yml", help="Start workers with Slurm, as `kvlib sweep` does.")
    ] = None,
) -> None:
    """Run OVO-Bench or StreamingBench, every video streamed once.

    A question leaves no trace, so all questions about a video are asked while it is streamed once, each about exactly the
    frames up to its moment: for OVO-Bench 46 hours of video instead of 178. Prompts are read from your clone of the benchmark's
    repository, which is not run. The questions' file may be in DIR or in the clone. For OVO-Bench the videos are in
    DIR/src_videos or DIR, for StreamingBench anywhere in DIR.

    FOLDER gets BENCHMARK.parquet, a row per question with the whole protocol, BENCHMARK.tex, and figures. Questions without an
    answer, such as those of missing videos, are listed and counted. One worker per GPU streams one video at a time; how long
    all will take is said first. A question inside a chunk needs memory for a second copy of the cache. The same command goes on
    after ctrl-C: finished videos are kept.

    --free-answers is for a model that answers in its own words, such as the embedded reader: its scores are not those of the
    benchmark.

    Example:

        .venv/bin/kvlib benchmark ovo --data ~/OVO-Bench/data --repo ~/OVO-Bench --model ~/Qwen2.5-VL-3B-Instruct

    Exit status: 0; 1 when a video failed; 2 for a wrong argument; 130 after ctrl-C.
    """
    from kvlib.lab.sweep.grid import SweepError

    try:
        run = read_run(name, data, repo, model, out, modes or [], scheduler, slurm, dict(
            budget=budget, policy=policy, positions=positions, recall=recall, drop_static=drop_static, fps=fps, height=height,
            chunk_frames=chunk_frames, free_answers=free_answers,
        ))  # fmt: skip
        status = run_benchmark(run)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except SweepError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("\ninterrupted: the same command goes on with the videos that are not finished", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(status)


def read_run(name, data, repo, model, out, modes, scheduler, slurm, settings):
    """The `kvlib.lab.benchmarks.runs.Run` of these arguments, whose files are there and can be read; settings: of `Protocol`.

    Raises FileNotFoundError and ValueError for arguments that cannot be used, before a model is loaded.
    """
    from kvlib.checkpoint import check_checkpoint
    from kvlib.lab.benchmarks.protocol import Protocol
    from kvlib.lab.benchmarks.question import part_of
    from kvlib.lab.benchmarks.runs import Run
    from kvlib.lab.report import paths
    from kvlib.lab.sweep.slurm import read_slurm

    if scheduler and slurm:
        raise ValueError("--scheduler and --slurm: give one of them, the workers come from one place")
    load = part_of(name, "loader").load
    path = paths.model_path(model)
    recall, reader = settings["recall"], paths.is_reader(path)
    settings |= {
        "budget": settings["budget"] or (READER_BUDGET if reader else MODEL_BUDGET),
        "recall": int(recall) if recall.isdecimal() else recall,
    }
    protocol = Protocol(path, **settings)
    check_checkpoint(path)
    loaded = load(paths.resolve(data), paths.resolve(repo)).chosen(modes)
    if not loaded.by_video():
        raise ValueError(f"none of the {len(loaded.videos):,} videos is in {data}: give --data the folder that holds them")
    folder = Path.cwd() / out.expanduser() if out else paths.RESULTS / "benchmarks" / name
    return Run(name, loaded, protocol, folder.resolve(), scheduler, read_slurm(slurm) if slurm else None)


def run_benchmark(run) -> int:
    """Run it, write the results and show the scores; the exit status is 1 when a video failed."""
    from kvlib.lab.benchmarks.question import part_of
    from kvlib.lab.benchmarks.results import show_results, write_results
    from kvlib.lab.benchmarks.runs import answer_all
    from kvlib.lab.benchmarks.streaming import FAILED

    table, scorer = answer_all(run), part_of(run.name, "scorer")
    write_results(table, scorer, run.out, run.name)
    show_results(table, scorer, run.out, run.name)
    return int((table["status"] == FAILED).any())
