"""The console command `kvlib`. What a command needs is imported inside it, so that `kvlib --help` is quick."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kvlib.lab.benchmark import benchmark
from kvlib.lab.options import MODEL_BUDGET, READER_BUDGET, Budget, ChunkFrames, DropStatic, ModelPath, RepeatedPairs


def program_name() -> str:
    """This command as it can be typed again: `kvlib` where the shell finds it by that name, else the path that was typed."""
    typed, found = sys.argv[0], shutil.which("kvlib")
    known = found and os.path.exists(typed) and os.path.samefile(found, typed)
    return "kvlib" if known or not os.path.basename(typed).startswith("kvlib") else typed


class App(typer.Typer):
    """Its usage lines and hints name the command by `program_name`, so that they work as they are shown."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **{"prog_name": program_name()} | kwargs)


app = App(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Stream long videos through Qwen-VL models with a bounded key-value cache. `COMMAND --help` explains a command.",
)  # fmt: skip


@app.command(cls=RepeatedPairs)
def workbook(
    notebooks: Annotated[
        list[str] | None, typer.Argument(metavar="NOTEBOOK", help="Such as 02_oom_free. All in notebooks/ if none is given.")
    ] = None,
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="Set a parameter in every notebook that has it.")
    ] = None,
) -> None:
    """Run the notebooks and print the table of criteria.

    Executed notebooks, reports and the page index.html go to results/, figures to results/figures/; with -p OUTPUT_DIR FOLDER
    all go to that folder. The parameters of a notebook are in its first code cell.

    Example:

        .venv/bin/kvlib workbook 02_oom_free -p MAX_CACHE_TOKENS 600 -p OUTPUT_DIR results/small

    Exit status: 0; 1 when a notebook did not finish, left no report or has a criterion that failed; 2 for a wrong argument.
    """
    from kvlib.lab.sweep.notebook import check_values, parameter_defaults
    from kvlib.lab.workbook import NOTEBOOK_DIR, choose, run_workbook

    try:
        names, values = choose(notebooks or [], [tuple(pair.split("=", 1)) for pair in parameters or []])
        for path in (NOTEBOOK_DIR / f"{name}.ipynb" for name in names):
            check_values(path, {"": {name: value for name, value in values.items() if name in parameter_defaults(path)}})
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    raise typer.Exit(run_workbook(names, values))


@app.command()
def sweep(
    notebook: Annotated[str, typer.Argument(metavar="NOTEBOOK", help="The notebook's path. It needs a parameter OUTPUT_DIR.")],
    grid: Annotated[
        list[str] | None,
        typer.Option("-g", metavar="NAME=VALUE,...", help="The values of one parameter, as YAML. Repeat it for others."),
    ] = None,
    measure: Annotated[
        str | None, typer.Option(metavar="NAME", help="The measurement to draw; by default the first that differs.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where results go; by default results/sweeps/NOTEBOOK.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A running Dask cluster that sees the same folders.")
    ] = None,
    slurm: Annotated[
        str | None, typer.Option(metavar="FILE.yml", help="Start workers with dask_jobqueue.SLURMCluster; see below.")
    ] = None,
) -> None:
    """Run a notebook for every combination of parameters, in parallel.

    Every combination is a run with a folder of its own: the executed notebook, log.txt, reports, figures. All measurements go
    to sweep.parquet, and one of them is drawn in sweep.png and sweep.pdf. The same command continues after ctrl-C: finished
    runs are kept, failed ones are done again, and those of a worker that died move to another. Runs take place on this
    machine, one at a time on each GPU, or in up to four processes where there is none.

    Example:

        .venv/bin/kvlib sweep notebooks/02_oom_free.ipynb -g MAX_CACHE_TOKENS=800,1300 -g CHUNK_FRAMES=2,4

    With --scheduler, start the workers before:

        .venv/bin/dask worker ADDRESS --nthreads 1

    The file for --slurm holds the keyword arguments of dask_jobqueue.SLURMCluster; cores is how many runs a job does at a time:

        n_workers: 8
        cores: 1
        job_cpu: 8
        memory: 64GB
        walltime: "04:00:00"
        job_extra_directives: ["--gres=gpu:1"]

    Exit status: 0; 1 when a run failed or the figure could not be drawn as asked; 2 for a wrong argument; 130 after ctrl-C.
    """
    from kvlib.lab.sweep.grid import SweepError, read_sweep
    from kvlib.lab.sweep.sweep import run_sweep

    try:
        chosen = read_sweep(notebook, grid or [], out, measure, scheduler, slurm)
    except (FileNotFoundError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    try:
        raise typer.Exit(run_sweep(chosen))
    except SweepError as error:
        typer.echo(error, err=True)
        raise typer.Exit(1) from error


@app.command()
def figures(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", help="By default the committed figures/ and figures/full_size/.")
    ] = None,
) -> None:
    """Redraw the figures from the data stored beside them, without a model.

    With FIGURE_LANG=zh in the environment the labels are in Chinese. The committed figures are renewed from a run by copying
    the run's figures with their data:

        cp -r results/figures/. figures/

    Exit status: 0; 2 for a folder without stored figures.
    """
    from kvlib.lab.figures.recipes import redraw_all
    from kvlib.lab.report import paths

    try:
        drawn = redraw_all(folders or [paths.FIGURES, paths.FIGURES / "full_size"])
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    for path in drawn:
        typer.echo(paths.shown(path))


