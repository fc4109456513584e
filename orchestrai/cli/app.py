"""The command line: which commands there are, and what becomes of their errors.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all succeeded, 1 some tasks failed, 2 bad input,
3 nothing could run, 4 refused by the budget or by the person, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from orchestrai.cli import batch, chains, costs, demo, plan, platforms, quota, render, resume, status, submit
from orchestrai.cli.running import BAD_INPUT, INTERRUPTED, NOTHING_RAN, REFUSED, SUCCEEDED
from orchestrai.errors import ConfirmationNeeded, InvalidInput, NotConfirmed, OrchestraiError
from orchestrai.text import printable
from orchestrai.version import __version__

_COMPLETION: Final = "_ORCHESTRAI_COMPLETE"  # how typer's shell completion calls
_READER_LEFT: Final = 141  # what a shell reports of a program whose reader has gone: 128 + SIGPIPE

# typer brings click along under changing names; the class of its complaints is the parent of the public one.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


app = typer.Typer(
    name="orchestrai",
    help="Send prompts to the cheapest AI that can answer them: durable, and with every cent on record.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
model_app = typer.Typer(help="Fetch the embedded demo model.")
model_app.command()(demo.fetch)


def main() -> None:
    """Run the command of this process's arguments and exit with its code."""
    # Which line of code warns means nothing here.
    warnings.formatwarning = lambda warning, *_, **__: f"Warning: {printable(str(warning))}\n"
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what it has to say is printed.

    Args:
        arguments: The words after `orchestrai`.
    """
    try:
        code = _invoke(list(arguments))
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_LEFT
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "orchestrai"
        render.error(f"{getattr(error, 'format_message', error.__str__)()} ({path} --help lists what there is.)")
        return BAD_INPUT
    except (InvalidInput, OSError) as error:
        render.error(str(error))
        return BAD_INPUT
    except ConfirmationNeeded as error:
        asked = " ".join(question.text for question in error.plan.questions)
        render.error(f"{asked} Nobody could answer, so nothing was sent; --yes agrees beforehand.")
        return REFUSED
    except NotConfirmed as error:
        render.error(str(error))
        return REFUSED
    except OrchestraiError as error:
        render.error(str(error))
        return NOTHING_RAN
    if code == INTERRUPTED:
        render.message("Interrupted. To go on, run the same command again: what is finished is kept.")
    return code


def _invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors leave it as they are, which typer's own `main` would change."""
    command = typer.main.get_command(app)
    if _COMPLETION in os.environ:  # the shell asks how a line could go on
        command.main(arguments, prog_name="orchestrai")
    try:
        with command.make_context("orchestrai", list(arguments), obj=arguments) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else SUCCEEDED


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"orchestrai {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Send prompts to the cheapest AI that can answer them: durable, and with every cent on record."""
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in (
    submit.submit,
    batch.batch,
    resume.resume,
    plan.plan,
    quota.quota,
    status.status,
    platforms.platforms,
    chains.chains,
    costs.costs,
    costs.prune,
    demo.demo,
):
    app.command()(command)
app.add_typer(model_app, name="model")

if __name__ == "__main__":
    main()
