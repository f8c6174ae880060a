"""Tests of the client and the example service, with a program in place of
lguest: it says what it was given, and does what a test wants."""

import fcntl
import http.client
import json
import os
import resource
import socket
import stat
import sys
import tempfile
import textwrap
import threading
import time
import unittest

import lguest_exec
import service

# Far more than anything here needs.
PATIENCE = 60

PROGRAM = """\
    #!{python} -S
    import base64, json, os, sys, time
    words = sys.argv[1:]
    command = words[words.index("--") + 1:]
    result = dict(reason="exited", exit_status=0, code=0, signal=None,
                  message=None, seconds=0.5, stdout="", stderr="")
    what = command[0]
    if what == "words":
        result["stdout"] = json.dumps(words)
    elif what == "cat":
        data = sys.stdin.buffer.read()
        del result["stdout"]
        result["stdout_base64"] = base64.b64encode(data).decode()
    elif what == "exit":
        result.update(code=int(command[1]), exit_status=int(command[1]))
    elif what == "late":
        result.update(reason="timeout", exit_status=124, code=None,
                      message="ended by --timeout")
    elif what == "broken":
        print(command[1])
        print("lguest: a reason", file=sys.stderr)
        sys.exit(3)
    elif what == "flood":
        while True:
            os.write(1, b"x" * 65536)
    elif what == "wait":
        # Says that it runs, and runs until it is killed.
        with open(command[1], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    elif what == "turn":
        folder = command[1]
        mine = os.path.join(folder, str(os.getpid()))
        open(mine, "w").close()
        result["stdout"] = str(len(os.listdir(folder)))
        time.sleep(0.005)
        os.remove(mine)
    print(json.dumps(result))
    """


def until(test, done):
    """Waits until `done` returns something true, and returns it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = done()
        if found:
            return found
        time.sleep(0.005)
    test.fail("it does not happen")


def text_of(path):
    """The text of a file, empty if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = scratch.name
        self.program = os.path.join(self.scratch, "lguest")
        text = textwrap.dedent(PROGRAM).format(python=sys.executable)
        with open(self.program, "w") as file:
            file.write(text)
        os.chmod(self.program, stat.S_IRWXU)

    def run_it(self, *command, **options):
        options.setdefault("image", "debian")
        options.setdefault("lguest", self.program)
        return lguest_exec.run(command, **options)

    def pid_in(self, path):
        return int(until(self, lambda: text_of(path)))


class Client(Case):
    def test_options_become_words(self):
        result = self.run_it(
            "words", "a b", "--json",
            env={"A": "b=c"}, cwd="/src", user="me:1", timeout=1.5,
            memory="64M", processes=9, file_limit=1 << 30,
            output_limit=1025, options=["--patience", "3s"],
        )
        expected = [
            "exec", "--json", "--image", "debian", "--env=A=b=c",
            "--cwd=/src", "--user=me:1", "--timeout=1500ms", "--memory=64M",
            "--file-limit=1048576K", "--output-limit=2K", "--processes=9",
            "--patience", "3s", "--", "words", "a b", "--json",
        ]
        self.assertEqual(json.loads(result.stdout), expected)
        for place, words in [
            ({"machine": "web"}, ["exec", "--json", "web", "--"]),
            ({"snapshot": "s"}, ["exec", "--json", "--snapshot", "s"]),
        ]:
            result = self.run_it("words", image=None, **place)
            self.assertEqual(json.loads(result.stdout)[:4], words)

    def test_wrong_words_are_refused(self):
        for options in [
            {"image": None},
            {"machine": "web"},
            {"image": "--snapshot=x"},
            {"image": "a\0b"},
            {"env": {"A=B": "c"}},
            {"env": {"": "c"}},
            {"cwd": "a\0b"},
        ]:
            with self.assertRaises(ValueError, msg=options):
                self.run_it("words", **options)
        with self.assertRaises(ValueError):
            lguest_exec.run([], image="debian")
        with self.assertRaises(lguest_exec.Error):
            self.run_it("words", lguest="/absent/lguest")

    def test_any_bytes_pass_through(self):
        data = bytes(range(256)) * 4096
        self.assertEqual(self.run_it("cat", input=data).stdout, data)
        # A command that does not read its input is no error.
        self.assertTrue(self.run_it("exit", "0", input=data).ok)

    def test_a_result_says_how_it_ended(self):
        result = self.run_it("exit", "7")
        self.assertEqual((result.code, result.reason), (7, "exited"))
        with self.assertRaises(lguest_exec.Failed) as raised:
            result.check()
        self.assertIs(raised.exception.result, result)
        self.assertIn("7", str(raised.exception))
        late = self.run_it("late")
        self.assertFalse(late.ok)
        self.assertEqual(late.sentence(), "ended by --timeout")
        self.assertTrue(self.run_it("exit", "0").check().ok)

    def test_what_is_no_result_is_an_error(self):
        for text in ["", "{", "[]", "{}", "[" * 100000, '{"reason": 1}']:
            with self.assertRaises(lguest_exec.Error) as raised:
                self.run_it("broken", text)
            self.assertIn("lguest: a reason", str(raised.exception))

    def test_a_result_without_end_is_cut_off(self):
        with self.assertRaises(lguest_exec.Error) as raised:
            self.run_it("flood", output_limit="1K")
        self.assertIn("too long", str(raised.exception))

    def test_it_ends_with_its_context(self):
        path = os.path.join(self.scratch, "pid")
        with lguest_exec.start(
            ["wait", path], image="debian", lguest=self.program
        ):
            pid = self.pid_in(path)
            self.assertTrue(is_alive(pid))
        self.assertFalse(is_alive(pid))


