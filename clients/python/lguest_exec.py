"""Runs commands in fresh Linux machines, by the command `lguest exec`.

One file, and nothing but Python's own library (3.9 or later).

    import lguest_exec

    result = lguest_exec.run(["python3", "-c", "print(6*7)"], image="debian",
                             timeout=10, memory="256M")
    print(result.stdout)            # b'42\\n'
    result.check()                  # raises Failed unless it exited with 0

    with lguest_exec.start(["sleep", "60"], image="debian") as running:
        running.kill()              # the machine is gone, too

The command is used, and not the control socket: it starts the machine, ends it
with the command, and is killed with it.
"""

import base64
import binascii
import dataclasses
import json
import os
import subprocess
import threading

__all__ = ["Error", "Failed", "Result", "Running", "run", "start"]

# The most of the result that is read. `lguest exec` keeps 16 MiB of output
# unless `output_limit` says another size; JSON makes at most six times as much
# of a byte.
_OUTPUT = 16 << 20
_LONGEST = 6
_MORE = 1 << 16
_PIECE = 1 << 16

_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Error(Exception):
    """`lguest exec` cannot be run, or has answered what is no result."""


class Failed(Error):
    """A command has not exited with 0."""

    def __init__(self, result):
        super().__init__(result.sentence())
        self.result = result


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command has ended."""

    #: The word of `lguest exec`: exited, signal, timeout, output-limit,
    #: interrupted, failed, lost, not-started.
    reason: str
    #: The exit code of `lguest exec`.
    exit_status: int
    #: The exit code of the command, if it has exited.
    code: "int | None"
    #: The signal that has ended the command, if one has.
    signal: "int | None"
    stdout: bytes
    stderr: bytes
    #: What `lguest exec` has to say, if anything.
    message: "str | None"
    #: The time of all of it, and what the agent says of the command.
    seconds: float
    command_seconds: "float | None"
    user_seconds: "float | None"
    system_seconds: "float | None"
    max_rss_kib: "int | None"

    @property
    def ok(self):
        """Whether the command has exited with 0."""
        return self.reason == "exited" and self.code == 0

    def check(self):
        """Returns the result, or raises `Failed` unless it is `ok`."""
        if not self.ok:
            raise Failed(self)
        return self

    def sentence(self):
        """How it has ended, in words."""
        if self.message:
            return self.message
        if self.reason == "exited":
            return f"the command exited with {self.code}"
        if self.reason == "signal":
            return f"the command was ended by signal {self.signal}"
        return f"the command has no result: {self.reason}"


def run(command, input=b"", **options):
    """Runs `command` (a list of words) to its end, and returns its `Result`.

    `input` is given to it as standard input. The options are those of `start`.
    """
    with start(command, **options) as running:
        return running.communicate(input)


def start(
    command,
    *,
    machine=None,
    image=None,
    snapshot=None,
    env=None,
    cwd=None,
    user=None,
    timeout=None,
    memory=None,
    processes=None,
    file_limit=None,
    output_limit=None,
    options=(),
    lguest="lguest",
):
    """Starts `command`, and returns a `Running`.

    One of `machine` (a name), `image` (a name) and `snapshot` (a folder) says
    where. `timeout` is a number of seconds, and sizes are texts as "64M" or
    numbers of bytes. `options` are further words for `lguest exec`, and
    `lguest` is the program.
    """
    words = [os.fspath(lguest), "exec", "--json"]
    places = [
        (machine, []),
        (image, ["--image"]),
        (snapshot, ["--snapshot"]),
    ]
    given = [(value, option) for value, option in places if value is not None]
    if len(given) != 1:
        raise ValueError("give one of machine, image and snapshot")
    command = [_text(word) for word in command]
    if not command:
        raise ValueError("give a command")
    value, option = given[0]
    value = _text(value)
    if value.startswith("-"):
        raise ValueError(f"{value!r} would be an option")
    words += option + [value]
    for name, value in (env or {}).items():
        if not name or "=" in name:
            raise ValueError(f"{name!r} is no name of a variable")
        words.append(f"--env={_text(name)}={_text(value)}")
    if cwd is not None:
        words.append(f"--cwd={_text(cwd)}")
    if user is not None:
        words.append(f"--user={_text(user)}")
    if timeout is not None:
        # Zero would be no limit for no program, and is too little for all.
        words.append(f"--timeout={max(1, round(timeout * 1000))}ms")
    for name, size in [
        ("memory", memory),
        ("file-limit", file_limit),
        ("output-limit", output_limit),
    ]:
        if size is not None:
            words.append(f"--{name}={_size(size)}")
    if processes is not None:
        words.append(f"--processes={int(processes)}")
    words += [_text(word) for word in options]
    kept = _OUTPUT if output_limit is None else _bytes(output_limit)
    return Running(words + ["--"] + command, kept)


class Running:
    """A command that runs. As a context, it ends with it."""

    def __init__(self, words, kept):
        self._most = _LONGEST * kept + _MORE
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except (OSError, ValueError) as error:
            raise Error(f"{words[0]}: it cannot be started: {error}") from error

    def communicate(self, input=b""):
        """Gives it `input`, waits for its end, and returns its `Result`."""
        process = self._process
        said = []
        threads = [
            threading.Thread(target=self._feed, args=(input,), daemon=True),
            threading.Thread(target=self._hear, args=(said,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        text = self._read(process.stdout, self._most)
        if len(text) > self._most:
            self.kill()
            raise Error("lguest exec: its result is too long")
        status = process.wait()
        for thread in threads:
            thread.join()
        return _result(text, status, b"".join(said))

    def kill(self):
        """Ends it at once. Its machine ends with it, if that is its own."""
        self._process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        process = self._process
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            try:
                stream.close()
            except OSError:
                # What was not written yet is of no use any more.
                pass

    def _feed(self, input):
        stream = self._process.stdin
        try:
            stream.write(input)
            stream.close()
        except (OSError, ValueError):
            # A command need not read its input.
            pass

    def _hear(self, said):
        # What it says is short. The rest is read, so that it does not block.
        stream = self._process.stderr
        said.append(self._read(stream, _MORE)[:_MORE])
        try:
            while stream.read(_PIECE):
                pass
        except (OSError, ValueError):
            pass

    @staticmethod
    def _read(stream, most):
        """Reads to the end, or a little more than `most` bytes."""
        parts, length = [], 0
        try:
            while length <= most:
                part = stream.read1(_PIECE)
                if not part:
                    break
                parts.append(part)
                length += len(part)
        except (OSError, ValueError):
            pass
        return b"".join(parts)


def _result(text, status, said):
    """The result in the JSON of `lguest exec`."""
    said = said.decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
        return Result(
            reason=str(found["reason"]),
            exit_status=int(found["exit_status"]),
            code=found.get("code"),
            signal=found.get("signal"),
            stdout=_output(found, "stdout"),
            stderr=_output(found, "stderr"),
            message=found.get("message"),
            seconds=float(found["seconds"]),
            command_seconds=found.get("command_seconds"),
            user_seconds=found.get("user_seconds"),
            system_seconds=found.get("system_seconds"),
            max_rss_kib=found.get("max_rss_kib"),
        )
    except (
        AttributeError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
        binascii.Error,
    ) as error:
        why = said or f"no result ({error!r})"
        raise Error(f"lguest exec ended with {status}: {why}") from error


def _output(found, name):
    if f"{name}_base64" in found:
        return base64.b64decode(found[f"{name}_base64"], validate=True)
    return found[name].encode("utf-8")


def _text(word):
    """A word of a command line, which has no zero byte in it."""
    text = os.fsdecode(os.fspath(word))
    if "\0" in text:
        raise ValueError(f"{text!r} has a zero byte in it")
    return text


def _size(size):
    """A size as `lguest exec` takes it."""
    if isinstance(size, int):
        return f"{max(1, -(-size // 1024))}K"
    return _text(size)


def _bytes(size):
    """A size as a number of bytes."""
    if isinstance(size, int):
        return size
    number = size.rstrip("KMGBikmgb")
    unit = size[len(number):][:1].upper()
    return int(number) * _UNITS[unit]
