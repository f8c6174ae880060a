"""An example service: HTTP in, a command in a fresh machine, its result out.

    python3 service.py --image debian --port 8080 --at-once 2

    curl -d '{"command": ["python3", "-c", "print(6*7)"]}' localhost:8080/run
    {"reason": "exited", "code": 0, "stdout": "42\\n", ...}

Each request gets a machine of its own, which ends with the command. At most
`--at-once` machines run; other requests wait. The queue is bounded (503 with
Retry-After when it is full), and fair: clients have turns in a circle, so that
a client with many requests delays another one by one request each round. A
client is known by its address, or by the header X-Client where a proxy in front
of the service sets it (`--trust-x-client`). When a client closes its
connection, its command ends.
"""

import argparse
import base64
import collections
import http.server
import io
import json
import os
import select
import socket
import sys
import threading
import time

import lguest_exec

LONGEST_BODY = 1 << 20
# A request has to arrive within so many seconds, and its answer to be read.
PATIENCE = 30
WAITING = 256
WAITING_OF_ONE = 128
# Connections for other requests than those that wait for their turn.
SPARE = 64
SPARE_OF_ONE = 16


class Full(Exception):
    """The queue takes no more."""


class Turns:
    """Gives turns to clients in a circle, so many at once."""

    def __init__(self, at_once, waiting=WAITING, waiting_of_one=WAITING_OF_ONE):
        self._lock = threading.Lock()
        self._free = at_once
        self._room = waiting
        self._room_of_one = waiting_of_one
        # Clients that wait, the next one first, and their requests.
        self._queues = collections.OrderedDict()
        self._waiting = 0

    def ask(self, client):
        """Asks for a turn. Returns an event, which is set when it comes."""
        turn = threading.Event()
        with self._lock:
            if self._free > 0 and not self._queues:
                self._free -= 1
                turn.set()
                return turn
            queue = self._queues.get(client, ())
            if self._waiting >= self._room or len(queue) >= self._room_of_one:
                raise Full
            self._queues.setdefault(client, collections.deque()).append(turn)
            self._waiting += 1
        return turn

    def give_back(self, client, turn):
        """Ends a turn, or the wait for it."""
        with self._lock:
            if not turn.is_set():
                queue = self._queues[client]
                queue.remove(turn)
                self._waiting -= 1
                if not queue:
                    del self._queues[client]
                return
            if not self._queues:
                self._free += 1
                return
            # The next client, which goes to the end if it has more.
            client, queue = self._queues.popitem(last=False)
            following = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[client] = queue
            following.set()

    def counts(self):
        with self._lock:
            return {"free": self._free, "waiting": self._waiting}


def is_gone(connection):
    """Whether a client has closed its connection. It sends nothing else."""
    # select() takes no descriptor from 1024 on.
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        return not connection.recv(1, flags)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Wrong(Exception):
    """A request that makes no sense."""


