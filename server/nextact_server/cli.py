"""`nextact-server`: serve, train, evaluate."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def nextact_server() -> None:
    """The gRPC inference server for real-time user behaviour."""


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=PASS_ON, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Run the server until Ctrl-C. Every setting has a flag and an environment variable: see `serve --help`."""
    from nextact_server.settings import Settings

    try:
        settings = Settings(_cli_parse_args=context.args)  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        _fail(f"{where}: {first['msg']} (got {first.get('input')!r})", code=2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # The sequence step is fastest on one thread; the encoders' runtime counts its own.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.torch_threads))
    import uvloop

    from nextact_server.app import serve as run
    from nextact_server.inference.infer_errors import InferError

    try:
        uvloop.run(run(settings, announce=lambda line: print(line, flush=True)))
    except InferError as error:
        _fail(error.message, code=1)
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        _fail(f"{type(error).__name__}: {error}", code=1)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML file: data, split, model, training.")],
    out: Annotated[Path, typer.Option(help="Version directory to write.")] = Path("runs/next_action/1"),
    logs: Annotated[Path, typer.Option(help="Where CSV and reports go.")] = Path("build/training"),
) -> None:
    """Train a next-action model and write it as a ready version directory."""
    from nextact_server.training.run import run_training

    try:
        run_training(config, out, logs_dir=logs)
    except (OSError, ValueError) as error:
        _fail(f"{type(error).__name__}: {error}", code=1)


@app.command()
def evaluate(
    version: Annotated[Path, typer.Argument(help="Version directory to judge.")] = Path(
        "model_repository/next_action/1"
    ),
    config: Annotated[Path, typer.Option(help="The TOML file it was trained with.")] = Path(
        "examples/movielens/train.toml"
    ),
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("build/evaluation"),
    targets: Annotated[
        Path | None, typer.Option(help="Lines of `user item` that came after the data: foretell these instead.")
    ] = None,
    through_server: Annotated[
        bool, typer.Option(help="Instead, feed each judged user's past to a server and compare what it foretells.")
    ] = False,
    models: Annotated[Path, typer.Option(help="With --through-server: the repository that has the encoders.")] = Path(
        "model_repository"
    ),
    most_users: Annotated[
        int | None, typer.Option(min=1, help="With --through-server: how many users, spread evenly. All by default.")
    ] = None,
) -> None:
    """Judge a version event by event on what it was not trained on, beside the baselines."""
    from nextact import NextactError
    from nextact_server.through_server import ServerFailed, compare
    from nextact_server.training.evaluation_run import run_evaluation

    if most_users is not None and not through_server:
        _fail("--most-users is for --through-server alone", code=2)
    try:
        if through_server:
            compare(version, config, models, targets=targets, most_users=most_users)
        else:
            run_evaluation(version, config, out_dir=out, targets=targets)
    except (OSError, ValueError, ServerFailed, NextactError) as error:
        _fail(f"{type(error).__name__}: {error}", code=1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"nextact-server: {message}", file=sys.stderr)
    raise typer.Exit(code)


def main() -> None:
    """Entry point."""
    app()