@app.command()
def page(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="An earlier OUTPUT_DIR; by default results/.")] = None,
) -> None:
    """Write the page index.html of a folder with results again, such as after notebooks were run in JupyterLab.

    Exit status: 0; 2 for a folder that is not there or cannot be written to.
    """
    from kvlib.lab.report import paths
    from kvlib.lab.report.index import write_index

    if folder is not None and not folder.is_dir():
        raise typer.BadParameter(f"no folder {folder}: give one in which a run has left its reports")
    results, figures = (folder.resolve(),) * 2 if folder else (paths.RESULTS, paths.figure_dir())
    try:
        typer.echo(paths.shown(write_index(results, figures)))
    except OSError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def ask(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video file, or the address of a live source.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes, such as 'What is the title of this video?'")],
    at: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="Stream up to this second; by default to the end.")
    ] = None,
    model: ModelPath = "",
    budget: Budget = None,
    chunk_frames: ChunkFrames = 2,
    drop_static: DropStatic = 0.0,
) -> None:
    """Stream a video and answer one question about it.

    The video is sampled at 2 frames per second, by default two frames a chunk. What does not fit into the budget is evicted:
    the first chunk and the newest stay. With --drop-static, a part of the picture (28 x 28 pixels) whose pixels change by
    less than that share of full scale gets no new token within its chunk; the longer the chunks, the more that saves. The
    answer is the likeliest one, not sampled; it goes to standard output, the progress bar to standard error.

    Example:

        .venv/bin/kvlib ask data/clips/lyrics.mp4 'What is the title of this video?' --at 20

    Exit status: 0; 2 for a wrong argument, such as a file that is not a video.
    """
    from kvlib.lab.ask import ask_video
    from kvlib.lab.report import paths

    try:
        path = paths.model_path(model)
        typer.echo(
            ask_video(video_source(video), question, path, budget or default_budget(path), at, chunk_frames, drop_static)
        )
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def subtitles(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video file.")],
    out: Annotated[Path, typer.Option("-o", metavar="OUT.srt", help="The subtitles. Its folder must be there.")],
    every: Annotated[int, typer.Option(metavar="CHUNKS", min=1, help="Ask after so many chunks.")] = 2,
    language: Annotated[Literal["en", "zh"], typer.Option(help="The language of the question for the text.")] = "en",
    model: ModelPath = "",
    budget: Budget = None,
    chunk_frames: ChunkFrames = 2,
    drop_static: DropStatic = 0.0,
) -> None:
    """Write the text that is read from a video as subtitles.

    The video is streamed as by `kvlib ask`. The model is asked for the text on screen after every few chunks and after the last
    one. A line that stays is one subtitle; where it is read each time, its start and its end are off by at most half of the
    time between two questions. OUT.srt is written after every answer; the progress bar goes to standard error.

    The same command goes on after ctrl-C, with the answers kept in OUT.srt.asks.jsonl. It streams the video again from its
    beginning, without the questions that were answered. With other options, another video or model it starts over. An OUT.srt
    that this command did not write, or that was changed since, is not overwritten.

    Example:

        .venv/bin/kvlib subtitles data/clips/lyrics.mp4 -o lyrics.srt

    Exit status: 0; 2 for a wrong argument, such as a live source or a file that is not a video; 130 after ctrl-C.
    """
    from kvlib.lab.report import paths
    from kvlib.lab.transcribe import transcribe
    from kvlib.prompts import DEFAULT_QUESTION, QUESTION_ZH

    out, question = out.expanduser().absolute(), {"en": DEFAULT_QUESTION, "zh": QUESTION_ZH}[language]
    try:
        path = paths.model_path(model)
        most = budget or default_budget(path)
        count = transcribe(video_source(video), out, every, question, path, most, chunk_frames, drop_static)
    except (FileNotFoundError, PermissionError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        typer.echo(f"stopped: {out} has what was read so far; the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{out}: {count} subtitles")


def video_source(video: str) -> str | Path:
    """What `VideoChunks` takes: the address of a live source as it is, else an absolute path."""
    from kvlib.lab.report import paths

    return video if "://" in video else paths.resolve(video)


def default_budget(model_path: str) -> int:
    """The most tokens stored when none are asked for."""
    from kvlib.lab.report import paths

    return READER_BUDGET if paths.is_reader(model_path) else MODEL_BUDGET


app.command()(benchmark)


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of a Qwen-VL model: would it load, and what fits beside it?")
    ] = None,
    video: Annotated[
        str | None, typer.Option(metavar="PATH", help="A video: how fast would the model process it, at which resolution?")
    ] = None,
) -> None:
    """Show in a few seconds what this machine can do; no weights are loaded.

    Versions, GPU and memory, which attention kernels and CUDA graphs are used, and what is needed for video, the browser test
    and Chinese figures. With --model also whether the checkpoint would load, how many tokens a chunk takes, how many tokens
    fit into the memory that is free now, and the command to go on with. With --video a second table says for the video's own
    size and for smaller ones how many tokens a chunk and a second of video take, how long a chunk is expected to take, and
    whether that keeps up with real time; without --model for the embedded reader.

    Exit status: 0; 1 when the model given would not load; 2 for a video that cannot be read.
    """
    from kvlib.lab.doctor import print_forecasts, print_table
    from kvlib.lab.report import paths

    good = print_table(model)
    if video is not None and (good or model is None):
        try:
            print_forecasts(paths.model_path(model or ""), paths.video_path(video))
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from error
    raise typer.Exit(0 if good else 1)