def asked(body, most_seconds):
    """The command and its options in the body of a request."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"the body is no JSON: {error}") from error
    known = {"command", "input", "timeout", "env", "cwd"}
    if not isinstance(found, dict) or not set(found) <= known:
        raise Wrong(f"the body has to be an object with {sorted(known)}")
    command = found.get("command")
    env = found.get("env", {})
    texts = [found.get("input", ""), found.get("cwd", "")]
    if (
        not isinstance(command, list)
        or not command
        or not isinstance(env, dict)
        or not all(isinstance(t, str) for t in texts + command)
        or not all(isinstance(t, str) for t in [*env.keys(), *env.values()])
    ):
        raise Wrong("'command' is a list of texts, 'env' has texts only")
    try:
        "".join([*texts, *command, *env.keys(), *env.values()]).encode()
    except UnicodeEncodeError as error:
        raise Wrong("a text has half of a surrogate pair in it") from error
    timeout = found.get("timeout", most_seconds)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise Wrong("'timeout' is a number of seconds")
    if not 0 < timeout <= most_seconds:
        raise Wrong(f"'timeout' is between 0 and {most_seconds} seconds")
    options = {"timeout": timeout, "env": env}
    if "cwd" in found:
        options["cwd"] = found["cwd"]
    return command, found.get("input", "").encode(), options


def shown(result):
    """A result as JSON. Bytes that are no text are base64."""
    fields = ["reason", "code", "signal", "message", "seconds"]
    answer = {name: getattr(result, name) for name in fields}
    for name in ("stdout", "stderr"):
        value = getattr(result, name)
        try:
            answer[name] = value.decode()
        except UnicodeDecodeError:
            answer[f"{name}_base64"] = base64.b64encode(value).decode()
    return answer


class Arriving(io.RawIOBase):
    """A request, which has to arrive by a deadline as a whole."""

    def __init__(self, connection, seconds):
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self):
        return True

    def readinto(self, buffer):
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request. There is a thread for each."""

    protocol_version = "HTTP/1.0"

    def setup(self):
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(
            Arriving(self.connection, self.server.patience)
        )

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except TimeoutError:
            self.close_connection = True

    def do_GET(self):
        if self.path == "/health":
            self.answer(200, self.server.turns.counts())
        else:
            self.answer(404, {"error": "POST /run, or GET /health"})

    def do_POST(self):
        if self.path != "/run":
            self.answer(404, {"error": "POST /run, or GET /health"})
            return
        # A browser names the page that makes it send the request. Any page
        # could use a service on its reader's machine.
        if "Origin" in self.headers:
            self.answer(403, {"error": "requests of web pages are refused"})
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            self.answer(411, {"error": "Content-Length is missing"})
            return
        if not 0 <= length <= LONGEST_BODY:
            self.answer(413, {"error": f"at most {LONGEST_BODY} bytes"})
            return
        body = self.rfile.read(length)
        if len(body) < length:
            return
        try:
            request = asked(body, self.server.options.timeout)
        except Wrong as error:
            self.answer(400, {"error": str(error)})
            return
        self.take_turn(*request)

    def take_turn(self, command, input, options):
        turns = self.server.turns
        client = self.client_address[0]
        if self.server.options.trust_x_client:
            client = self.headers.get("X-Client", client)
        try:
            turn = turns.ask(client)
        except Full:
            self.answer(503, {"error": "too many requests wait"}, "1")
            return
        try:
            while not turn.wait(timeout=0.1):
                if is_gone(self.connection):
                    return
            self.run(command, input, options)
        finally:
            turns.give_back(client, turn)

    def run(self, command, input, options):
        given = self.server.options
        try:
            running = lguest_exec.start(
                command,
                image=given.image,
                snapshot=given.snapshot,
                lguest=given.lguest,
                memory=given.memory,
                processes=given.processes,
                output_limit=given.output_limit,
                **options,
            )
        except ValueError as error:
            self.answer(400, {"error": str(error)})
            return
        except lguest_exec.Error as error:
            self.answer(500, {"error": str(error)})
            return
        with running:
            over = threading.Event()
            watch = threading.Thread(
                target=self.watch, args=(running, over), daemon=True
            )
            watch.start()
            try:
                result = running.communicate(input)
            except lguest_exec.Error as error:
                result = error
            finally:
                over.set()
                watch.join()
        if isinstance(result, lguest_exec.Error):
            self.answer(500, {"error": str(result)})
        else:
            self.answer(200, shown(result))

    def watch(self, running, over):
        """Ends a command whose client has gone."""
        while not over.wait(timeout=0.1):
            if is_gone(self.connection):
                running.kill()
                return

    def answer(self, code, value, retry_after=None):
        body = (json.dumps(value) + "\n").encode()
        self.connection.settimeout(self.server.patience)
        try:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if retry_after is not None:
                self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            # The client has gone.
            self.close_connection = True

    def log_message(self, format, *words):
        if self.server.options.verbose:
            text = (format % words).encode("unicode_escape").decode()
            print(f"{self.client_address[0]} {text}", file=sys.stderr)


class Service(http.server.ThreadingHTTPServer):
    """The server. Its threads end with it."""

    daemon_threads = True
    allow_reuse_address = True
    # So many clients may connect at the same moment.
    request_queue_size = 256
    # A thread is a connection. More are not accepted until one ends.
    connections = WAITING + SPARE
    # So many may be of one address, unless that is a proxy's.
    connections_of_one = WAITING_OF_ONE + SPARE_OF_ONE
    patience = PATIENCE

    def __init__(self, address, options):
        self.options = options
        self.turns = Turns(options.at_once)
        self._places = threading.BoundedSemaphore(self.connections)
        self._lock = threading.Lock()
        self._open = collections.Counter()
        super().__init__(address, Handler)

    def verify_request(self, request, client_address):
        """Whether a client may have one connection more."""
        if self.options.trust_x_client:
            return True
        with self._lock:
            return self._open[client_address[0]] < self.connections_of_one

    def process_request(self, request, client_address):
        self._places.acquire()
        with self._lock:
            self._open[client_address[0]] += 1
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave(client_address)
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(client_address)

    def _leave(self, client_address):
        client = client_address[0]
        with self._lock:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
        self._places.release()

    def handle_error(self, request, client_address):
        # A client that breaks off is no error of the service.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def words():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--image", help="an image of 'lguest image build'")
    where.add_argument("--snapshot", help="the folder of a snapshot")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--memory", default="128M")
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--output-limit", default="1M")
    parser.add_argument("--lguest", default="lguest")
    parser.add_argument("--trust-x-client", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    return parser


def main():
    options = words().parse_args()
    with Service((options.address, options.port), options) as service:
        host, port = service.server_address[:2]
        print(f"http://{host}:{port}/run", flush=True)
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