class Turns(unittest.TestCase):
    def test_clients_have_turns_in_a_circle(self):
        turns = service.Turns(1)
        first = turns.ask("a")
        self.assertTrue(first.is_set())
        many = [turns.ask("a") for _ in range(5)]
        one = turns.ask("b")
        order = []
        now, client = first, "a"
        while now is not None:
            turns.give_back(client, now)
            waiting = [("a", t) for t in many] + [("b", one)]
            new = [
                (c, t) for c, t in waiting if t.is_set() and t not in order
            ]
            client, now = new[0] if new else (None, None)
            if now is not None:
                order.append(now)
        self.assertEqual(order.index(one), 1)
        self.assertEqual(len(order), 6)
        self.assertEqual(turns.counts(), {"free": 1, "waiting": 0})

    def test_the_queue_is_bounded(self):
        turns = service.Turns(1, waiting=3, waiting_of_one=2)
        turns.ask("a")
        waiting = [turns.ask("a"), turns.ask("a")]
        self.assertRaises(service.Full, turns.ask, "a")
        turns.ask("b")
        self.assertRaises(service.Full, turns.ask, "c")
        # A request that does not wait any more makes room.
        turns.give_back("a", waiting[0])
        turns.ask("c")
        self.assertEqual(turns.counts(), {"free": 0, "waiting": 3})


class Served(Case):
    """A service that runs."""

    words = []

    def setUp(self):
        super().setUp()
        options = service.words().parse_args(
            ["--image=debian", "--at-once=2", "--port=0", *self.words,
             f"--lguest={self.program}"]
        )
        self.service = service.Service(("127.0.0.1", 0), options)
        self.port = self.service.server_address[1]
        thread = threading.Thread(target=self.service.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.service.server_close)
        self.addCleanup(self.service.shutdown)

    def connect(self, body, client="a", length=None, origin=None):
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE
        )
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"X-Client": client}
        if length is not None:
            headers["Content-Length"] = length
        if origin is not None:
            headers["Origin"] = origin
        connection.request("POST", "/run", body, headers)
        return connection

    def post(self, body, **options):
        connection = self.connect(body, **options)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer


