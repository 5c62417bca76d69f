"""fullyconv <verb>: the command line.

Each verb is a file in `fullyconv.commands`. The package is imported inside the commands, so that `--help` answers
without importing torch. Options that are settings are made from their dataclass (`fullyconv.options`). Everything
for people goes to standard error, and standard output holds results only.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from fullyconv import __version__
from fullyconv.commands import cache
from fullyconv.commands.check import check
from fullyconv.commands.compare import compare
from fullyconv.commands.convert import convert
from fullyconv.commands.demo import demo
from fullyconv.commands.download import download
from fullyconv.commands.evaluate import evaluate
from fullyconv.commands.explain import explain
from fullyconv.commands.export import export
from fullyconv.commands.features import features
from fullyconv.commands.import_ import import_
from fullyconv.commands.info import info
from fullyconv.commands.predict import predict
from fullyconv.commands.pretrain import pretrain
from fullyconv.commands.publish import publish
from fullyconv.commands.report import report
from fullyconv.commands.serve import serve
from fullyconv.commands.train import train
from fullyconv.errors import FullyConvError

__all__ = ["app", "main"]

app = typer.Typer(
    name="fullyconv",
    help="Semantic segmentation with fully convolutional networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    download,
    check,
    features,
    train,
    pretrain,
    evaluate,
    report,
    compare,
    predict,
    export,
    serve,
    publish,
    convert,
    info,
    explain,
    demo,
):
    app.command()(verb)
app.command("import")(import_)
cache_app = typer.Typer(help="Show or empty the feature cache.", no_args_is_help=True)
cache_app.command()(cache.info)
cache_app.command()(cache.clear)
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Run the command line; the exit code is 0, 1 (failure), 2 (usage or data), 130 or 143."""
    # Threads that wait for each other by spinning take the processor from the one they wait for as soon as another
    # program runs; to sleep at once doubles the time of a step. So: spin for a fraction of a millisecond, then
    # sleep. It has to be said before torch loads OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _keep_freed_memory()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(standalone_mode=False)  # typer returns the code of an Exit, and 130 after Ctrl-C
    except FullyConvError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except _click_exception() as error:
        error.show()
        sys.exit(2)
    if code == 130:
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _keep_freed_memory() -> None:
    """Let the C library keep what torch frees.

    By itself glibc gives each block above 32 MB back to the system at once, and gets the next one page by page and
    zeroed: a quarter of the time of an image of three megapixels.
    """
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, largest)
        library.mallopt(mmap_threshold, 2**30)


def _terminated(number: int, frame: object) -> NoReturn:
    sys.exit(143)


def _click_exception() -> type[Any]:
    # typer brings its own copy of click's exceptions in some releases.
    return next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fullyconv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Semantic segmentation with fully convolutional networks."""
