"""The command line: the list of commands, and how errors are reported.

Each command is a plain typed function in commands/, imported when it is run: `relisten --help` imports no torch.
To add one, write the function there and name it here.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnknownCommandError, UnusedCliTokensError

from relisten import __version__
from relisten.commands.settings import from_yaml
from relisten.redact import redact

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
HELP = {"--help", "-h"}


def _shown(default: Any) -> str:
    """A default value as a user would type it."""
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default is None else str(default) or '""'


lists = Parameter(consume_multiple=True, negative_iterable=(), show_default=_shown)  # --rewards format accuracy
app = App(
    name="relisten",
    help="Ask questions about recordings, of a model that hears segments again while it reasons.",
    help_epilogue="Exit codes: 0 done, 1 no usable result, 2 wrong input. --debug shows where an error came from.",
    version=__version__,
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
    help_format="markdown",
)
train = App(name="train", help="Train a model.", config=from_yaml, default_parameter=lists)
data = App(name="data", help="Make training sets, and look at them.", config=from_yaml, default_parameter=lists)
export = App(name="export", help="Write a model or a set for another program.", default_parameter=lists)


def _add(group: App, function: str, help: str, *usage: str, name: str = "") -> None:
    """Add a command. usage: what follows the command's name, if not what cyclopts makes of the arguments."""
    name = name or function.rpartition(":")[2].replace("_", "-")
    typed = " ".join(dict.fromkeys(("relisten", group.name[0], name)))
    lines = "\n       ".join(f"{typed} {way}" for way in usage)
    group.command(f"relisten.{function}", name=name, help=help, usage=f"Usage: {lines}" if usage else None)


# fmt: off
_add(app, "commands.ask:ask", "Ask a question about a recording (or many, from a JSONL).",
     "AUDIO QUESTION [OPTIONS]", "QUESTIONS.jsonl [OPTIONS]")
_add(app, "data.worlds.scene_files:write_scenes", "Mix scenes of sounds at exact times, with questions.", name="scenes")
_add(app, "commands.eval:eval_file", "Answer a benchmark, or questions whose answers are known, and score.",
     "QUESTIONS.jsonl|BENCHMARK OUT [OPTIONS]", "--list", name="eval")
_add(app, "commands.score:score", "Score anybody's predictions, or a run's shards.")
_add(app, "commands.judge:judge", "Have a language model score a run's answers or reasoning.",
     "RUN... --judge MODEL [OPTIONS]")
_add(app, "commands.analyse:analyse", "Say how runs listened, and what their accuracy depends on.", "RUN... [OPTIONS]")
_add(app, "commands.compare:compare", "Compare two runs on the same questions.")
_add(app, "commands.leaderboard:leaderboard", "Print a Markdown table for a paper, a row for each run.",
     "RUN... [OPTIONS]")
_add(app, "commands.report:report", "Put runs on one page: tables, charts, examples to listen to.", "RUN... [OPTIONS]")
_add(train, "commands.train:sft", "Supervised fine-tuning on chains of thought.", "[SETTINGS.yaml] [OPTIONS]")
_add(train, "commands.train:grpo", "Reinforcement learning in which the segments are really heard.",
     "[SETTINGS.yaml] [OPTIONS]")
app.command(train)
_add(app, "commands.merge:merge", "Add a LoRA adapter to the weights of its base model.")
_add(data, "commands.data_build:build", "Make sets for SFT and RL from recordings with times.",
     "[SETTINGS.yaml] [OPTIONS]")
_add(data, "commands.data_join:join", "Join several built folders into one.", "OUT BUILD BUILD... [OPTIONS]")
_add(data, "commands.data_build:stats", "Say and draw what a built folder holds.")
_add(data, "commands.data_sources:list_sources", "List the corpora that can be read.", name="sources")
_add(data, "commands.data_files:show", "Show one example with its waveform.")
_add(data, "commands.data_files:validate", "Name every bad line of a JSONL.")
app.command(data)
_add(export, "commands.export:vllm", "Write a trained model in the layout that vLLM reads.", "MODEL OUT [OPTIONS]")
_add(export, "commands.export:ms_swift", "Write a training set in the form that ms-swift reads.", "SET OUT [OPTIONS]")
app.command(export)
_add(app, "commands.serve:serve", "Answer over HTTP: a page, and OpenAI's chat form.", "[OPTIONS]")
_add(app, "commands.doctor:doctor", "Say what is installed and whether a model answers.")
# fmt: on