class Service(Served):
    """A service behind a proxy."""

    words = ["--trust-x-client"]

    def test_a_request_has_its_result(self):
        status, answer = self.post({"command": ["cat"], "input": "hello"})
        self.assertEqual((status, answer["stdout"]), (200, "hello"))
        status, answer = self.post(
            {"command": ["words"], "timeout": 2, "env": {"A": "b"}}
        )
        words = json.loads(answer["stdout"])
        for word in ["--timeout=2000ms", "--env=A=b", "--memory=128M",
                     "--processes=64", "--output-limit=1M"]:
            self.assertIn(word, words)
        status, answer = self.post({"command": ["broken", ""]})
        self.assertEqual(status, 500)

    def test_a_hundred_at_once_run_two_at_a_time(self):
        folder = os.path.join(self.scratch, "turns")
        os.mkdir(folder)
        answers = []

        def one(number):
            body = {"command": ["turn", folder]}
            answers.append(self.post(body, client=f"c{number % 7}"))

        threads = [
            threading.Thread(target=one, args=(n,)) for n in range(100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(answers), 100)
        for status, answer in answers:
            self.assertEqual(status, 200, answer)
            self.assertIn(answer["stdout"], ["1", "2"])
        until(self, lambda: self.service.turns.counts()["free"] == 2)

    def test_a_request_that_makes_no_sense_is_refused(self):
        for body in [
            b"{",
            b"[]",
            b"[" * 100000,
            {"command": []},
            {"command": "ls"},
            {"command": ["a\0b"]},
            {"command": [1]},
            {"command": ["\ud800"]},
            {"command": ["cat"], "input": "\ud800"},
            {"command": ["words"], "timeout": 1e9},
            {"command": ["words"], "timeout": True},
            {"command": ["words"], "timeout": 0},
            {"command": ["words"], "env": {"A": 1}},
            {"command": ["words"], "image": "other"},
        ]:
            status, answer = self.post(body)
            self.assertEqual(status, 400, (body, answer))
        self.assertEqual(self.post(b"", length="x")[0], 411)
        self.assertEqual(self.post(b"", length="9999999")[0], 413)
        self.assertEqual(self.service.turns.counts()["free"], 2)

    def test_a_web_page_is_refused(self):
        body = {"command": ["exit", "0"]}
        for origin in ["http://a.example", "null"]:
            status, answer = self.post(body, origin=origin)
            self.assertEqual(status, 403, answer)

    def test_a_program_that_is_missing_is_an_error_of_the_service(self):
        os.remove(self.program)
        status, answer = self.post({"command": ["exit", "0"]})
        self.assertEqual(status, 500, answer)

    def test_a_client_with_a_high_descriptor_is_watched(self):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard <= 1024:
            self.skipTest("SKIPPED: no descriptor may be so high")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            high = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 1024)
            with socket.socket(fileno=high) as connection:
                self.assertFalse(service.is_gone(connection))
                theirs.close()
                self.assertTrue(service.is_gone(connection))

    def test_a_client_that_goes_ends_its_command(self):
        paths = [os.path.join(self.scratch, name) for name in "ab"]
        running = [self.connect({"command": ["wait", p]}) for p in paths]
        pids = [self.pid_in(path) for path in paths]
        waiting = self.connect({"command": ["exit", "0"]})
        counts = self.service.turns.counts
        until(self, lambda: counts()["waiting"] == 1)
        # One that waits goes, and then those that run.
        waiting.close()
        until(self, lambda: counts()["waiting"] == 0)
        for connection in running:
            connection.close()
        for pid in pids:
            until(self, lambda pid=pid: not is_alive(pid))
        until(self, lambda: counts()["free"] == 2)


class Connections(Served):
    """A service without a proxy: a client is an address."""

    def test_a_client_has_its_share_of_the_connections(self):
        of_one = self.service.connections_of_one
        self.assertLess(of_one, self.service.connections)
        idle = [
            socket.create_connection(("127.0.0.1", self.port), PATIENCE)
            for _ in range(of_one)
        ]
        self.addCleanup(lambda: [connection.close() for connection in idle])
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as c:
            self.assertEqual(c.recv(1), b"")
        # Another client is served.
        other = socket.create_connection(
            ("127.0.0.1", self.port), PATIENCE, ("127.0.0.2", 0)
        )
        with other:
            other.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            self.assertTrue(other.recv(100).startswith(b"HTTP/1.0 200"))
        # One that goes makes room.
        idle.pop().close()
        until(self, self.is_served)

    def is_served(self):
        try:
            with socket.create_connection(
                ("127.0.0.1", self.port), PATIENCE
            ) as connection:
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                return connection.recv(100).startswith(b"HTTP/1.0 200")
        except ConnectionError:
            return False

    def test_a_request_that_comes_drop_by_drop_is_not_waited_for(self):
        self.service.patience = 0.2
        with socket.create_connection(
            ("127.0.0.1", self.port), PATIENCE
        ) as slow:
            with self.assertRaises(ConnectionError):
                for _ in range(PATIENCE * 20):
                    slow.sendall(b"G")
                    time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
