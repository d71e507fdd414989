"""The `r1ray` command: what users type, and nothing else.

Heavy imports wait until a command needs them, so that a wrong config is refused in under two seconds.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from r1ray import __version__
from r1ray.config.load import load_config, to_yaml
from r1ray.errors import R1RayError, SandboxError

app = typer.Typer(
    help="Train reasoning models the way DeepSeek-R1 was trained, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML file, e.g. conf/quickstart.yaml", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="dotted overrides, e.g. train.steps=10", metavar="[KEY=VALUE]...")
]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"r1ray {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what r1ray does in detail.")] = False,
) -> None:
    """Set up logging for every command."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("r1ray").setLevel(logging.INFO if verbose else logging.WARNING)


@app.command()
def train(config: ConfigPath, overrides: Overrides = None) -> None:
    """Run one stage (`stage` in the config); ends with a table, summary.json and report.html."""
    resolved = load_config(config, overrides or [])
    from r1ray.stages.registry import run_stage

    run_stage(resolved)


@app.command("config")
def show_config(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print the resolved configuration, or say what is wrong with it."""
    from r1ray.rewards.registry import check_rewards

    resolved = load_config(config, overrides or [])
    check_rewards(resolved.rewards, resolved.sandbox)
    typer.echo(to_yaml(resolved), nl=False)


@app.command()
def grade(
    source: Annotated[str, typer.Argument(help="JSONL or parquet file, or a run directory", metavar="IN")],
    out: Annotated[Path, typer.Argument(help="JSONL or parquet file to write", metavar="OUT")],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="names the rewards; without it, by what each row brings")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace OUT and grade everything anew")] = False,
) -> None:
    """Grade stored completions; an interrupted run goes on where it stopped."""
    from r1ray.stages.grade import grade_files

    grade_files(source, out, config_path=config, overrides=overrides or [], overwrite=overwrite)


@app.command()
def doctor(overrides: Overrides = None) -> None:
    """Say what the sandbox can enforce on this machine, by trying each protection; exit code 1 if one is not held."""
    from rich.console import Console
    from rich.table import Table

    from r1ray.cluster.doctor import diagnose

    checks = diagnose(load_config(None, overrides or []).sandbox)
    table = Table(box=None)
    for heading in ("", "protection", "seen"):
        table.add_column(heading, overflow="fold")
    marks = {True: "held", False: "NOT HELD", None: ""}
    for check in checks:
        table.add_row(marks[check.held], check.name, check.detail, style="bold red" if check.held is False else None)
    Console(highlight=False).print(table)
    missing = [check.name for check in checks if check.held is False]
    if missing:
        raise SandboxError(f"not held on this machine: {', '.join(missing)}")


@app.command()
def report(run: Annotated[str, typer.Argument(help="run directory", metavar="RUN_DIR")]) -> None:
    """Write report.html of a run anew and print where it is."""
    from r1ray.tracking.report import write_report
    from r1ray.tracking.run_dir import RunDirectory

    run_dir = RunDirectory(run)
    if not run_dir.exists():
        raise _no_run(run)
    typer.echo(write_report(run_dir))


class _RunByDefault(typer.core.TyperGroup):
    """Takes `pipeline CONFIG` for `pipeline run CONFIG`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `run` before anything that is not a command."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])


pipeline_app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Run all stages of a pipeline (`r1ray pipeline CONFIG`), or say how it stands.",
    # Options may come before the file's name: they belong to `run`.
    context_settings={"ignore_unknown_options": True},
)
app.add_typer(pipeline_app, name="pipeline")
PipelinePath = Annotated[Path, typer.Argument(help="YAML file, e.g. conf/r1/tiny.yaml", metavar="CONFIG")]
PipelineOverrides = Annotated[
    list[str] | None,
    typer.Argument(help="dotted overrides, e.g. seed=1 stages.r1_zero.set.train.steps=10", metavar="[KEY=VALUE]..."),
]


@pipeline_app.command("run")
def run_pipeline_command(
    config: PipelinePath,
    overrides: PipelineOverrides = None,
    first: Annotated[
        str | None, typer.Option("--from", help="do this stage and all that depend on it anew", metavar="STAGE")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="run no stage but this", metavar="STAGE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything and say what would be done")] = False,
) -> None:
    """Run all stages; what is done is skipped, what is half done goes on."""
    from rich.console import Console

    from r1ray.pipeline.spec import load_pipeline

    pipeline = load_pipeline(config, overrides or [])
    console = Console(highlight=False)
    from r1ray.pipeline.run import plan, run_pipeline
    from r1ray.pipeline.status import status_table

    if dry_run:
        rows = plan(pipeline, first=first, only=only)
        states = {stage.name: state for stage, state, _ in rows}
        console.print(status_table(pipeline, states, intentions={stage.name: what for stage, _, what in rows}))
        return
    report = run_pipeline(pipeline, first=first, only=only, say=lambda text: console.print(text, style="bold"))
    console.print(f"report: {report}", soft_wrap=True)


@pipeline_app.command("status")
def pipeline_status(
    config: PipelinePath,
    overrides: PipelineOverrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="for tools")] = False,
) -> None:
    """Show the graph of stages and how far each is."""
    from rich.console import Console

    from r1ray.pipeline.spec import load_pipeline
    from r1ray.pipeline.state import Inspector
    from r1ray.pipeline.status import states_as_json, status_table

    pipeline = load_pipeline(config, overrides or [])
    states = Inspector(pipeline).all()
    if as_json:
        typer.echo(states_as_json(pipeline, states))
    else:
        Console(highlight=False).print(status_table(pipeline, states))


def _no_run(run: str) -> R1RayError:
    from r1ray.errors import DataError

    return DataError(f"{run} is not a run directory: it has neither metrics.jsonl nor config.yaml")


def main() -> None:
    """Run the command line; errors meant for users are printed without a traceback."""
    try:
        app()
    except R1RayError as error:
        typer.echo(f"r1ray: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("r1ray: ended at once; the last checkpoint holds (resume=true)", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