def standalone(function: Callable[..., int], name: str) -> App:
    """A command line for one typed function, for scripts that should behave like `relisten`."""
    single = App(name=name, suppress_keyboard_interrupt=False, default_parameter=lists, help_format="markdown")
    single.default(function)
    return single


def main(tokens: Sequence[str] | None = None, commands: App = app) -> None:
    """The `relisten` script."""
    # If the caller has closed them (`>&-`), they are None, and every print would fail.
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ♪ shows ?, and no traceback
    sys.exit(run(sys.argv[1:] if tokens is None else tokens, commands))


def run(tokens: Sequence[str], commands: App = app) -> int:
    """Run one command and return the exit code. A user's mistake gives one line on stderr and code 2."""
    given = list(tokens)
    for name in ("COLUMNS", "LINES"):  # some terminals set them to 0 if they do not know
        if not os.environ.get(name, "80").strip("0"):
            del os.environ[name]
    debug = "--debug" in given or os.environ.get("RELISTEN_DEBUG", "0") not in ("", "0")
    given = [token for token in given if token != "--debug"]
    try:
        if HELP & set(given):
            _tell_all([token for token in given if token not in HELP], commands)
        code = commands(
            given, exit_on_error=False, print_error=False, result_action="print_non_int_return_int_as_exit_code"
        )
        sys.stdout.flush()
        return int(code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # Rich makes one of a broken pipe, for `--help | head`
        # The reader (head, less) has gone; without this the interpreter complains once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CycloptsError as error:
        return _fail(error, debug, lambda e: _wrong_usage(e, commands.name[0]))
    except ImportError as error:
        return _fail(error.__cause__ or error, debug, lambda e: f"{e}; `relisten doctor` says what to install")
    except OSError as error:
        return _fail(error, debug, _os_error)
    except MemoryError as error:
        return _fail(error, debug, lambda _: "there is not enough memory; take shorter recordings or fewer at a time")
    except ValueError as error:
        return _fail(error, debug)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own, named so that torch is not imported for it
            raise
        return _fail(error, debug)


def _tell_all(tokens: Sequence[str], commands: App) -> None:
    """Let the help of one command show its whole docstring. Lists of commands show the lines above, without imports."""
    _, apps, _ = commands.parse_commands(tokens)
    if apps[-1].default_command is not None:
        apps[-1].help = None


def _fail(error: BaseException, debug: bool, explain: Callable[[Any], str] = str) -> int:
    """Print one line on stderr. With --debug, raise the error instead."""
    if debug:
        raise error
    message = " ".join(redact(explain(error)).split()) or type(error).__name__
    line = "relisten: " + "".join(c if c.isprintable() else "�" for c in message)
    if "tqdm" in sys.modules:  # otherwise the line might be printed at the end of a progress bar
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)
    return USAGE_ERROR


def _os_error(error: OSError) -> str:
    """The file and the system's message; some errors have only one of them."""
    reason = error.strerror or str(error) or f"the system gives no reason ({type(error).__name__})"
    where = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(where)}: {reason}" if where else reason


def _wrong_usage(error: CycloptsError, name: str) -> str:
    """The message of cyclopts, and the command that prints the help."""
    names = [name, *(error.command_chain or [])]
    if isinstance(error, UnknownCommandError):
        # Cyclopts would import every command to suggest one.
        given = (error.unused_tokens or [""])[0]
        known = [name for name in (error.app or app) if not name.startswith("-")]
        nearest = difflib.get_close_matches(given, known, n=1)
        said = f"no command {given!r}; " + (
            f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(known)}"
        )
    elif isinstance(error, MissingArgumentError) and error.argument and not (error.keyword or error.argument.tokens):
        said = f"{error.argument.name} is missing"
    elif isinstance(error, UnusedCliTokensError):
        said = f"too many arguments ({' '.join(error.unused_tokens or [])}); put a text of several words in quotes"
    else:
        said = str(error).rstrip(".")
    return f"{said} (see {' '.join(names)} --help)"


if __name__ == "__main__":
    main()
